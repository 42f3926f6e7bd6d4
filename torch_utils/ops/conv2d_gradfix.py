"""Convolutions whose second derivatives are convolutions, and a switch that leaves gradients of weights out.

Input x, weight w and output y of a convolution stand in one trilinear form T(x, w, y) = <conv(x, w), y>. From any two
of them T gives the third: the output from (x, w), the input's gradient from (w, y), the weight's gradient from (x, y).
Each of these three maps is bilinear, and its derivatives are the other two, so they close under differentiation. A
transposed convolution is the second of them.

Stock second derivatives express the weight's part as a convolution with the image for a kernel. That is slower (R1 on
one 3x3 layer takes 1 to 2 times as long), and on CPUs in bfloat16 its values are wrong (torch 2.13: relative error 0.75
for 64 channels at 32x32; tests/ops/test_ops_conv2d_gradfix.py has the case).
"""
import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

Pair = int | Sequence[int]          # For both axes, or (y, x).
_weight_gradients = True


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within, backward passes through the convolutions of this file yield no gradient for their weights.

    A saving for `torch.autograd.grad(..., inputs=images)`: an autograd function is not told that only the images were
    asked for. (Products of matrices, see `_is_product`, are told, and yield what is asked for.) Concerns all threads; the
    former setting comes back on leaving, also by an exception.
    """
    global _weight_gradients
    former, _weight_gradients = _weight_gradients, False
    try:
        yield
    finally:
        _weight_gradients = former


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
           dilation: Pair = 1, groups: int = 1) -> Tensor:
    """`torch.nn.functional.conv2d` for [N, C, H, W] and numeric padding; differentiable any number of times."""
    _check(input, weight)
    form = _Form(_pair(stride), _pair(padding), _pair(dilation), groups)
    convolve = _mix_channels if _is_product(input, weight, form) else _Output.apply
    return _add_bias(convolve(input, weight, form), bias)


def conv_transpose2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
                     output_padding: Pair = 0, groups: int = 1, dilation: Pair = 1) -> Tensor:
    """`torch.nn.functional.conv_transpose2d` for [N, C, H, W]; differentiable any number of times."""
    _check(input, weight)
    form = _Form(_pair(stride), _pair(padding), _pair(dilation), groups)
    size = [form.full_size(axis, input, weight) + extra for axis, extra in enumerate(_pair(output_padding))]
    return _add_bias(_Input.apply(weight, input, form, size), bias)


class _Form(NamedTuple):
    """The trilinear form: what a convolution is besides its tensors. Pairs are (y, x)."""
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def full_size(self, axis, y, w):
        """The smallest size of x along an axis (0, 1) that yields the size of y there."""
        reach = self.dilation[axis] * (w.shape[2 + axis] - 1) + 1
        return (y.shape[2 + axis] - 1) * self.stride[axis] + reach - 2 * self.padding[axis]


class _Output(torch.autograd.Function):
    """y from (x, w)."""
    @staticmethod
    def forward(ctx, x, w, form):
        ctx.save_for_backward(x, w)
        ctx.form = form
        return F.conv2d(x, w, None, *form)

    @staticmethod
    def backward(ctx, y):
        x, w = ctx.saved_tensors
        needs_x, needs_w, _ = ctx.needs_input_grad
        dx = _Input.apply(w, y, ctx.form, x.shape[2:]) if needs_x else None
        dw = _Weight.apply(x, y, ctx.form, w.shape) if needs_w and _weight_gradients else None
        return dx, dw, None


class _Input(torch.autograd.Function):
    """x from (w, y); the sizes of y leave that of x open by less than a stride, hence `size` (h, w)."""
    @staticmethod
    def forward(ctx, w, y, form, size):
        ctx.save_for_backward(w, y)
        ctx.form = form
        extra = [size[axis] - form.full_size(axis, y, w) for axis in (0, 1)]
        return F.conv_transpose2d(y, w, None, form.stride, form.padding, extra, form.groups, form.dilation)

    @staticmethod
    def backward(ctx, x):
        w, y = ctx.saved_tensors
        needs_w, needs_y, _, _ = ctx.needs_input_grad
        dw = _Weight.apply(x, y, ctx.form, w.shape) if needs_w and _weight_gradients else None
        dy = _Output.apply(x, w, ctx.form) if needs_y else None
        return dw, dy, None, None


class _Weight(torch.autograd.Function):
    """w from (x, y)."""
    @staticmethod
    def forward(ctx, x, y, form, shape):
        ctx.save_for_backward(x, y)
        ctx.form = form
        return conv2d_weight(x, shape, y, *form)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        needs_x, needs_y, _, _ = ctx.needs_input_grad
        dx = _Input.apply(w, y, ctx.form, x.shape[2:]) if needs_x else None
        dy = _Output.apply(x, w, ctx.form) if needs_y else None
        return dx, dy, None, None


def _is_product(x, w, form):
    """A product of two matrices, without moving anything? On CPUs this is up to twice as fast as convolving."""
    return (w.shape[2:] == (1, 1) and form.stride == (1, 1) and form.padding == (0, 0) and form.groups == 1
            and x.device.type == 'cpu' and x.is_contiguous(memory_format=torch.channels_last))


def _mix_channels(x, w, form):
    """Convolution with a 1x1 kernel: every pixel's channels times a matrix."""
    return (x.permute(0, 2, 3, 1) @ w.flatten(1).t()).permute(0, 3, 1, 2)


def _check(x, w):
    assert x.ndim == 4 and w.ndim == 4, f'input {list(x.shape)}, weight {list(w.shape)}: both must have four axes'
    assert x.dtype == w.dtype, f'input is {x.dtype}, weight is {w.dtype}'


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _add_bias(y, bias):
    return y if bias is None else y + bias[:, None, None]
