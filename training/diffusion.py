"""Forward diffusion as an augmentation, Diffusion-GAN [Wang et al. 2023, ICLR, arXiv:2206.02262].

    y = sqrt(abar_t) x + 0.05 sqrt(1 - abar_t) eps              eps ~ N(0, 1)
    abar_t = prod over s = 1 ... t of (1 - beta_s)              beta_s: from 1e-4 to 2e-2 in equal steps over s = 1 ... T
    T = 10 + round(990 p),   0 <= p <= 1

Half of the images have t = 0 and stay as they are; the others have t in 1 ... T, with a chance in proportion to t - 1
(priority) or all alike (uniform). p is adapted as that of adaptive augmentation is. On request t stands behind the labels
that critics get.

Same interface as `training.augment.AugmentPipe`: draw, transform, warp, forward.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST, MOST = 10, 1000             # T.
BETAS = 1e-4, 2e-2
NOISE = 0.05
CHANCES = ('priority', 'uniform')


@dataclass(frozen=True)
class Draw:
    """Everything random about one augmentation of one batch."""
    shape: tuple                    # N, C, H, W of the images.
    t: Tensor                       # [N] int64, steps of each image.
    kept: Tensor                    # [N], abar_t.
    noise: Tensor                   # [N,C,H,W], eps.

    def keep_mask(self, res: int) -> None:
        """Nothing is cut out."""


class Diffusion(torch.nn.Module):
    """Diffusion of image batches [N,C,H,W], float32. No parameters; the buffer `p` is the strength.

    Arguments: `chance`, of CHANCES (raises ValueError for others); `append`: are critics told t?
    """
    most_p = 1.0                    # An adapted p is no larger.

    def __init__(self, chance: str = 'priority', append: bool = False):
        super().__init__()
        if chance not in CHANCES:
            raise ValueError(f'Diffusion: chance {chance!r} is none of {", ".join(CHANCES)}')
        self.init_kwargs = dict(chance=chance, append=append)
        self.chance = chance
        self.tells = append
        self.register_buffer('p', torch.ones([]))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws and transforms: [N,C,H,W] -> [N,C,H,W]."""
        return self.transform(images, self.draw(images, generator))

    @torch.no_grad()
    def draw(self, images_or_shape: Tensor | Sequence[int], generator: torch.Generator | None = None) -> Draw:
        """Makes all random choices for a batch of this shape (N, C, H, W)."""
        shape = tuple(getattr(images_or_shape, 'shape', images_or_shape))
        options = dict(device=self.p.device, generator=generator)
        T = chain_length(self.p)
        u, is_touched = torch.rand([2, shape[0]], **options)                        # [N], [N]
        t = draw_t(u, T, self.chance) * (is_touched < 0.5)
        return Draw(shape, t, kept_share(T)[t], torch.randn(shape, **options))

    def transform(self, images: Tensor, draw: Draw) -> Tensor:
        """Applies `draw`, made for this shape: [N,C,H,W] -> [N,C,H,W]."""
        assert images.shape == draw.shape, f'images {list(images.shape)}, drawn for {list(draw.shape)}'
        kept = draw.kept[:, None, None, None]
        return kept.sqrt() * images + NOISE * (1 - kept).sqrt() * draw.noise

    def with_told(self, c: Tensor, draw: Draw) -> Tensor:
        """Labels c [N,c_dim] with t of each image behind, [N,c_dim + 1], as a plain number."""
        return torch.cat([c, draw.t[:, None].to(c.dtype)], dim=1)

    def warp(self, maps: Tensor, draw: Draw, form: str = 'aligned') -> Tensor:
        """The maps themselves: nothing moves."""
        return maps


def chain_length(p: Tensor) -> Tensor:
    """T, [] int64."""
    return (FEWEST + ((MOST - FEWEST) * p).round()).clamp(FEWEST, MOST).long()


def draw_t(u: Tensor, T: Tensor, chance: str) -> Tensor:
    """t in 1 ... T, [N] int64, of uniform numbers u [N] in [0, 1)."""
    if chance == 'uniform':
        t = 1 + (u * T).floor()
    else:                           # The smallest t with t (t - 1) / 2 > u T (T - 1) / 2: the sum of the chances up to it.
        t = 1 + ((1 + (1 + 4 * u * T * (T - 1)).sqrt()) / 2).floor()
    return t.long().clamp(max=T)


def kept_share(T: Tensor) -> Tensor:
    """abar_t for t = 0 ... MOST, [MOST + 1]; what is behind T is of no use."""
    steps = torch.arange(MOST, device=T.device)
    first, last = BETAS
    beta = (first + (last - first) * steps / (T - 1)).clamp(max=last)
    return torch.cat([torch.ones([1], device=T.device), torch.log1p(-beta).cumsum(0).exp()])
