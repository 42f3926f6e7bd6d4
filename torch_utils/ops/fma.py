"""Multiply and add in one pass over memory."""
import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c with broadcasting, differentiable any number of times in all three.

    In the networks: activations [N, C, H, W], demodulation [N, C, 1, 1], noise [N, 1, H, W] or [H, W].
    """
    return _MultiplyAdd.apply(a, b, c)


class _MultiplyAdd(torch.autograd.Function):
    """Stock derivatives of addcmul multiply a and b by its factor `value`, that is by 1, in a pass of their own each."""
    @staticmethod
    def forward(ctx, a, b, c):
        ctx.save_for_backward(a, b)
        ctx.shape = c.shape
        return torch.addcmul(c, a, b)

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        needs_a, needs_b, needs_c = ctx.needs_input_grad
        return ((dy * b).sum_to_size(a.shape) if needs_a else None,
                (dy * a).sum_to_size(b.shape) if needs_b else None,
                dy.sum_to_size(ctx.shape) if needs_c else None)
