"""Multiply and add in one pass over memory."""
import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c with broadcasting, twice differentiable in all three.

    In the networks: activations [N, C, H, W], demodulation [N, C, 1, 1], noise [N, 1, H, W] or [H, W].
    """
    return torch.addcmul(c, a, b)
