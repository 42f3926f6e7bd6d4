"""Resizing with the filters that published scores and networks were made with, as matrix products.

Resizing is linear and separable: out = A img B^T with one interpolation matrix [size out,
size in] per axis. Written down like this there is nothing left to differ between libraries,
devices or versions.
"""
from __future__ import annotations

from functools import lru_cache

import torch


def resize(images: torch.Tensor, size: int, matrix) -> torch.Tensor:
    """Images [N, C, H, W] (float) at size x size.

    `matrix(size_in, size_out)` is one of the functions below.
    """
    rows, columns = (matrix(length, size).to(images.dtype).to(images.device) for length in images.shape[2:])
    return rows @ images @ columns.T


@lru_cache(maxsize=32)
def tf1_bilinear(size_in: int, size_out: int) -> torch.Tensor:
    """TensorFlow 1's bilinear rule, float64 [size_out, size_in]:
    pixel i of the output is taken at i * in / out.

    No half-pixel offset, no antialiasing, the last pixel repeated. The FID network was always fed like this.
    """
    position = torch.arange(size_out, dtype=torch.float64) * (size_in / size_out)
    left = position.floor().long()
    share = position - left
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    out = torch.arange(size_out)
    matrix[out, left] = 1 - share
    matrix[out, (left + 1).clamp(max=size_in - 1)] += share
    return matrix


@lru_cache(maxsize=32)
def bicubic(size_in: int, size_out: int) -> torch.Tensor:
    """Pillow's antialiasing bicubic rule (a = -1/2), float64 [size_out, size_in];
    the filter widens when shrinking."""
    scale = size_in / size_out
    width = max(scale, 1)
    centre = (torch.arange(size_out, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(size_in, dtype=torch.float64) + 0.5 - centre[:, None]).abs() / width
    near = 1.5 * distance ** 3 - 2.5 * distance ** 2 + 1
    far = -0.5 * distance ** 3 + 2.5 * distance ** 2 - 4 * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    return weights / weights.sum(dim=1, keepdim=True)


@lru_cache(maxsize=32)
def area(size_in: int, size_out: int) -> torch.Tensor:
    """The mean of all pixels that a pixel of the output touches, each counted whole: float64 [size_out, size_in].

    When it enlarges by a whole factor it repeats pixels.
    """
    out, inside = torch.arange(size_out)[:, None], torch.arange(size_in)
    touches = (inside >= out * size_in // size_out) & (inside < ((out + 1) * size_in + size_out - 1) // size_out)
    return touches.double() / touches.sum(dim=1, keepdim=True)
