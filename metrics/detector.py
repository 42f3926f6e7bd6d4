"""What a detector is: a fixed network that turns images into the features the distances are measured in."""
from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch


class Detector(torch.nn.Module):
    """Base class. A detector is called with uint8 images [N, 3, H, W] and returns features {tap:
    float32 [N, width]}.

    Attributes:
        name: The name that metrics and records use; stands for the weights and the resize rule.
        sha256: Of the weight file.
        resize_rule: How images reach the network's input size, in words.
        taps: {tap: width}.
        main_tap: The tap that kernel distance, precision and recall use.
        fd_taps: Taps of the Frechet distance. The first gives the metric's value,
            the others are added under the metric's name and theirs.
    """
    name: str
    sha256: str
    resize_rule: str
    taps: dict[str, int]
    main_tap: str
    fd_taps: tuple[str, ...]

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        """Features of uint8 images [N, 3, H, W] at the named taps."""
        raise NotImplementedError

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Perceptual embedding [N, D] of float images [N, 3, H, W] in 0..255,
        which are neither clamped nor rounded.

        The squared distance between two embeddings is the perceptual distance between the images.
        """
        raise NotImplementedError


def embedding_of_maps(maps: Sequence[torch.Tensor], weights: Sequence[torch.Tensor | float]) -> torch.Tensor:
    """Concatenates feature maps [N, C_l, H_l, W_l] so that squared distances are LPIPS distances
    [arXiv:1801.03924].

    Every pixel's channel vector is brought to unit length; then
    |e(a) - e(b)|^2 = sum_l mean_hw sum_c w_lc (g_lc(a) - g_lc(b))^2, with weights w_l [C_l] or a number.
    """
    parts = []
    for f, w in zip(maps, weights):
        g = f / (f.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
        root = torch.as_tensor(w, dtype=f.dtype, device=f.device).reshape(1, -1, 1, 1).sqrt()
        parts.append((g * root / (f.shape[2] * f.shape[3]) ** 0.5).flatten(1))
    return torch.cat(parts, dim=1)


def load_torchscript(path: str) -> torch.nn.Module:
    """A TorchScript file on the CPU in evaluation mode."""
    with warnings.catch_warnings():
        # The format is deprecated; the published files are not.
        warnings.simplefilter('ignore', DeprecationWarning)
        return torch.jit.load(path, map_location='cpu').eval()
