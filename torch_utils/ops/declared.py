"""The operators' schemas, shapes and derivatives where no C++ compiler has made them: csrc/operators.cpp in Python.

Both read the schemas from csrc/schemas.inc. There are no kernels here; launched.py has them.
"""
import re

import torch
from torch import Tensor, library

from torch_utils.ops.build import SOURCE_DIR
from torch_utils.ops.kernels import ACTS
from torch_utils.ops.launched import NAMESPACE, bias_act_layout, compute_type, layout_of

LINEAR, LRELU, SWISH = map(ACTS.index, ('linear', 'lrelu', 'swish'))


def schemas() -> dict[str, str]:
    """{operator: schema}."""
    found = re.findall('"(.*)"', (SOURCE_DIR / 'schemas.inc').read_text())
    return {schema.partition('(')[0]: schema for schema in found}


def declare(fragment: library.Library) -> None:
    """Defines the operators of CUDA in a fragment of the namespace."""
    for name, shape in SHAPES.items():
        fragment.define(schemas()[name])
        library.register_fake(f'{NAMESPACE}::{name}', shape, lib=fragment)
    for name, (setup, backward) in DERIVATIVES.items():
        library.register_autograd(f'{NAMESPACE}::{name}', backward, setup_context=setup, lib=fragment)


def _ops():
    return getattr(torch.ops, NAMESPACE)


# Shapes.

def _upfirdn2d_shape(x, f, up, down, padding, flip_filter, gain):
    sizes = [(x.shape[3 - i] * up[i] + padding[2 * i] + padding[2 * i + 1] - f.shape[1 - i]) // down[i] + 1 for i in (1, 0)]
    return torch.empty([*x.shape[:2], *sizes], dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _bias_act_shape(x, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(x, memory_format=bias_act_layout(x, b, dim))


def _layer_act_shape(x, *others):
    return torch.empty_like(x, memory_format=layout_of(x))


def _layer_act_grad_shape(dy, y, x, *others):
    shaped = next(t for t in (y, x, dy) if t is not None)
    dx = torch.empty_like(shaped, memory_format=layout_of(shaped))
    return dx, torch.empty([3, *dy.shape[:2]], dtype=compute_type(dy), device=dy.device)


def _layer_act_grad2_shape(q, r, dy, y, x, *others):
    image, sums = _layer_act_grad_shape(dy, y, x)
    return image, torch.empty_like(image), torch.empty_like(sums[0])


def _act_filter_grad_shape(dy, x, *others):
    dx = torch.empty_like(x, memory_format=layout_of(x))
    return dx, torch.empty(x.shape[:2], dtype=compute_type(x), device=x.device)


SHAPES = {
    'upfirdn2d': _upfirdn2d_shape,
    'filter_add': lambda *arguments: _upfirdn2d_shape(*arguments[:-1]),
    'act_filter': lambda x, b, f, padding, *others: _upfirdn2d_shape(x, f, [1, 1], [1, 1], padding, False, 1),
    'act_filter_grad': _act_filter_grad_shape,
    'filter_layer_act': lambda x, f, padding, *others: _upfirdn2d_shape(x, f, [1, 1], [1, 1], padding, False, 1),
    'bias_act': _bias_act_shape,
    'bias_act_grad': lambda dy, *others: _bias_act_shape(*others),
    'bias_act_grad2': lambda q, dy, *others: _bias_act_shape(*others),
    'layer_act': _layer_act_shape,
    'layer_act_grad': _layer_act_grad_shape,
    'layer_act_grad2': _layer_act_grad2_shape,
}


# Derivatives. `ctx.options` is what an operator has after its tensors.

def _save_upfirdn2d(ctx, inputs, output):
    x, f, *ctx.options = inputs
    ctx.save_for_backward(f)
    ctx.sizes = x.shape[3], x.shape[2]


def _upfirdn2d_backward(ctx, dy):
    """The operator with the transposed axes."""
    f, = ctx.saved_tensors
    up, down, padding, flip_filter, gain = ctx.options
    transposed = []
    for i, size in enumerate(ctx.sizes):
        before = padding[2 * i]
        transposed += [f.shape[1 - i] - before - 1, size * up[i] - dy.shape[3 - i] * down[i] + before - up[i] + 1]
    return _ops().upfirdn2d(dy, f, down, up, transposed, not flip_filter, gain), *[None] * 6


def _sum_but(dx, dim):
    """The gradient of the bias from that of x + b."""
    axes = [axis for axis in range(dx.ndim) if axis != dim]
    return dx.sum(axes) if axes else dx


def _save_bias_act(ctx, inputs, output):
    x, b, *ctx.options = inputs
    _, act, _, _, clamp = ctx.options
    bends = act != LINEAR or clamp is not None
    told_from = (x, b) if act == SWISH else (output if bends else None, None)
    ctx.save_for_backward(*told_from)
    ctx.has_b = b is not None


def _bias_act_backward(ctx, dy):
    ref, b = ctx.saved_tensors
    dim, _, _, gain, _ = ctx.options
    if ref is None:
        dx = dy if gain == 1 else dy * gain
    else:
        dx = _ops().bias_act_grad(dy, ref, b, *ctx.options)
    return dx, _sum_but(dx, dim) if ctx.has_b and ctx.needs_input_grad[1] else None, *[None] * 5


def _save_bias_act_grad(ctx, inputs, output):
    *tensors, dim, act, alpha, gain, clamp = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = dim, act, alpha, gain, clamp


def _bias_act_grad_backward(ctx, q):
    dy, ref, b = ctx.saved_tensors
    dim, act, *_ = ctx.options
    needs_dy, needs_ref, needs_b = ctx.needs_input_grad[:3]
    needs_b = b is not None and needs_b
    d_dy = _ops().bias_act_grad(q, ref, b, *ctx.options) if needs_dy else None
    bends = act > LRELU and (needs_ref or needs_b)
    d_ref = _ops().bias_act_grad2(q, dy, ref, b, *ctx.options) if bends else None
    return d_dy, d_ref, _sum_but(d_ref, dim) if needs_b and bends else None, *[None] * 5


def _bias_act_grad2_backward(ctx, cotangent):
    raise RuntimeError("bias_act: the compiled operator has no third derivative; use impl='ref'")


def _save_layer_act(ctx, inputs, output):
    """The slope is told from the result, or from x where something was added to it."""
    x, scale, noise, strength, b, base, *ctx.options = inputs
    act, *_, clamp = ctx.options
    bent = act != LINEAR or clamp is not None
    again = bent and base is not None
    ctx.save_for_backward(x if again or scale is not None else None, scale, noise, output if bent and not again else None,
                          *((strength, b) if again else (None, None)))


def _layer_act_backward(ctx, dy: Tensor):
    x, scale, noise, y, strength, b = ctx.saved_tensors
    needs_x, needs_scale, needs_noise, needs_strength, needs_b, needs_base = ctx.needs_input_grad[:6]
    if needs_noise:
        raise RuntimeError('layer_act: noise has no derivative')
    dx = sums = None
    if needs_x and y is not None and scale is None and not (needs_strength or needs_b):
        dx = _ops().bias_act_grad(dy, y, None, 1, *ctx.options)         # Without sums it is one kernel, not two.
    elif needs_x or needs_scale or needs_strength or needs_b:
        dx, sums = _ops().layer_act_grad(dy, y, x, scale, noise, strength, b, *ctx.options)
    return (dx if needs_x else None, sums[0] if needs_scale else None, None, sums[2].sum() if needs_strength else None,
            sums[1].sum(0) if needs_b else None, dy if needs_base else None, *[None] * 4)


def _save_layer_act_grad(ctx, inputs, output):
    *tensors, act, alpha, gain, clamp = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = act, alpha, gain, clamp


def _layer_act_grad_backward(ctx, q, r):
    dy, y, x, scale, *others = ctx.saved_tensors
    if x is None and scale is not None:
        raise RuntimeError('layer_act_grad: without x its sums have no derivative')
    needs_dy, _, needs_x, needs_scale = ctx.needs_input_grad[:4]
    needs_x = needs_x and scale is not None
    d_dy, d_x, d_scale = _ops().layer_act_grad2(q, r, dy, y, x, scale, *others, *ctx.options)
    return (d_dy if needs_dy else None, None, d_x if needs_x else None, d_scale if needs_scale else None, *[None] * 7)


def _layer_act_grad2_backward(ctx, *cotangents):
    raise RuntimeError("layer_act: the compiled operator has no third derivative; use impl='ref'")


DERIVATIVES = {
    'upfirdn2d': (_save_upfirdn2d, _upfirdn2d_backward),
    'bias_act': (_save_bias_act, _bias_act_backward),
    'bias_act_grad': (_save_bias_act_grad, _bias_act_grad_backward),
    'bias_act_grad2': (lambda ctx, inputs, output: None, _bias_act_grad2_backward),
    'layer_act': (_save_layer_act, _layer_act_backward),
    'layer_act_grad': (_save_layer_act_grad, _layer_act_grad_backward),
    'layer_act_grad2': (lambda ctx, inputs, output: None, _layer_act_grad2_backward),
}
