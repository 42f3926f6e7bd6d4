"""Resampling of images with FIR filters: insert zeros, pad or crop, filter, keep every n-th sample.

The two axes are independent. Along one of them, for n samples x, factors U (up) and D (down), padding p0 in front and
p1 behind (counted on the upsampled grid, negative = crop) and K taps f:

    z(u) = x(u / U) where U divides u, else 0
    y(o) = sum over k of h(k) z(o D + k - p0),   h(k) = f(K - 1 - k), or f(k) with `flip_filter`

so that y has floor((n U + p0 + p1 - K) / D) + 1 samples. The operator is linear in x; its transpose is the operator
itself with other factors and paddings (`Axis.transpose`), which gives derivatives of any order.
"""
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from torch_utils.ops import backend


class Axis(NamedTuple):
    """What happens along one axis."""
    up: int         # Every sample is followed by up - 1 zeros.
    down: int       # Every down-th sample of the result is kept.
    before: int     # Zeros in front, on the upsampled grid; negative removes samples.
    after: int      # Zeros behind, likewise.

    def out_size(self, size: int, taps: int) -> int:
        """Number of output samples for `size` input samples."""
        return (size * self.up + self.before + self.after - taps) // self.down + 1

    def transpose(self, size: int, taps: int) -> 'Axis':
        """The axis of the transposed operator, which maps the output's samples back to `size` samples."""
        after = size * self.up - self.out_size(size, taps) * self.down + self.before - self.up + 1
        return Axis(self.down, self.up, taps - self.before - 1, after)


Pair = int | Sequence[int]          # For both axes, or (x, y).
Padding = int | Sequence[int]       # For all sides, (x, y), or (left, right, top, bottom).
UNCHANGED = Axis(up=1, down=1, before=0, after=0)


def setup_filter(
    f: float | Sequence | Tensor | None,
    device: torch.device = torch.device('cpu'),  # noqa: B008 (a constant)
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """The filter tensor for the operators of this file, made from taps.

    Args:
        f:           Taps: none (identity), a number, or a list, array or tensor of rank 1 or 2. It is not modified.
        device:      Where the result lies.
        normalize:   Divide by the sum of the taps.
        flip_filter: Reverse the filter along its axes.
        gain:        Factor for a signal that passes the filter along both axes.
        separable:   Keep rank 1, one pass per axis; None: only for eight taps and more. Otherwise the outer product.

    Returns:
        float32 [taps] if separable, [fh, fw] if not.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device)
    assert f.ndim <= 2 and f.numel() > 0, f'filter of shape {list(f.shape)}: must have one or two axes and a tap'
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    assert not (separable and f.ndim == 2), f'filter of shape {list(f.shape)} cannot be made separable'

    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)     # A new tensor: never the caller's memory.


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = 'auto',
) -> Tensor:
    """Inserts zeros, pads or crops, filters and decimates a batch of images; see the head of this file.

    Differentiable with respect to `x`, any number of times; the filter gets no gradient.

    Args:
        x:           Images [N, C, H, W], floating point.
        f:           Filter from `setup_filter`: float32 [fh, fw], [taps] (applied along both axes), or None (identity).
        up:          Upsampling factor, an integer or a pair (x, y).
        down:        Downsampling factor, likewise.
        padding:     Samples on the upsampled grid: one number, (x, y), or (left, right, top, bottom); negative = crop.
        flip_filter: False: convolution with the filter. True: correlation.
        gain:        Factor for the result.
        impl:        Implementation, see `torch_utils.ops.backend`.

    Returns:
        Images [N, C, out_h, out_w] with the dtype and memory format of `x`.
    """
    _check(x, f)
    axes = _axes(up, down, padding)
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    sizes = [axis.out_size(size, taps) for axis, size, taps in zip(axes, x.shape[:1:-1], filter_size(f))]
    assert min(sizes) >= 1, \
        f'no output: {list(x.shape)} filtered with {list(f.shape)}, up={up}, down={down}, padding={padding}'
    if backend.use_native(impl, x):
        return _native(x, f, axes, flip_filter, gain)
    return _Plain.apply(x, f, axes, flip_filter, gain)


def filter2d(x: Tensor, f: Tensor | None, padding: Padding = 0, flip_filter: bool = False, gain: float = 1,
             impl: str = 'auto') -> Tensor:
    """Filters images [N, C, H, W] and keeps their size; `padding` is added to what that needs. Else as `upfirdn2d`."""
    fw, fh = filter_size(f)
    extra = fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2
    return upfirdn2d(x, f, padding=_add(padding, extra), flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(x: Tensor, f: Tensor | None, up: Pair = 2, padding: Padding = 0, flip_filter: bool = False,
               gain: float = 1, impl: str = 'auto') -> Tensor:
    """Enlarges images [N, C, H, W] to [N, C, H * up, W * up] at the same brightness; `padding` is added to what that
    needs. Else as `upfirdn2d`.
    """
    ux, uy = parse_pair('up', up)
    padding = _add(padding, up_padding(f, ux, uy))
    return upfirdn2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


def downsample2d(x: Tensor, f: Tensor | None, down: Pair = 2, padding: Padding = 0, flip_filter: bool = False,
                 gain: float = 1, impl: str = 'auto') -> Tensor:
    """Shrinks images [N, C, H, W] to [N, C, H / down, W / down]; `padding` is added to what that needs. Else as
    `upfirdn2d`.
    """
    padding = _add(padding, down_padding(f, *parse_pair('down', down)))
    return upfirdn2d(x, f, down=down, padding=padding, flip_filter=flip_filter, gain=gain, impl=impl)


# Arguments.

def parse_pair(name: str, value: Pair) -> tuple[int, int]:
    """(x, y) from one positive integer or a pair of them."""
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    assert len(pair) == 2 and all(isinstance(v, int) and v >= 1 for v in pair), \
        f'{name}={value}: must be a positive integer or a pair (x, y) of them'
    return pair


def parse_padding(padding: Padding) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) from one integer, a pair (x, y), or four."""
    pads = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(pads) == 2:
        pads = pads[0], pads[0], pads[1], pads[1]
    assert len(pads) == 4 and all(isinstance(p, int) for p in pads), \
        f'padding={padding}: must be an integer, a pair (x, y), or four (left, right, top, bottom)'
    return pads


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter; (1, 1) for None."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def up_padding(f: Tensor | None, ux: int, uy: int) -> tuple[int, int, int, int]:
    """Padding with which upsampling by (ux, uy) keeps an image where it is."""
    fw, fh = filter_size(f)
    return (fw + ux - 1) // 2, (fw - ux) // 2, (fh + uy - 1) // 2, (fh - uy) // 2


def down_padding(f: Tensor | None, dx: int, dy: int) -> tuple[int, int, int, int]:
    """Padding with which downsampling by (dx, dy) keeps an image where it is."""
    fw, fh = filter_size(f)
    return (fw - dx + 1) // 2, (fw - dx) // 2, (fh - dy + 1) // 2, (fh - dy) // 2


def _add(padding, extra):
    return tuple(p + e for p, e in zip(parse_padding(padding), extra))


def _axes(up, down, padding):
    left, right, top, bottom = parse_padding(padding)
    (ux, uy), (dx, dy) = parse_pair('up', up), parse_pair('down', down)
    return Axis(ux, dx, left, right), Axis(uy, dy, top, bottom)


def _check(x, f):
    assert x.ndim == 4 and x.is_floating_point(), f'x is {x.dtype} {list(x.shape)}: must be floating point [N, C, H, W]'
    if f is None:
        return
    assert f.ndim in (1, 2) and f.dtype == torch.float32 and f.numel() > 0, \
        f'f is {f.dtype} {list(f.shape)}: must be float32 [taps] or [fh, fw]'
    assert not f.requires_grad, 'f requires grad: the filter of upfirdn2d gets no gradient'
    assert f.device == x.device, f'f lies on {f.device}, x on {x.device}'


# Compiled.

def _native(x, f, axes, flip_filter, gain):
    op = torch.ops.stylegan2_loss_zoo.upfirdn2d
    if f.ndim == 2:
        (ux, dx, left, right), (uy, dy, top, bottom) = axes
        return op(x, f, [ux, uy], [dx, dy], [left, right, top, bottom], flip_filter, gain)
    along_x = _native(x, f[None, :], (axes[0], UNCHANGED), flip_filter, gain ** 0.5)
    return _native(along_x, f[:, None], (UNCHANGED, axes[1]), flip_filter, gain ** 0.5)


# Plain tensor operations.

class _Plain(torch.autograd.Function):
    """The operator and, as its derivative, the transposed operator. Stock autograd of the convolutions below would also
    arrive there, by way of the gradients of the filter, which nobody wants.
    """
    @staticmethod
    def forward(ctx, x, f, axes, flip_filter, gain):
        ctx.save_for_backward(f)
        ctx.arguments = x.shape[:1:-1], axes, flip_filter, gain
        h = (f * gain ** (f.ndim / 2)).to(x.dtype)
        if not flip_filter:
            h = h.flip(list(range(h.ndim)))
        if h.ndim == 2:
            return _resample(x, h, *axes)
        return _resample(_resample(x, h[None, :], axes[0], UNCHANGED), h[:, None], UNCHANGED, axes[1])

    @staticmethod
    def backward(ctx, dy):
        f, = ctx.saved_tensors
        sizes, axes, flip_filter, gain = ctx.arguments
        axes = tuple(axis.transpose(size, taps) for axis, size, taps in zip(axes, sizes, filter_size(f)))
        return _Plain.apply(dy, f, axes, not flip_filter, gain), None, None, None, None


def _resample(x, h, ax, ay):
    """The operator in the form of the file's head, for taps h [fh, fw] and without gain."""
    shape = [*x.shape[:2], ay.out_size(x.shape[2], h.shape[0]), ax.out_size(x.shape[3], h.shape[1])]
    if x.numel() == 0 or 0 in shape:
        return x.new_zeros(shape)
    if not is_compiling() and x.device.type == 'cpu' and len(x) > 1 and x.shape[1] < 16 and x.is_contiguous():
        # Depthwise convolutions are slow with few channels, for which samples do as well. Not so in traced graphs, which
        # are to serve batches of any size: ONNX knows no convolution whose number of groups is a variable.
        return _resample(x.view(1, -1, *x.shape[2:]), h, ax, ay).view(shape)
    if ax.up == ay.up == 1:
        return _correlate(x, h, ax, ay)
    if x.device.type == 'cpu' and x.dtype in (torch.float16, torch.bfloat16):
        # Transposed depthwise convolutions in half precision are up to 15 times slower than this (benchmarks/ops.py).
        return _spread(x.float(), h.float(), ax, ay).to(x.dtype)
    return _spread(x, h, ax, ay)


def _correlate(x, h, ax, ay):
    """Without upsampling: one strided depthwise correlation."""
    pad = ay.before, ax.before
    if pad != (ay.after, ax.after) or min(pad) < 0:
        x = F.pad(x, [ax.before, ax.after, ay.before, ay.after])
        pad = 0
    return F.conv2d(x, _depthwise(h, x), stride=(ay.down, ax.down), padding=pad, groups=x.shape[1])


def _spread(x, h, ax, ay):
    """With upsampling: a transposed depthwise convolution yields the filtered signal as far as it is not zero; this is
    cropped or padded to the samples asked for, and decimated.
    """
    (left, right), (top, bottom) = _surplus(ax, h.shape[1]), _surplus(ay, h.shape[0])
    crop = max(min(top, bottom), 0), max(min(left, right), 0)
    with _without_search() if x.device.type == 'cuda' else nullcontext():
        y = F.conv_transpose2d(x, _depthwise(h.flip([0, 1]), x), stride=(ay.up, ax.up), padding=crop, groups=x.shape[1])
    rest = [crop[1] - left, crop[1] - right, crop[0] - top, crop[0] - bottom]
    if any(rest):
        y = F.pad(y, rest)
    if (ax.down, ay.down) == (1, 1):
        return y
    layout = torch.channels_last if y.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return y[:, :, ::ay.down, ::ax.down].contiguous(memory_format=layout)


@contextmanager
def _without_search():
    """cuDNN takes an algorithm that should do, instead of timing all of them whenever a size is new to it: the margins of
    augmented images make nearly every one so.
    """
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _surplus(axis, taps):
    """How many samples of the full transposed convolution lie (before, after) the ones asked for."""
    return taps - 1 - axis.before, taps - axis.up - axis.after


def _depthwise(h, x):
    return h.expand(x.shape[1], 1, *h.shape)
