"""What modulated convolutions have before they convolve: kernels, styles, and factors of channels that demodulate.

First of one layer. Then of several at once, in few calls, as GPUs want it, to rounding the same; there, for a layer
with weight W [O,I,kh,kw] and styles s [N,I],

    W' = m W        m[o] = 1 / (sqrt(I kh kw) max |W[o]|) in float16, so that sums cannot overflow, else 1
    s' = c s        c[n] = 1 / max |s[n]| in float16, else 1; demodulation cancels both: they have no gradients
    d  = (S P' + eps)^(-1/2)                with S = s'^2 and P = sum over the kernel of W'^2 [O,I]

With h = -d^3 dL/dd the gradients of d are s' * (h P) and W' * (h' S). What all layers have of one kind lies in one
piece of memory, `flat`, so that one call does for all.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_utils import misc


def prenormalize(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scales weights and styles so that float16 sums cannot overflow; demodulation cancels the factors."""
    with torch.no_grad():       # For this reason they have no gradient, either.
        largest_weight = torch.linalg.vector_norm(weight, math.inf, dim=[1, 2, 3], keepdim=True)
        largest_style = torch.linalg.vector_norm(styles, math.inf, dim=1, keepdim=True)
    return weight / (largest_weight * math.sqrt(weight[0].numel())), styles / largest_style


def demodulation(weight: Tensor, styles: Tensor, eps: float) -> Tensor:
    """d [N, O].

    The sum over the kernel does not depend on the sample, so no weights per sample are formed.
    """
    return _Demodulation.apply(weight, styles, eps)


class _Demodulation(torch.autograd.Function):
    """d = (S P' + eps)^(-1/2) with S = styles^2 [N, I] and P = sum over the kernel of weight^2 [O, I].

    With h = -d^3 dL/dd the gradients are styles * (h P) and weight * (h' S):
    half of what stock derivatives run, which are multiplied by 2 and 1/2 in passes of their own.
    """
    @staticmethod
    def forward(ctx, weight, styles, eps):
        ctx.squares, ctx.power = styles.square(), _power(weight)
        d = (ctx.squares @ ctx.power.t()).add_(eps).rsqrt_()
        ctx.save_for_backward(weight, styles, d)
        return d

    @staticmethod
    def backward(ctx, grad):
        weight, styles, d = ctx.saved_tensors
        squares, power = ctx.squares, ctx.power
        if torch.is_grad_enabled():                     # These have derivatives.
            squares, power = styles.square(), _power(weight)
        h = -(grad * d.pow(3))
        needs_weight, needs_styles, _ = ctx.needs_input_grad
        d_weight = weight * (squares.t() @ h).t()[:, :, None, None] if needs_weight else None
        return d_weight, styles * (h @ power) if needs_styles else None, None


def _power(weight):
    """[O, I] Sum of squares over the kernel."""
    return weight.flatten(2).square().sum(dim=2)


# Of several layers.


class Modulation(NamedTuple):
    """Styles [N,I]; factors of channels [N,O]; the kernel [O,I,kh,kw], None where it is the weight."""
    styles: Tensor
    demod: Tensor
    kernel: Tensor | None


def modulations(weights: Sequence[Tensor], styles: Sequence[Tensor], dtypes: Sequence[torch.dtype],
                eps: float) -> list[Modulation]:
    """Those of layers that compute in these types.

    Layers of float16, and all others, are worked on together: a weight's gradient is there when those of its group are.
    """
    found = {}
    for is_half in (True, False):
        group = [i for i, dtype in enumerate(dtypes) if (dtype == torch.float16) == is_half]
        if group:
            made = _Modulations.apply(is_half, eps, *(weights[i] for i in group), *(styles[i] for i in group))
            own, demod, kernels = (made[i * len(group):(i + 1) * len(group)] for i in range(3))
            found.update(zip(group, map(Modulation, own, demod, kernels or [None] * len(group))))
    return [found[i] for i in range(len(weights))]


def matrices_of(layers: Sequence[Any], styles: Sequence[Tensor],
                dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """What ToRGB layers of one pixel multiply pixels with, [N, out_channels, in_channels], of all in few calls.

    styles: what their affine layers yield. dtypes: of the results; layers of one type are neighbours.
    """
    sizes = [style.shape[1] for style in styles]
    gains = [layer.weight_gain for layer, size in zip(layers, sizes) for _ in range(size)]
    gains = misc.constant(gains, dtype=styles[0].dtype, device=styles[0].device)
    factors = torch.cat(list(styles), dim=1) * gains
    every = torch.cat([layer.weight.flatten(1) for layer in layers], dim=1) * factors[:, None]
    found, place = [], 0
    for dtype in dict.fromkeys(dtypes):
        group = [size for size, other in zip(sizes, dtypes) if other == dtype]
        found += every[:, :, place:place + sum(group)].to(dtype).split(group, dim=2)
        place += sum(group)
    return found


class _Modulations(torch.autograd.Function):
    """W and s of some layers -> s', d and, in float16, W' in that type."""
    @staticmethod
    def forward(ctx, is_half, eps, *tensors):
        ctx.set_materialize_grads(False)
        num = len(tensors) // 2
        weights, styles = tensors[:num], tensors[num:]
        ctx.m, ctx.c = _scales(weights, styles) if is_half else (None, None)
        ctx.flat_styles, own = _pieces([s.shape for s in styles], styles[0])
        if is_half:
            for s, c, part in zip(styles, ctx.c, own):
                torch.mul(s, c, out=part)
        else:
            torch.cat([s.flatten() for s in styles], out=ctx.flat_styles)
        flat_power, ctx.power = _pieces([w.shape[:2] for w in weights], weights[0])
        for i, part in enumerate(ctx.power):
            torch.linalg.vector_norm(weights[i], dim=[2, 3], out=part)
            if is_half:
                part.mul_(ctx.m[i][:, :, 0, 0])
        flat_power.square_()
        ctx.squares = _cut(ctx.flat_styles.square(), styles)
        ctx.flat_demod, demod = _pieces([[len(s), len(w)] for s, w in zip(styles, weights)], styles[0])
        for squares, power, part in zip(ctx.squares, ctx.power, demod):
            torch.mm(squares, power.t(), out=part)
        ctx.flat_demod.add_(eps).rsqrt_()
        kernels = [torch.mul(w, m, out=torch.empty_like(w, dtype=torch.float16))
                   for w, m in zip(weights, ctx.m or [])]
        ctx.save_for_backward(*tensors, *demod)
        return *own, *demod, *kernels

    @staticmethod
    def backward(ctx, *grads):
        num = len(ctx.saved_tensors) // 3
        weights, styles, demod = (ctx.saved_tensors[i * num:(i + 1) * num] for i in range(3))
        d_own, d_demod, d_kernels = grads[:num], grads[num:2 * num], grads[2 * num:] or [None] * num
        d_own = [torch.zeros_like(s) if d is None else d for d, s in zip(d_own, styles)]
        d_demod = [torch.zeros_like(s) if d is None else d for d, s in zip(d_demod, demod)]
        needs = ctx.needs_input_grad[2:2 + num]
        if not torch.is_grad_enabled():
            return None, None, *_gradients(ctx, weights, d_own, d_demod, d_kernels, needs)
        scales = ctx.m or [1] * num, ctx.c or [1] * num
        each = zip(weights, styles, demod, d_own, d_demod, d_kernels, *scales, needs)
        d_weights, d_styles = zip(*(_differentiable_gradients(*layer) for layer in each))
        return None, None, *d_weights, *d_styles


def _gradients(ctx, weights, d_own, d_demod, d_kernels, needs):
    """Of all weights, and then of all styles."""
    h = _cut((torch.cat([d.flatten() for d in d_demod]) * ctx.flat_demod.pow(3)).neg_(), d_demod)
    flat_products, products = _pieces([d.shape for d in d_own], d_own[0])
    for one, power, part in zip(h, ctx.power, products):
        torch.mm(one, power, out=part)
    flat_own = torch.cat([d.flatten() for d in d_own])
    d_styles = _cut(torch.addcmul(flat_own, ctx.flat_styles, flat_products), d_own)
    if ctx.c is not None:
        d_styles = [d * c for d, c in zip(d_styles, ctx.c)]
    d_weights = []
    for i, weight in enumerate(weights):
        if not needs[i]:
            d_weights.append(None)
            continue
        factors = (h[i].t() @ ctx.squares[i])[:, :, None, None]
        if ctx.m is not None:
            factors *= ctx.m[i].square()
        if d_kernels[i] is None:
            d_weights.append(weight * factors)
        else:
            d_weight = torch.mul(d_kernels[i], ctx.m[i], out=torch.empty_like(weight))
            d_weights.append(d_weight.addcmul_(weight, factors))
    return *d_weights, *d_styles


def _differentiable_gradients(weight, styles, d, d_own, d_demod, d_kernel, m, c, needs_weight):
    """Of one layer, from operations that have derivatives themselves."""
    weight, own = weight * m, styles * c
    h = -(d_demod * d.pow(3))
    d_styles = (d_own + own * (h @ weight.square().sum([2, 3]))) * c
    if not needs_weight:
        return None, d_styles
    d_weight = weight * (h.t() @ own.square())[:, :, None, None]
    return (d_weight if d_kernel is None else d_weight + d_kernel.to(weight.dtype)) * m, d_styles


def _scales(weights, styles):
    """m [O,1,1,1] and c [N,1] of each layer."""
    flat_m, m = _pieces([[len(w), 1, 1, 1] for w in weights], weights[0])
    flat_c, c = _pieces([[len(s), 1] for s in styles], styles[0])
    for largest, tensor in (*zip(m, weights), *zip(c, styles)):
        torch.linalg.vector_norm(tensor, math.inf, dim=list(range(1, tensor.ndim)), keepdim=True, out=largest)
    lengths = [math.sqrt(w[0].numel()) for w in weights for _ in range(len(w))]
    flat_m.mul_(misc.constant(lengths, dtype=flat_m.dtype, device=flat_m.device)).reciprocal_()
    flat_c.reciprocal_()
    return m, c


def _pieces(shapes, like):
    """A new piece of memory, and the tensors of these shapes that it consists of."""
    sizes = [*map(math.prod, shapes)]
    flat = like.new_empty(sum(sizes))
    return flat, [part.view(shape) for part, shape in zip(flat.split(sizes), shapes)]


def _cut(flat, like):
    """The tensors, shaped like others, that a piece of memory consists of."""
    return [part.view(x.shape) for part, x in zip(flat.split([x.numel() for x in like]), like)]
