"""Perceptual path length [Karras et al. 2019, arXiv:1812.04948]:
how far images move for a small step in latent space.

    d = |e(G(w(t + eps))) - e(G(w(t)))|^2 / eps^2,    PPL = mean of d without its lowest and highest percent

e embeds images so that squared distances are perceptual (LPIPS); w(t)
runs from one random latent to another, straight in W or along the sphere in Z; t is uniform ("full")
or 0 ("end").

The definition is in float32. A step moves w by a ten-thousandth of its size,
so what rounds in another way (other kernels, threads, batches, processors) changes the result in its fourth
digit: it is precise to one part in a thousand.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from metrics.generator_inputs import with_noise
from metrics.image_streams import as_rgb
from metrics.names import MetricError


@torch.no_grad()
def path_distances(
    G: torch.nn.Module, embed: Callable[[torch.Tensor], torch.Tensor],
    z: torch.Tensor, c: torch.Tensor, t: torch.Tensor, noise: Mapping[str, torch.Tensor],
    space: str = 'w', crop: bool = False, epsilon: float = 1e-4,
) -> torch.Tensor:
    """The distances d [N] of N paths.

    Args:
        G: A generator with `mapping` and `synthesis`.
        embed: Perceptual embedding [N, D] of images [N, 3, H, W] in 0..255.
        z: Both ends of each path [N, 2, z_dim].
        c: A label for each path [N, c_dim].
        t: Where on the path [N]; zeros for "end".
        noise: {name of a noise buffer of G.synthesis: [N, 1, H, W] or [H, W]},
            the same for both images of a path.
        space: 'w' or 'z'.
        crop: Keep only the lower middle of the images, where faces are.
        epsilon: The step.
    """
    # [2N, num_ws, w_dim]
    ws = torch.stack(_two_points(G, z, c, t[:, None], space, epsilon), dim=1).flatten(0, 1)
    noise = {name: n if n.ndim == 2 else n.repeat_interleave(2, dim=0) for name, n in noise.items()}
    images = with_noise(G.synthesis, noise, ws, noise_mode='const', force_fp32=True)    # [2N, C, H, W]
    if crop:
        step = images.shape[2] // 8
        images = images[:, :, 3 * step:7 * step, 2 * step:6 * step]
    factor = G.img_resolution // 256
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    embedded = embed(as_rgb((images + 1) * 127.5)).unflatten(0, (-1, 2))    # [N, 2, D]
    return path_distance(embedded[:, 0], embedded[:, 1], epsilon)


def path_distance(a: torch.Tensor, b: torch.Tensor, epsilon: float) -> torch.Tensor:
    """|a - b|^2 / epsilon^2 of embeddings [N, D]: [N]."""
    return (a - b).square().sum(dim=1) / epsilon ** 2


def trimmed_mean(distances: torch.Tensor) -> float:
    """Mean of the distances [N] from the 1st percentile (next lower value)
    to the 99th (next higher), inclusive.

    Raises:
        MetricError: If there are none, or non-finite ones.
    """
    values = distances.double().numpy()
    if not len(values) or not np.isfinite(values).all():
        raise MetricError(f'{int((~np.isfinite(values)).sum())} of {len(values)} path lengths are NaN or infinite')
    low, high = np.percentile(values, 1, method='lower'), np.percentile(values, 99, method='higher')
    return float(values[(values >= low) & (values <= high)].mean())


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The point at t [N, 1] on the great circle from a to b [N, z_dim], all brought to unit length."""
    a, b = _unit(a), _unit(b)
    dot = (a * b).sum(dim=1, keepdim=True)
    angle = t * dot.clamp(-1, 1).acos()
    return _unit(a * angle.cos() + _unit(b - dot * a) * angle.sin())


def _two_points(G, z, c, t, space, epsilon):
    """The latents [N, num_ws, w_dim] of the two images of each path."""
    if space == 'z':
        return [G.mapping(slerp(z[:, 0], z[:, 1], s), c) for s in (t, t + epsilon)]
    w0, w1 = G.mapping(z.transpose(0, 1).flatten(0, 1), c.repeat(2, 1)).chunk(2)
    return [w0.lerp(w1, s[:, :, None]) for s in (t, t + epsilon)]


def _unit(x):
    return x / x.norm(dim=1, keepdim=True)
