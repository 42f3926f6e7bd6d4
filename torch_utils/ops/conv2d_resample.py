"""Convolution together with up- or downsampling.

By definition (all padding happens in the first step, on the upsampled grid):

    A = upfirdn2d(x, f, up, padding, gain up^2)     filtered only if up > 1
    B = valid convolution of A with w
    y = upfirdn2d(B, f, down)                       filtered only if down > 1

What runs are rearrangements of this with less work; they differ from it by rounding only.
"""
from typing import Any

from torch import Tensor

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.joint import act_filtered, filtered_beside
from torch_utils.ops.upfirdn2d import Padding, down_padding, parse_padding, up_padding, upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    before: dict[str, Any] | None = None,
) -> Tensor:
    """Upsamples, convolves and downsamples a batch of images; twice differentiable in `x` and `w`.

    Args:
        x:           Images [N, in, H, W].
        w:           Weight [out, in / groups, kh, kw] with the dtype of `x`.
        f:           Low-pass filter from `setup_filter` (float32), used for factors above 1; None: identity.
        up:          Upsampling factor.
        down:        Downsampling factor.
        padding:     On the upsampled grid, beside what the filter needs: as that of `upfirdn2d`.
        groups:      Number of groups of the convolution.
        flip_weight: True: correlation with `w`, as stock convolutions do. False: true convolution.
        flip_filter: False: convolution with `f`. True: correlation.
        before:      Arguments of `bias_act` for an activation that x goes through first, or None.

    Returns:
        Images [N, out, out_h, out_w] with the dtype and memory format of `x`.
    """
    _check(x, w, up, down, groups)
    pads = parse_padding(padding)
    if up > 1:
        pads = _add(pads, up_padding(f, up, up))
    if down > 1:
        pads = _add(pads, down_padding(f, down, down))
    fir = {'f': f, 'flip_filter': flip_filter}
    pointwise = w.shape[2:] == (1, 1)

    if before is not None and (up > 1 or down == 1 or pointwise):
        x, before = bias_act(x, **before), None
    if up == down == 1:
        return _conv(x, w, pads, groups, flip_weight)
    if up == 1 and pointwise:           # Fewer pixels to convolve.
        return conv2d(upfirdn2d(x, **fir, down=down, padding=pads), w, groups=groups)
    if up == 1:                         # Convolve only the pixels that stay.
        x = act_filtered(x, before, dict(fir, padding=pads))
        return conv2d(x, _oriented(w, flip_weight), stride=down, groups=groups)
    y, rest = _unfiltered(x, w, fir, up, pads, groups, flip_weight, pointwise and down == 1)
    y = upfirdn2d(y, **rest)
    return upfirdn2d(y, **fir, down=down) if down > 1 else y


def conv2d_beside(x: Tensor, w: Tensor, f: Tensor | None, down: int) -> tuple[Tensor, Tensor]:
    """x [N, in, H, W] itself, for what else it is needed, and `conv2d_resample` of it by a kernel of one pixel."""
    _check(x, w, 1, down, 1)
    x, small = filtered_beside(x, f, down, down_padding(f, down, down))
    return x, conv2d(small, w)


def conv2d_unfiltered(x: Tensor, w: Tensor, f: Tensor | None, up: int, padding: Padding, groups: int = 1,
                      flip_weight: bool = True) -> tuple[Tensor, dict[str, Any]]:
    """`conv2d_resample` for `up` above 1 but for its last step, and the arguments of `upfirdn2d` for that."""
    _check(x, w, up, 1, groups)
    pads = _add(parse_padding(padding), up_padding(f, up, up))
    pointwise = w.shape[2:].numel() == 1
    return _unfiltered(x, w, {'f': f, 'flip_filter': False}, up, pads, groups, flip_weight, pointwise)


def _unfiltered(x, w, fir, up, pads, groups, flip_weight, pointwise):
    if pointwise:                       # Fewer pixels to convolve.
        return conv2d(x, w, groups=groups), dict(fir, up=up, padding=pads, gain=up ** 2)
    y, rest = _spread(x, w, up, pads, groups, flip_weight)
    return y, dict(fir, padding=rest, gain=up ** 2)


def _conv(x, w, pads, groups, flip_weight):
    """Convolution at full rate."""
    left, right, top, bottom = pads
    if left != right or top != bottom or min(pads) < 0:
        x = upfirdn2d(x, None, padding=pads)
        left = top = 0
    return conv2d(x, _oriented(w, flip_weight), padding=(top, left), groups=groups)


def _spread(x, w, up, pads, groups, flip_weight):
    """Zero-stuffs and convolves by one transposed convolution, and says which padding is left to do.

    That convolution reaches over the stuffed signal (without its last up - 1 zeros) by all of its kernel, so part of
    the padding is done, or more than that; what both ends have in excess it crops itself.
    """
    kh, kw = w.shape[2:]
    left, right, top, bottom = _add(pads, (1 - kw, up - kw, 1 - kh, up - kh))
    crop_x, crop_y = max(min(-left, -right), 0), max(min(-top, -bottom), 0)
    w = _oriented(_exchange(w, groups), not flip_weight)
    y = conv_transpose2d(x, w, stride=up, padding=(crop_y, crop_x), groups=groups)
    return y, (left + crop_x, right + crop_x, top + crop_y, bottom + crop_y)


def _oriented(w, correlation):
    return w if correlation or w.shape[2:].numel() == 1 else w.flip([2, 3])


def _exchange(w, groups):
    """Weight [out, in / groups, kh, kw] with the input and output channels of each group exchanged."""
    if groups == 1:
        return w.transpose(0, 1)
    return w.unflatten(0, [groups, -1]).transpose(1, 2).flatten(0, 1)


def _add(pads, extra):
    return tuple(p + e for p, e in zip(pads, extra))


def _check(x, w, up, down, groups):
    assert x.ndim == 4 and w.ndim == 4, f'x {list(x.shape)}, w {list(w.shape)}: both must have four axes'
    assert x.dtype == w.dtype, f'x is {x.dtype}, w is {w.dtype}'
    assert isinstance(up, int) and up >= 1, f'up={up}: must be a positive integer'
    assert isinstance(down, int) and down >= 1, f'down={down}: must be a positive integer'
    assert x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0, \
        f'x {list(x.shape)} and w {list(w.shape)} do not fit groups={groups}'
