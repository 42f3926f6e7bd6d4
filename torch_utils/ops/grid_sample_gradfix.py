"""Bilinear sampling of images at given places, with cheap second derivatives.

For a fixed grid, sampling is a linear operator A of the image, and its derivative is the transpose A'. Each is the
other's derivative, so two short functions give derivatives of any order. Stock `grid_sample` is differentiable twice
only in recent versions of torch, and there by a decomposition that costs up to 10 % more (benchmarks/ops.py).
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """Samples `input` [N, C, H, W] at `grid` [N, out_h, out_w, 2] of (x, y), -1 ... 1 from edge to edge.

    Bilinear, zero outside the image. Differentiable with respect to `input` any number of times; a grid that requires
    grad is differentiated as far as stock `torch.nn.functional.grid_sample` can.

    Returns:
        Images [N, C, out_h, out_w].
    """
    assert input.ndim == 4 and grid.ndim == 4, \
        f'input {list(input.shape)}, grid {list(grid.shape)}: must be [N, C, H, W] and [N, out_h, out_w, 2]'
    if grid.requires_grad:
        return F.grid_sample(input, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    return _Sample.apply(input, grid)


class _Sample(torch.autograd.Function):
    """A: image -> samples."""
    @staticmethod
    def forward(ctx, image, grid):
        ctx.save_for_backward(grid)
        ctx.image_shape = image.shape
        return F.grid_sample(image, grid, mode='bilinear', padding_mode='zeros', align_corners=False)

    @staticmethod
    def backward(ctx, samples):
        grid, = ctx.saved_tensors
        return _SampleTransposed.apply(samples, grid, ctx.image_shape), None


class _SampleTransposed(torch.autograd.Function):
    """A': samples -> image."""
    @staticmethod
    def forward(ctx, samples, grid, image_shape):
        ctx.save_for_backward(grid)
        image = samples.new_empty([1]).expand(image_shape)      # Only its shape counts.
        bilinear, zeros, image_but_not_grid = 0, 0, [True, False]
        # A GPU adds up in any order. In float64 that is lost when the sums are rounded.
        exact = torch.float64 if samples.is_cuda and torch.are_deterministic_algorithms_enabled() else samples.dtype
        return torch.ops.aten.grid_sampler_2d_backward(
            samples.to(exact), image.to(exact), grid.to(exact), bilinear, zeros, False, image_but_not_grid)[0].to(samples.dtype)

    @staticmethod
    def backward(ctx, image):
        grid, = ctx.saved_tensors
        return _Sample.apply(image, grid), None, None
