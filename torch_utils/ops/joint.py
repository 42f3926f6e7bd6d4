"""Two operators in one pass over memory, on GPUs; elsewhere they are the two operators.

    filtered_beside     x, and x filtered, whose gradients are added while one of them is filtered back
    act_filtered        bias_act, then a filter; what is between them is not kept, but formed again
    FilteredLayer       a filter, then scale_bias_act

All have derivatives of first and second order.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_utils.ops import backend
from torch_utils.ops.bias_act import bias_act, is_one_kernel, options_of, widened
from torch_utils.ops.upfirdn2d import Axis, filter_size, parse_padding, upfirdn2d

ONE = [1, 1]


def is_here(x: Tensor, act: str, fir: dict[str, Any], impl: str = 'auto') -> bool:
    """Is there a kernel for images like these, this activation, and a filter by these arguments of `upfirdn2d`?"""
    rates = fir.get('up', 1), fir.get('down', 1)
    return (fir['f'] is not None and fir['f'].ndim == 2 and rates == (1, 1) and is_one_kernel(x, act)
            and backend.use_native(impl, x) and backend.has_layer_act(x.device.type))


def filtered_beside(x: Tensor, f: Tensor | None, down: int, padding: Any,
                    flip_filter: bool = False) -> tuple[Tensor, Tensor]:
    """x [N, C, H, W] itself, for what else it is needed, and `upfirdn2d` of it."""
    fir = {'f': f, 'padding': parse_padding(padding), 'flip_filter': flip_filter}
    if not is_here(x, 'linear', fir):
        return x, upfirdn2d(x, down=down, **fir)
    return _Beside.apply(x, f, (down, down), fir['padding'], flip_filter)


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f, down, padding, flip_filter):
        ctx.save_for_backward(f)
        ctx.arguments = x.shape[:1:-1], down, padding, flip_filter
        ctx.set_materialize_grads(False)
        return x, torch.ops.stylegan2_loss_zoo.upfirdn2d(x, f, ONE, list(down), list(padding), flip_filter, 1.0)

    @staticmethod
    def backward(ctx, dx, dy):
        f, = ctx.saved_tensors
        sizes, down, padding, flip_filter = ctx.arguments
        if dy is not None:
            back = f, list(down), ONE, transposed(padding, f, sizes, down), not flip_filter
            alone = torch.ops.stylegan2_loss_zoo.upfirdn2d
            dx = alone(dy, *back, 1.0) if dx is None else _Add.apply(dy, *back, dx)
        return dx, None, None, None, None


class _Add(torch.autograd.Function):
    """`upfirdn2d`, and another image added to its result."""
    @staticmethod
    def forward(ctx, x, f, up, down, padding, flip_filter, base):
        ctx.save_for_backward(f)
        ctx.arguments = x.shape[:1:-1], up, down, padding, flip_filter
        return torch.ops.stylegan2_loss_zoo.filter_add(x, f, up, down, padding, flip_filter, 1.0, base)

    @staticmethod
    def backward(ctx, dy):
        f, = ctx.saved_tensors
        sizes, up, down, padding, flip_filter = ctx.arguments
        back = transposed(padding, f, sizes, down, up)
        dx = torch.ops.stylegan2_loss_zoo.upfirdn2d(dy, f, down, up, back, not flip_filter, 1.0)
        return dx, None, None, None, None, None, dy


def act_filtered(x: Tensor, activation: dict[str, Any] | None, fir: dict[str, Any]) -> Tensor:
    """`bias_act` with the arguments `activation`, if there are any, then `upfirdn2d` with the arguments `fir`."""
    if activation is None:
        return upfirdn2d(x, **fir)
    if not is_here(x, activation['act'], fir):
        return upfirdn2d(bias_act(x, **activation), **fir)
    options = options_of(activation['act'], gain=activation.get('gain'), clamp=activation.get('clamp'))
    place = list(parse_padding(fir['padding'])), fir['flip_filter'], float(fir.get('gain', 1))
    return _ActFiltered.apply(x, activation['b'], fir['f'], place, options)


class _ActFiltered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, f, place, options):
        ctx.save_for_backward(x, b, f)
        ctx.place, ctx.options = place, options
        return torch.ops.stylegan2_loss_zoo.act_filter(x, widened(b, x), f, *place, *options)

    @staticmethod
    def backward(ctx, dy):
        x, b, f = ctx.saved_tensors
        ops, bias = torch.ops.stylegan2_loss_zoo, widened(b, x)
        if torch.is_grad_enabled():
            d = filtered_back(dy, f, ctx.place, x)
            dx, (_, sums, _) = ops.layer_act_grad(d, None, x, None, None, None, bias, *ctx.options)
        else:
            dx, sums = ops.act_filter_grad(dy, x, bias, f, *way_back(f, ctx.place, x), *ctx.options)
        d_b = sums.sum(0).to(b.dtype) if b is not None and ctx.needs_input_grad[1] else None
        return dx, d_b, None, None, None


class FilteredLayer(torch.autograd.Function):
    """A filter, then `layer_act`. Without second derivatives what was filtered is not formed again."""
    @staticmethod
    def forward(ctx, x, f, scale, noise, strength, b, place, options):
        y = torch.ops.stylegan2_loss_zoo.filter_layer_act(x, f, *place, scale, noise, strength, b, *options)
        ctx.save_for_backward(x, f, scale, noise, strength, b, y)
        ctx.place, ctx.options = place, options
        return y

    @staticmethod
    def backward(ctx, dy):
        x, f, scale, noise, strength, b, y = ctx.saved_tensors
        ops = torch.ops.stylegan2_loss_zoo
        if torch.is_grad_enabled():
            filtered = ops.upfirdn2d(x, f, ONE, ONE, *ctx.place)
            d, sums = ops.layer_act_grad(dy, y, filtered, scale, noise, None, None, *ctx.options)
        else:
            d, sums = ops.layer_act_grad(dy, y, None, scale, noise, strength, b, *ctx.options)
        _, _, needs_scale, _, needs_strength, needs_b, *_ = ctx.needs_input_grad
        return (filtered_back(d, f, ctx.place, x), None, sums[0] if needs_scale else None, None,
                sums[2].sum() if needs_strength else None, sums[1].sum(0) if needs_b else None, None, None)


def filtered_back(dy: Tensor, f: Tensor, place: tuple[list[int], bool, float], x: Tensor) -> Tensor:
    """The gradient of x, which was filtered, from that of the result."""
    return torch.ops.stylegan2_loss_zoo.upfirdn2d(dy, f, ONE, ONE, *way_back(f, place, x))


def way_back(f: Tensor, place: tuple[list[int], bool, float], x: Tensor) -> tuple[list[int], bool, float]:
    """(padding, flip_filter, gain) of the filter that leads back to x."""
    padding, flip_filter, gain = place
    return transposed(padding, f, x.shape[:1:-1]), not flip_filter, gain


def transposed(padding: Any, f: Tensor, sizes: Any, down: Any = (1, 1), up: Any = (1, 1)) -> list[int]:
    """The padding of the transposed operator; sizes (width, height) of what it leads back to."""
    found = []
    for i, (size, taps) in enumerate(zip(sizes, filter_size(f))):
        back = Axis(up[i], down[i], padding[2 * i], padding[2 * i + 1]).transpose(size, taps)
        found += [back.before, back.after]
    return found
