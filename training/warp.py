"""Geometry of the augmentation: which place of the input each place of the output shows.

Positions are pixels relative to the centre of the image, x to the right, y downwards.
"""
import copy
from dataclasses import dataclass

import numpy as np
import torch

from torch_utils import misc
from torch_utils.ops import grid_sample_gradfix

REACH = 3   # How far the filters that double and halve the resolution see to either side, in pixels.


@dataclass(frozen=True)
class Geometry:
    """The geometric part of a draw, for images of any size. Position x of the output shows the input at

        blit (stretch (x - xfrac * size) - round(xint * size))
    """
    blit: torch.Tensor          # [N, 2, 2] flips and quarter turns
    stretch: torch.Tensor       # [N, 2, 2] scalings and rotations
    xint: torch.Tensor          # [N, 2] shares of width and height
    xfrac: torch.Tensor         # [N, 2] shares of width and height

    def at(self, width: int, height: int, shares: tuple[float, ...] = ()) -> 'Warp':
        """This geometry in pixels of images of this size. Whole-pixel shifts are rounded here, half to
        even. `shares`: as of `Warp`."""
        size = _size(width, height, self.blit.device)
        linear = product(self.blit, self.stretch)                                               # [N, 2, 2]
        shift = product(self.blit, (self.xint * size).round()[:, :, None]) + product(linear, (self.xfrac * size)[:, :, None])
        return Warp(width, height, linear, -shift, shares)


class Warp:
    """A geometry at one image size: position x of the output shows the input at `linear x + offset`.

    Beyond its borders the image continues as its reflection, by as many pixels as some sample of the batch
    needs, at most size - 1; farther out it is zero. The host must know these margins to allocate memory. The
    constructor starts to copy them to the host and does not wait; only `padding()` waits until they have
    arrived. A step that draws well before it transforms therefore does not hold up the device.

    Padding by size - 1 in all cases would need no copy, but would cost the work of nine images per image. The
    margins of a batch cost that of 1.1 images at p = 0, of 2 to 3 at p = 0.2, of 4 to 6 at p = 1 (pipe bgc,
    64 to 1024 pixels).

    `shares` (of the size, in ascending order, the last 1) are for CUDA graphs, which
    are captured once for each size of margins: all margins of a batch are then
    rounded up to the smallest share that is enough, so that few sizes occur.
    """

    def __init__(self, width: int, height: int, linear: torch.Tensor, offset: torch.Tensor, shares: tuple[float, ...] = ()):
        self.width, self.height = width, height
        self.size = _size(width, height, linear.device)
        self.linear = linear                            # [N, 2, 2]
        self.offset = offset                            # [N, 2, 1]
        half = _size((width - 1) / 2, (height - 1) / 2, linear.device)      # From the centre to the outermost pixel.
        extent = product(linear.abs(), half[None, :, None])     # [N, 2, 1] half the size of what the output shows.
        beyond = _size(2 * REACH - (width - 1) / 2, 2 * REACH - (height - 1) / 2, linear.device)
        margins = torch.stack([extent - offset, extent + offset]).amax(dim=1)[:, :, 0] + beyond
        # [before and after, x and y]
        self.margins = torch.minimum(margins.clamp(min=0), _size(width - 1, height - 1, linear.device)).ceil()
        if shares:
            shares = misc.constant(shares, dtype=torch.float32, device=linear.device)
            share = torch.where(shares >= (self.margins / self.size).amax(), shares, 1).amin()
            self.margins = torch.minimum((self.size * share).ceil(), self.size - 1).expand(2, 2)
        self.fetch_margins()

    def of(self, part: slice) -> 'Warp':
        """The same for some of the images; margins stay those of all."""
        found = copy.copy(self)
        found.linear, found.offset = self.linear[part], self.offset[part]
        return found

    def fetch_margins(self) -> None:
        """Starts to copy the margins to the host; to be called
        again when the replay of a CUDA graph has changed them."""
        self._on_host, self._arrived = self.margins, None
        if self.margins.is_cuda and not torch.cuda.is_current_stream_capturing():
            self._on_host = self.margins.to('cpu', non_blocking=True)               # Into pinned memory.
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(self.margins.device))

    def padding(self) -> list[int]:
        """Margins left, right, top, bottom, in pixels, as `torch.nn.functional.pad` takes them."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        (left, top), (right, bottom) = self._on_host.tolist()
        return [int(left), int(right), int(top), int(bottom)]

    def sampling_grid(self) -> torch.Tensor:
        """Where to sample, [N, 2 (H + 2 REACH), 2 (W + 2 REACH), 2], in
        coordinates of `grid_sample` in the padded image at twice its resolution.

        The output has twice the resolution, too, and a border of REACH pixels. The wavelet filter that
        doubles the resolution moves the image by half a pixel of the doubled one; the grid makes up for that.
        """
        before, after = self.margins
        size_in = 2 * (self.size + before + after)
        size_out = _size(2 * (self.width + 2 * REACH), 2 * (self.height + 2 * REACH), self.linear.device)
        offset = 2 * self.offset + (before - after)[:, None] + (self.linear.sum(dim=2, keepdim=True) - 1) / 2
        theta = torch.cat([self.linear * size_out, 2 * offset], dim=2) / size_in[:, None]
        return affine_grid(theta, 2 * (self.width + 2 * REACH), 2 * (self.height + 2 * REACH))

    def apply_to(self, maps: torch.Tensor) -> torch.Tensor:
        """Moves feature maps [N, C, h, w] as the images are moved, by bilinear sampling.

        Where the moved image shows its reflection, so do the maps, about the centres of
        the image's outermost pixels; where the moved image is zero, so are the maps.
        """
        height, width = maps.shape[2:]
        theta = torch.cat([self.linear * self.size, 2 * self.offset], dim=2) / self.size[:, None]
        position = affine_grid(theta, width, height)  # [N, h, w, 2], +-1 at the borders.
        mirror, limit, least, most = _last_centres(self.width, self.height, width, height, maps.device)
        distance = position.abs()
        folded = (position.sign() * (mirror - (distance - mirror).abs())).clamp(least, limit)
        # 3 is outside: grid_sample gives 0 there.
        grid = torch.where(distance <= most, folded, 3)
        return grid_sample_gradfix.grid_sample(maps, grid.to(maps.dtype))


# Positions are formed without matrix products, which in TF32
# round to ten bits: a quarter of a pixel at 1024 pixels.


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b for small matrices [N, I, J] and [N, J, K]."""
    return (a[:, :, :, None] * b[:, None]).sum(dim=2)


def affine_grid(theta: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """theta (x, y, 1) at the centres of pixels, [N, height, width,
    2]; x, y go from -1 to 1, edge to edge; theta: [N, 2, 3].

    To rounding this is `torch.nn.functional.affine_grid` with `align_corners=False`.
    """
    along_x, along_y, constant = theta[:, None, None].unbind(dim=4)                 # [N, 1, 1, 2]
    rows = constant + along_y * _centres(height, theta.device)[:, None, None]       # [N, height, 1, 2]
    return torch.addcmul(rows, along_x, _centres(width, theta.device)[:, None])


def _centres(num, device):
    """The centres, [num], of `num` pixels that fill -1 ... 1."""
    return misc.constant((2 * np.arange(num) + 1) / num - 1, dtype=torch.float32, device=device)


def _last_centres(width, height, map_width, map_height, device):
    """[2] each: the centres of the image's last pixels, the map's, those
    times -1, and three times the image's; all in float32."""
    mirror, limit = (1 - 1 / np.array(size, np.float32) for size in ((width, height), (map_width, map_height)))
    return misc.constant([mirror, limit, -limit, 3 * mirror], dtype=torch.float32, device=device)


def _size(width, height, device):
    return misc.constant([width, height], dtype=torch.float32, device=device)
