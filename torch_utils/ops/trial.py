"""A trial of compiled operators before their first use: on a few small images they must compute what the plain ones do.

Kernels for a GPU are compiled where they run, perhaps by a compiler and for a device that nobody has tried them with. What
they get wrong would otherwise show, if at all, as a run that goes badly. Takes a fraction of a second.
"""
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from torch_utils.ops.build import Unavailable

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}     # Of the largest result.
FILTERS = {                 # name: (filter [fh, fw], up, down, padding): every kernel of csrc/cuda_kernels.h.
    'filter': ((4, 4), [1, 1], [1, 1], [2, 1, 2, 1]),
    'up': ((4, 4), [2, 2], [1, 1], [2, 1, 2, 1]),
    'down': ((4, 4), [1, 1], [2, 2], [1, 1, 1, 1]),
    'wavelet up x': ((1, 12), [2, 1], [1, 1], [6, 5, 0, 0]),
    'wavelet up y': ((12, 1), [1, 2], [1, 1], [0, 0, 6, 5]),
    'wavelet down x': ((1, 12), [1, 1], [2, 1], [5, 5, 0, 0]),
    'wavelet down y': ((12, 1), [1, 1], [1, 2], [0, 0, 5, 5]),
    'any': ((3, 5), [3, 1], [1, 2], [-1, 3, 2, 2]),
}
SHAPES = [2, 20, 18, 36], [2, 19, 9, 35]                    # What kernels move in fours, and what they cannot.
LRELU, SLOPE, GAIN, CLAMP = 2, 0.2, 1.5, 0.8                # The network's activation; its number is that in bias_act.py.


def try_operators(device: str, dtypes: Iterable[torch.dtype]) -> None:
    """Raises Unavailable, naming the operator, if one that is loaded does not compute on the device what it should."""
    with torch.inference_mode(False), torch.no_grad():
        for dtype in dtypes:
            for layout in (torch.contiguous_format, torch.channels_last):
                for shape in SHAPES:
                    x = _wave(shape).to(dtype).contiguous(memory_format=layout)
                    _try_filters(x, device)
                    _try_activation(x, device)


def try_layers(device: str, dtypes: Iterable[torch.dtype]) -> None:
    """The same for `layer_act` and what filters besides, which others can stand in for."""
    with torch.inference_mode(False), torch.no_grad():
        for dtype in dtypes:
            for layout in (torch.contiguous_format, torch.channels_last):
                for shape in SHAPES:
                    x = _wave(shape).to(dtype).contiguous(memory_format=layout)
                    _try_layer(x, device)
                    _try_joint(x, device)


def _try_filters(x, device):
    op = torch.ops.stylegan2_loss_zoo.upfirdn2d
    for name, (shape, up, down, padding) in FILTERS.items():
        f = _wave(shape)
        _compare(f'upfirdn2d ({name})', expected_filtered(x, f, up, down, padding),
                 partial(op, x.to(device), f.to(device), up, down, padding, False, GAIN), x.dtype, device)


def _try_activation(x, device):
    ops, options = torch.ops.stylegan2_loss_zoo, (1, LRELU, SLOPE, GAIN, CLAMP)
    b = _wave(x.shape[1:2]).to(x.dtype)
    y = expected_activated(x, b).to(x.dtype)
    slope = torch.where(y > 0, GAIN, GAIN * SLOPE) * (y.abs() < y.abs().max())      # 0 where it is clamped.
    _compare('bias_act', y, partial(ops.bias_act, x.to(device), b.to(device), *options), x.dtype, device)
    _compare('bias_act (derivative)', x.double() * slope,
             partial(ops.bias_act_grad, x.to(device), y.to(device), None, *options), x.dtype, device)


def _try_layer(x, device):
    """layer_act and its derivatives, the sums over pixels among them."""
    ops, options = torch.ops.stylegan2_loss_zoo, (LRELU, SLOPE, GAIN, CLAMP)
    wide = torch.promote_types(x.dtype, torch.float32)
    shapes = x.shape[:2], [len(x), 1, *x.shape[2:]], x.shape[1:2]
    scale, noise, b = (_wave(shape).to(wide) for shape in shapes)
    strength = torch.tensor(0.5, dtype=wide, device='cpu')
    t = x.double() * scale.double()[:, :, None, None] + noise.double() * 0.5
    y = expected_activated(t, b).to(x.dtype)
    parts, image = [t.to(device) for t in (scale, noise, strength, b)], x.to(device)
    _compare('layer_act', y, partial(ops.layer_act, image, *parts, None, *options), x.dtype, device)
    _compare('layer_act (added)', y.double() + x, partial(ops.layer_act, image, *parts, image, *options), x.dtype, device)
    slope = torch.where(y > 0, GAIN, GAIN * SLOPE) * (y.abs() < y.abs().max()).double()
    d, scale = x.double() * slope, scale.double()[:, :, None, None]
    arguments = image, y.to(device), image, *parts, *options
    sums = torch.stack([(d * other).sum([2, 3]) for other in (x.double(), 1, noise.double())])
    for place, (name, expected) in enumerate({'derivative': d * scale, 'sums': sums}.items()):
        _compare(f'layer_act ({name})', expected, lambda place=place: ops.layer_act_grad(*arguments)[place], x.dtype, device)
    r = _wave([3, *x.shape[:2]]).to(wide)
    first, second, third = r.double()[:, :, :, None, None]
    for place, (name, expected) in enumerate({
            'second derivative': slope * (x.double() * (scale + first) + second + third * noise.double()),
            'derivative by x': first * d, 'derivative by scale': (x.double() * d).sum([2, 3])}.items()):
        _compare(f'layer_act ({name})', expected,
                 lambda place=place: ops.layer_act_grad2(image, r.to(device), *arguments)[place], x.dtype, device)


def _try_joint(x, device):
    """What filters and something else."""
    ops, options = torch.ops.stylegan2_loss_zoo, (LRELU, SLOPE, GAIN, CLAMP)
    wide = torch.promote_types(x.dtype, torch.float32)
    f, padding, b, scale = _wave([4, 4]), [2, 1, 2, 1], *(_wave(x.shape[i:2]).to(wide) for i in (1, 0))
    filtered = partial(expected_filtered, f=f, up=[1, 1], down=[1, 1], padding=padding)
    place = padding, False, GAIN
    image, taps, bias, factors = (t.to(device) for t in (x, f, b, scale))
    t = filtered(x)
    _compare('act_filter', filtered(expected_activated(x, b)),
             partial(ops.act_filter, image, bias, taps, *place, *options), x.dtype, device)
    slope = torch.where(x.double() + b.double()[:, None, None] > 0, GAIN, GAIN * SLOPE)     # Without a clamp.
    for which, (name, expected) in enumerate({'derivative': t * slope, 'sums': (t * slope).sum([2, 3])}.items()):
        _compare(f'act_filter ({name})', expected, lambda which=which: ops.act_filter_grad(
            image, image, bias, taps, *place, *options[:-1], None)[which], x.dtype, device)
    _compare('filter_layer_act', expected_activated(t * scale.double()[:, :, None, None], b),
             partial(ops.filter_layer_act, image, taps, *place, factors, None, None, bias, *options), x.dtype, device)
    _compare('filter_add', t + t.to(x.dtype).double(),
             partial(ops.filter_add, image, taps, [1, 1], [1, 1], *place, t.to(x.dtype).to(device)), x.dtype, device)


def expected_filtered(x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int]) -> Tensor:
    """The definition at the head of upfirdn2d.py, on the CPU in float64."""
    (n, c, h, w), (left, right, top, bottom) = x.shape, padding
    z = torch.zeros([n, c, h * up[1], w * up[0]], dtype=torch.float64, device='cpu')
    z[:, :, ::up[1], ::up[0]] = x
    z = torch.nn.functional.pad(z, [left, right, top, bottom])
    kernel = f.double().flip([0, 1]).expand(c, 1, *f.shape)
    return torch.nn.functional.conv2d(z, kernel * GAIN, groups=c)[:, :, ::down[1], ::down[0]]


def expected_activated(x: Tensor, b: Tensor) -> Tensor:
    """lrelu(x + b) with gain and clamp, on the CPU in float64."""
    t = x.double() + b.double()[:, None, None]
    return (torch.where(t > 0, t, t * SLOPE) * GAIN).clamp(-CLAMP, CLAMP)


def _wave(shape):
    """Numbers between -1 and 1 without a pattern, on the CPU whatever torch's default device is."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64, device='cpu').square().sin().float().reshape(shape)


def _compare(name, expected, function, dtype, device):
    """Raises Unavailable unless the function gives the expected result."""
    try:
        result = function().cpu().double()
    except RuntimeError as error:
        raise Unavailable(f'the compiled {name} fails on {device}: {str(error).splitlines()[0]}') from error
    deviation = (result - expected).abs().max() / expected.abs().max()
    if not deviation <= TOLERANCE[dtype]:
        raise Unavailable(f'the compiled {name} is wrong on {device}, by {deviation:.2g} of its largest value in {dtype}')
