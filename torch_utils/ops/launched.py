"""The operators on CUDA whose kernels NVRTC has compiled: what csrc/bindings_cuda.cpp and csrc/arguments.h are to
those that nvcc has.

An operator checks its arguments, with a sentence, before memory is touched; makes the result, in the memory format of
its images; and starts a kernel. `start(launch, device)` does the last.
"""
from collections.abc import Callable
from ctypes import c_float
from functools import cache, partial

import torch
from torch import Tensor, library

from torch_utils.ops import kernels
from torch_utils.ops.kernels import Axis, BiasAct, BiasActTensors, Launch, LayerAct, LayerActTensors, Resample

NAMESPACE = 'stylegan2_loss_zoo'
DTYPES = {torch.float32: 'float32', torch.float64: 'float64', torch.bfloat16: 'bfloat16', torch.float16: 'float16'}
NO_CLAMP = float('nan')
MOST = 1 << 30                      # Samples along an axis.

Start = Callable[[Launch, torch.device], None]


def register(implementation: library.Library, start: Start, key: str = 'CUDA') -> None:
    """Has `implementation` compute the operators by kernels that `start` starts; `key` is another device's in tests."""
    for order, name in enumerate(('bias_act', 'bias_act_grad', 'bias_act_grad2')):
        implementation.impl(name, partial(bias_act, start, order), key)
    for function in (upfirdn2d, layer_act, layer_act_grad, layer_act_grad2, act_filter, act_filter_grad,
                     filter_layer_act):
        implementation.impl(function.__name__, partial(function, start), key)
    implementation.impl('filter_add', partial(filter_add, start), key)


def bias_act(start: Start, order: int, *arguments) -> Tensor:
    """bias_act(x, b, ...), its derivative (dy, ref, b, ...), or that one's (q, dy, ref, b, ...)."""
    *cotangents, ref, b, dim, act, alpha, gain, clamp = arguments
    p = _bias_act_arguments(ref, b, dim, act, alpha, gain, clamp)
    layout = bias_act_layout(ref, b, dim)
    out = torch.empty_like(ref, memory_format=layout)
    if p.size:
        dy, q = (*(_like(t, name, ref, layout) for t, name in zip(cotangents[::-1], ('dy', 'q'))), None, None)[:2]
        ref, b = ref.contiguous(memory_format=layout), _contiguous(b)
        tensors = BiasActTensors(*map(_address, (q, dy, ref, b, out)))
        start(kernels.bias_act(_name_of(ref), order, p, act, tensors), ref.device)
    return out


def upfirdn2d(start: Start, x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool,
              gain: float, base: Tensor | None = None) -> Tensor:
    """Filtered images, as upfirdn2d.py defines them, plus `base`; f is [fh, fw]."""
    r, layout = _resample_arguments(x, f, up, down, padding, flip_filter, gain), layout_of(x)
    y = _empty_filtered(r, x)
    base = None if base is None else _like(base, 'base', y, layout)
    if y.numel():
        x, f = x.contiguous(memory_format=layout), f.contiguous()
        start(kernels.upfirdn2d(_name_of(x), r, *map(_address, (x, f, y, base))), x.device)
    return y


filter_add = upfirdn2d


def act_filter(start: Start, x: Tensor, b: Tensor | None, f: Tensor, padding: list[int], flip_filter: bool,
               filter_gain: float, act: int, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """layer_act with this bias, then a filter."""
    p = _layer_act_arguments(x, None, None, None, b, act, alpha, gain, clamp)
    place = [1, 1], [1, 1], padding, flip_filter, filter_gain
    r = _resample_arguments(x, f, *place)
    b = _contiguous(b)
    parts = kernels.Activated(_address(b), _as_lrelu(p.options, act))
    y = _joint(start, 'act_filter', r, x, f, parts)
    if y is None:
        activated = layer_act(start, x, None, None, None, b, None, act, alpha, gain, clamp)
        return upfirdn2d(start, activated, f, *place)
    return y


def act_filter_grad(start: Start, dy: Tensor, x: Tensor, b: Tensor | None, f: Tensor, padding: list[int],
                    flip_filter: bool, filter_gain: float, act: int, alpha: float, gain: float,
                    clamp: float | None) -> tuple[Tensor, Tensor]:
    """(dx, its sums [N, C]): the derivatives of `act_filter`; the arguments of the filter are those of the way back."""
    layout, place = layout_of(x), ([1, 1], [1, 1], padding, flip_filter, filter_gain)
    p = _layer_act_arguments(x, None, None, None, b, act, alpha, gain, clamp)
    dy, x = dy.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    f, b = f.contiguous(), _contiguous(b)
    r = _resample_arguments(dy, f, *place)
    r.channels_last = p.channels_last
    _check_same(dy, 'dy', x, 'x')
    _check((r.batch, r.channels, r.y.out, r.x.out) == x.shape, 'dy {}: does not lead back to x {}', list(dy.shape),
           list(x.shape))
    dx, tiles = torch.empty_like(x), kernels.slope_tiles(r)
    if not p.options.size:
        return dx, torch.zeros(x.shape[:2], dtype=compute_type(x), device=x.device)
    sums = torch.empty([p.samples, tiles.tiles, p.channels], dtype=compute_type(x), device=x.device)
    parts = kernels.Sloped(_address(x), _address(b), _as_lrelu(p.options, act))
    launch = kernels.act_filter_grad(_name_of(x), r, *map(_address, (dy, f, dx)), parts, tiles, _address(sums))
    if launch is None:
        d = upfirdn2d(start, dy, f, *place)
        dx, sums = layer_act_grad(start, d, None, x, None, None, None, b, act, alpha, gain, clamp)
        return dx, sums[1].clone()
    start(launch, x.device)
    return dx, sums.squeeze(1) if tiles.tiles == 1 else sums.sum(1)


def filter_layer_act(start: Start, x: Tensor, f: Tensor, padding: list[int], flip_filter: bool,
                     filter_gain: float, scale: Tensor | None, noise: Tensor | None, strength: Tensor | None,
                     b: Tensor | None, act: int, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """A filter, then layer_act."""
    place = [1, 1], [1, 1], padding, flip_filter, filter_gain
    r = _resample_arguments(x, f, *place)
    p = _layer_act_arguments(_empty_filtered(r, x), scale, noise, strength, b, act, alpha, gain, clamp)
    scale, noise, strength, b = others = tuple(map(_contiguous, (scale, noise, strength, b)))
    noise_step = p.pixels if p.own_noise else 0
    parts = kernels.Finished(*map(_address, others), p.channels, noise_step, _as_lrelu(p.options, act))
    y = _joint(start, 'filter_layer_act', r, x, f, parts)
    if y is None:
        return layer_act(start, upfirdn2d(start, x, f, *place), *others, None, act, alpha, gain, clamp)
    return y


def _joint(start, name, r, x, f, parts):
    """The result of a kernel that filters and does something else; None if there is none for the problem."""
    y, x, f = _empty_filtered(r, x), x.contiguous(memory_format=layout_of(x)), f.contiguous()
    launch = kernels.joint(name, _name_of(x), r, *map(_address, (x, f, y)), parts)
    if launch is None:
        return None
    if y.numel():
        start(launch, x.device)
    return y


def _as_lrelu(options, act):
    """The activation's constants; a linear one is lrelu of slope 1."""
    slope = 1 if kernels.ACTS[act] == 'linear' else options.alpha
    return kernels.activation(c_float, kernels.BiasAct(alpha=slope, gain=options.gain, clamp=options.clamp))


def layer_act(start: Start, x: Tensor, scale: Tensor | None, noise: Tensor | None, strength: Tensor | None, b: Tensor | None,
              base: Tensor | None, act: int, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """clamp(gain * act(x * scale + noise * strength + b)) + base."""
    p = _layer_act_arguments(x, scale, noise, strength, b, act, alpha, gain, clamp)
    layout = layout_of(x)
    y, image = torch.empty_like(x, memory_format=layout), x.contiguous(memory_format=layout)
    base = None if base is None else _like(base, 'base', x, layout)
    if p.options.size:
        tensors, kept = _layer_act_tensors(image, scale=scale, noise=noise, strength=strength, b=b)
        tensors.base, tensors.out = _address(base), _address(y)
        pack = kernels.layer_act_pack(p, x.element_size(), tensors)
        start(kernels.layer_act(_name_of(x), 0, p, act, pack, tensors, None), x.device)
        del kept
    return y


def layer_act_grad(start: Start, dy: Tensor, y: Tensor | None, x: Tensor | None, scale: Tensor | None, noise: Tensor | None,
                   strength: Tensor | None, b: Tensor | None, *options) -> tuple[Tensor, Tensor]:
    """(dx, sums [3, N, C]): the derivatives of `layer_act`; csrc/layer_act.h says which sums."""
    dx, _, sums = _layer_act_derivatives(start, 1, None, None, dy, y, x, scale, noise, strength, b, *options)
    return dx, sums


def layer_act_grad2(start: Start, q: Tensor, r: Tensor, dy: Tensor, *others) -> tuple[Tensor, Tensor, Tensor]:
    """(for dy, for x, for scale): the derivatives of `layer_act_grad` from q and r, with respect to its results."""
    d_dy, d_x, sums = _layer_act_derivatives(start, 2, q, r, dy, *others)
    return d_dy, d_x, sums[0]


def _layer_act_derivatives(start, order, q, r, dy, y, x, scale, noise, strength, b, act, alpha, gain, clamp):
    shaped = next(t for t in (y, x, dy) if t is not None)          # Its memory format is that of the results.
    p = _layer_act_arguments(shaped, scale, noise, strength, b, act, alpha, gain, clamp)
    _check_part(r, 'r', shaped, [3, p.samples, p.channels])
    layout, wide, kinds = layout_of(shaped), compute_type(shaped), 3 if order == 1 else 1
    out = torch.empty_like(shaped, memory_format=layout)
    out_x = None if order == 1 else torch.empty_like(out)
    if not p.options.size:
        return out, out_x, torch.zeros([kinds, p.samples, p.channels], dtype=wide, device=shaped.device)
    images = {name: None if t is None else _like(t, name, shaped, layout)
              for name, t in {'x': x, 'y': y, 'dy': dy, 'q': q}.items()}
    tensors, kept = _layer_act_tensors(None, scale=scale, noise=noise, strength=strength, b=b, r=r)
    for name, image in {**images, 'out': out, 'out_x': out_x}.items():
        setattr(tensors, name, _address(image))
    pack = kernels.layer_act_pack(p, out.element_size(), tensors)
    tiles = kernels.layer_act_tiles(p, pack)
    sums = torch.empty([kinds, p.samples, tiles.tiles, p.channels], dtype=wide, device=shaped.device)
    tensors.sums = _address(sums)
    start(kernels.layer_act(_name_of(out), order, p, act, pack, tensors, tiles), out.device)
    del kept
    return out, out_x, sums.squeeze(2) if tiles.tiles == 1 else sums.sum(2)


def _layer_act_tensors(x, **parts):
    """The structure with the addresses of x and of parts made contiguous, and the tensors that are there."""
    kept = {'x': x, **{name: _contiguous(part) for name, part in parts.items()}}
    return LayerActTensors(**{name: _address(tensor) for name, tensor in kept.items()}), kept


# Memory formats and types, which declared.py needs, too.

def layout_of(x: Tensor) -> torch.memory_format:
    """The memory format of the result: channels last if x is dense in that order, not only because of sizes of one."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        (_, channels, height, width), strides = x.shape, x.stride()
        if strides[1] == 1 and strides[3] == channels and (channels, height, width) != (1, 1, 1):
            return torch.channels_last
    return torch.contiguous_format


def bias_act_layout(x: Tensor, b: Tensor | None, dim: int) -> torch.memory_format:
    """A bias belongs to axis 1 of channels-last images, or to any axis of contiguous tensors."""
    return torch.contiguous_format if b is not None and dim != 1 else layout_of(x)


def compute_type(x: Tensor) -> torch.dtype:
    """The type that kernels compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# Arguments.

def _check(fits, sentence, *values):
    if not fits:
        raise RuntimeError(sentence.format(*values))


def _name_of(x):
    return DTYPES[x.dtype]


def _address(x):
    return None if x is None else x.data_ptr()


def _contiguous(x):
    return None if x is None else x.contiguous()


def _check_same(a, name, b, other):
    _check(a.dtype == b.dtype, '{} is {}, {} is {}', name, a.dtype, other, b.dtype)
    _check(a.device == b.device, '{} lies on {}, {} on {}', name, a.device, other, b.device)


def _like(t, name, x, layout):
    """t, which must be shaped like x, in the memory format of the kernel."""
    _check_same(t, name, x, 'the tensor it belongs to')
    _check(t.shape == x.shape, '{} {}: must be {}', name, list(t.shape), list(x.shape))
    return t.contiguous(memory_format=layout)


@cache
def _rounded(value, dtype):
    """A clamp as tensors of a type can hold it: the derivatives tell from a result whether it was clamped."""
    if value is None or dtype not in (torch.float16, torch.bfloat16):
        return NO_CLAMP if value is None else value
    return torch.tensor(value, dtype=torch.float32, device='cpu').to(dtype).item()


def _bias_act_arguments(x, b, dim, act, alpha, gain, clamp):
    _check(x.dtype in DTYPES, 'x is {}: must be float32, float64, bfloat16 or float16', x.dtype)
    _check(0 <= act < len(kernels.ACTS), 'act={}: must be 0 ... {}', act, len(kernels.ACTS) - 1)
    _check(clamp is None or clamp >= 0, 'clamp={}: must be None, or 0 or more', clamp)
    p = BiasAct(x.numel(), 1, 1, alpha, gain, _rounded(clamp, x.dtype))
    if b is None:
        return p
    _check_same(b, 'b', x, 'x')
    _check(0 <= dim < x.ndim, 'dim={}: x has {} axes', dim, x.ndim)
    _check(b.ndim == 1 and len(b) == x.shape[dim], 'b {}: must be [{}]', list(b.shape), x.shape[dim])
    p.channels = x.shape[dim]
    if bias_act_layout(x, b, dim) == torch.contiguous_format:
        p.inner = x.shape[dim + 1:].numel()
    return p


def _resample_arguments(x, f, up, down, padding, flip_filter, gain):
    _check(x.ndim == 4, 'x has {} axes: must be [N, C, H, W]', x.ndim)
    _check(f.ndim == 2 and f.dtype == torch.float32 and f.numel() > 0,
           'f is {} {}: must be float32 [fh, fw]', f.dtype, list(f.shape))
    _check(f.device == x.device, 'f lies on {}, x on {}', f.device, x.device)
    _check(len(up) == len(down) == 2, 'up and down: must be pairs (x, y)')
    _check(len(padding) == 4, 'padding: must be (left, right, top, bottom)')
    axes = [_axis(name, x.shape[3 - i], up[i], down[i], *padding[2 * i:2 * i + 2], f.shape[1 - i])
            for i, name in enumerate(('x axis', 'y axis'))]
    return Resample(*axes, x.shape[0], x.shape[1], layout_of(x) == torch.channels_last, flip_filter, gain)


def _empty_filtered(r, x):
    """Memory for the result."""
    shape = [r.batch, r.channels, r.y.out, r.x.out]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _axis(name, size, up, down, before, after, taps):
    _check(up >= 1 and down >= 1, '{}: up={}, down={}: must be positive', name, up, down)
    _check(max(size, up, down, abs(before), abs(after), taps) < MOST, '{}: numbers beyond {}', name, MOST)
    surplus = size * up + before + after - taps
    _check(surplus >= 0, '{}: no output from {} samples with up={}, padding {} and {}, and {} taps',
           name, size, up, before, after, taps)
    out = surplus // down + 1
    _check(size * up < MOST and out * down < MOST, '{}: more than {} samples', name, MOST)
    return Axis(up, down, before, size, out, taps)


def _layer_act_arguments(x, scale, noise, strength, b, act, alpha, gain, clamp):
    _check(x.ndim == 4, 'x has {} axes: must be [N, C, H, W]', x.ndim)
    options = _bias_act_arguments(x, None, 1, act, alpha, gain, clamp)
    _check(kernels.ACTS[act] in kernels.LAYER_ACTS, 'act={}: must be linear or lrelu', act)
    samples, channels, height, width = x.shape
    _check_part(scale, 'scale', x, [samples, channels])
    if noise is not None:
        _check(noise.ndim == 4 and len(noise) in (1, samples), 'noise {}: must be [N or 1, 1, H, W]', list(noise.shape))
        _check_part(noise, 'noise', x, [len(noise), 1, height, width])
    _check_part(strength, 'strength', x, [])
    _check_part(b, 'b', x, [channels])
    own_noise = noise is not None and len(noise) == samples
    return LayerAct(samples, channels, height * width, layout_of(x) == torch.channels_last, own_noise, options)


def _check_part(part, name, x, shape):
    """What is no image has the type that the kernel computes in."""
    if part is not None:
        _check(part.dtype == compute_type(x) and part.device == x.device, '{} is {} on {}: must be {} on {}', name, part.dtype,
               part.device, compute_type(x), x.device)
        _check(list(part.shape) == shape, '{} {}: must be {} for x {}', name, list(part.shape), shape, list(x.shape))
