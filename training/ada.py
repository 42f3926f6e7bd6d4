"""Adaptive strength of the augmentation [Karras et al. 2020, arXiv:2006.06676, section 3].

The critic overfits when it is sure of the training images: r = mean of sign(D(real)) rises towards 1.
The strength p of the augmentation follows r in small steps:

    p <- max(p + sign(r - target) * nimg / (1000 * kimg), 0)        nimg: images since the last step

p has no upper limit. From 1 on, every transformation whose multiplier is 1 is certain to happen; a larger p
only takes longer to fall again.
"""
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class AdaptiveStrength:
    """The rule above. Its only state is `num_skipped`, the number of steps that it could not take.

    Arguments:
        target      wanted mean sign of the critic's logits on training images
        kimg        thousands of images in which p moves by 1
        interval    training iterations between two steps
        batch_size  images per iteration, of all processes

    Raises ValueError unless kimg, interval and batch_size are positive.
    """

    def __init__(self, target, kimg, interval, batch_size):
        for name, value in {'kimg': kimg, 'interval': interval, 'batch_size': batch_size}.items():
            if not value > 0:
                raise ValueError(f'ada {name}: {value} must be more than 0')
        self.target = target
        self.speed = batch_size * interval / (1000 * kimg)
        self.num_skipped = 0

    def step(self, p: Tensor, mean_sign: float) -> Tensor:
        """The next strength, a new tensor like p (scalar). `mean_sign`: float, since the last step,
        of all processes.

        A mean that is not a number (no logits were reported, or they were not finite) leaves p as it is,
        is counted in `num_skipped`, and warned about.
        """
        if math.isnan(mean_sign):
            self.num_skipped += 1
            warnings.warn(f'augmentation strength stays at its value: the mean sign of the real logits is not a number '
                          f'(occurrence {self.num_skipped})', RuntimeWarning, stacklevel=2)
            return p.clone()
        direction = (mean_sign > self.target) - (mean_sign < self.target)
        return (p + direction * self.speed).clamp(min=0)


def follow_held_out(p: Tensor, r_v: float, nimg: int, config: Mapping[str, Any]) -> None:
    """Moves the strength p by the overfitting r_v [ibid.] as the signs would have moved it in `nimg` images.
    Without r_v, NaN, it stays."""
    if math.isfinite(r_v):
        p.copy_(AdaptiveStrength(config['target'], config['ada_kimg'], 1, nimg).step(p, r_v))
