"""A convolution with the batch norm behind it folded in: what is left of both in a network
that no longer learns."""
from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F


class FoldedConv(torch.nn.Module):
    """y = clamp(conv(x)) with weight and bias of conv and batch norm together.

    Args:
        state: A state dict that has both layers; kernel size, widths and grouping are read off the weight.
        conv, norm: Their names in it.
        stride: Of the convolution.
        padding: Zeros on every side, one number or (vertical, horizontal).
        limits: Bounds of the output, (0, None) for ReLU, (0, 6) for ReLU6, (None, None) for a linear layer.
    """

    def __init__(
        self, state: Mapping[str, torch.Tensor], conv: str, norm: str, stride: int = 1,
        padding: int | tuple[int, int] = 0, limits: tuple[float | None, float | None] = (0, None),
    ):
        super().__init__()
        gain = state[f'{norm}.weight'] / (state[f'{norm}.running_var'] + 1e-3).sqrt()
        weight = state[f'{conv}.weight']    # [out, in / groups, height, width]
        self.register_buffer('weight', weight * gain[:, None, None, None])
        self.register_buffer('bias', state[f'{norm}.bias'] - state[f'{norm}.running_mean'] * gain)
        self.groups = len(weight) if weight.shape[1] == 1 else 1
        self.stride, self.padding, self.limits = stride, padding, limits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return x if self.limits == (None, None) else x.clamp_(*self.limits)
