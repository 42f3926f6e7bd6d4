"""What follows a modulated convolution, in one operator: factors of channels, noise, bias, activation, gain and clamp:

    y = clamp(gain * act(x * scale + noise * strength + b), -c, c)

x may have to be filtered first, as after a convolution that upsamples; that is done in the same pass.
On GPUs it is one kernel (`layer_act`), and so are its first derivatives. On CPUs it is compiled for channels-last images: one
pass over memory and, in the backward pass, one more for the gradients of all its inputs. Elsewhere, and wherever second
derivatives are asked for, it consists of other operators.
"""
from typing import Any

import torch
from torch import Tensor

from torch_utils.ops import backend, joint
from torch_utils.ops.bias_act import bias_act, is_one_kernel, options_of, widened
from torch_utils.ops.fma import fma
from torch_utils.ops.upfirdn2d import parse_padding, upfirdn2d


def scale_bias_act(x: Tensor, scale: Tensor, noise: Tensor | None = None, b: Tensor | None = None, act: str = 'linear',
                   gain: float | None = None, clamp: float | None = None, impl: str = 'auto',
                   strength: Tensor | None = None, fir: dict[str, Any] | None = None) -> Tensor:
    """Scales channels, adds noise and a bias, applies an activation function, scales and clamps; twice differentiable.

    Args:
        x:     Images [N, C, H, W], floating point.
        scale: Factor of every channel [N, C].
        noise: [N, 1, H, W], [1, 1, H, W] or [H, W], or None.
        b:     Bias [C], or None.
        act, gain, clamp: As in `bias_act`.
        impl:  Implementation, see `torch_utils.ops.backend`.
        strength: Factor of the noise [], or None.
        fir:   Arguments of `upfirdn2d` that x goes through first, but for `impl`, or None.

    What is no image may have the dtype of `x` or float32; but on GPUs it is rounded to that of `x`.

    Returns:
        Images with the shape, dtype and memory format of `x`.
    """
    options = options_of(act, gain=gain, clamp=clamp)
    has_constant_noise = noise is None or not noise.requires_grad
    if fir is not None and has_constant_noise and joint.is_here(x, act, fir, impl):
        place = list(parse_padding(fir['padding'])), fir['flip_filter'], float(fir['gain'])
        return joint.FilteredLayer.apply(x, fir['f'], *_parts(x, scale, noise, strength, b), place, options)
    if fir is not None and not _is_one_pass(x, noise, act, fir, impl):
        x, fir = upfirdn2d(x, **fir, impl=impl), None
    is_fused = is_one_kernel(x, act) and has_constant_noise and backend.use_native(impl, x)
    if is_fused and backend.has_layer_act(x.device.type):
        return torch.ops.stylegan2_loss_zoo.layer_act(x, *_parts(x, scale, noise, strength, b), None, *options)
    if strength is not None:
        noise = noise * strength
    scale, noise, b = (None if t is None else t.to(x.dtype) for t in (scale, noise, b))
    if _is_compiled(x, act) and backend.use_native(impl, x):
        noise = x.new_zeros([1, 1, *x.shape[2:]]) if noise is None else noise.expand(-1 if noise.ndim == 4 else 1, 1, -1, -1)
        b = x.new_zeros(x.shape[1]) if b is None else b
        if fir is not None:
            place = parse_padding(fir['padding']), fir['flip_filter'], float(fir['gain'])
            return _Filtered.apply(x, fir['f'], scale, noise, b, place, options)
        return _Compiled.apply(x, scale, noise, b, options)
    scale = scale[:, :, None, None]
    x = x * scale if noise is None else fma(x, scale, noise)
    is_done = b is None and act == 'linear' and gain is None and clamp is None
    return x if is_done else bias_act(x, b, act=act, gain=gain, clamp=clamp, impl=impl)


def _parts(x, scale, noise, strength, b):
    """As `layer_act` takes them."""
    noise = noise[None, None] if noise is not None and noise.ndim == 2 else noise
    return [widened(t, x) for t in (scale, noise, strength, b)]


def _is_compiled(x, act):
    """For tensors like this? The derivative of swish needs more than its result."""
    return x.device.type == 'cpu' and act != 'swish' and x.is_contiguous(memory_format=torch.channels_last)


def _is_one_pass(x, noise, act, fir, impl):
    """Is there an operator that filters, too? Its derivatives do without what was filtered if `act` can be undone."""
    plain = fir.get('up', 1) == fir.get('down', 1) == 1 and fir['f'] is not None and fir['f'].ndim == 2
    fits = plain and noise is not None and act in ('linear', 'lrelu') and _is_compiled(x, act)
    return fits and backend.use_native(impl, x)


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f, scale, noise, b, place, options):
        y = torch.ops.stylegan2_loss_zoo.filter_act(x, f, *place, scale, noise, b, *options)
        ctx.save_for_backward(x, f, scale, noise, b, y)
        ctx.place, ctx.options = place, options
        return y

    @staticmethod
    def backward(ctx, dy):
        x, f, scale, noise, b, y = ctx.saved_tensors
        padding, flip_filter, gain = ctx.place
        one, ops = [1, 1], torch.ops.stylegan2_loss_zoo
        if torch.is_grad_enabled():
            filtered = ops.upfirdn2d(x, f, one, one, padding, flip_filter, gain)
            dx, d_scale, d_noise, d_b = _differentiable_gradients(dy, y, filtered, scale, *ctx.options)
        else:
            dx, d_scale, d_noise, d_b = ops.filter_act_grad(dy, y, scale, noise, b, *ctx.options)
        if len(noise) == 1:
            d_noise = d_noise.sum(0, keepdim=True)
        left, _, top, _ = padding
        transposed = [f.shape[1] - left - 1, x.shape[3] - y.shape[3] + left, f.shape[0] - top - 1, x.shape[2] - y.shape[2] + top]
        dx = ops.upfirdn2d(dx, f, one, one, transposed, not flip_filter, gain)
        return dx, None, d_scale, d_noise, d_b, None, None


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, noise, b, options):
        y = torch.ops.stylegan2_loss_zoo.scale_bias_act(x, scale, noise, b, *options)
        slope_is_constant = options[0] == 0 and options[-1] is None       # Then y is not looked at.
        ctx.save_for_backward(x, scale, x if slope_is_constant else y)
        ctx.num_noises = len(noise)
        ctx.options = options
        return y

    @staticmethod
    def backward(ctx, dy):
        gradients = _differentiable_gradients if torch.is_grad_enabled() else torch.ops.stylegan2_loss_zoo.scale_bias_act_grad
        x, scale, y = ctx.saved_tensors
        dx, d_scale, d_noise, d_b = gradients(dy, y, x, scale, *ctx.options)
        if ctx.num_noises == 1:
            d_noise = d_noise.sum(0, keepdim=True)
        return dx, d_scale, d_noise, d_b, None


def _differentiable_gradients(dy, y, x, scale, *options):
    """What the compiled derivative yields, from operators that have derivatives themselves."""
    d = torch.ops.stylegan2_loss_zoo.bias_act_grad(dy, y, None, 1, *options)
    return d * scale[:, :, None, None], (d * x).sum([2, 3]), d.sum(1, keepdim=True), d.sum([0, 2, 3])
