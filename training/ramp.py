"""Numbers that go from a first to a last value while a run trains [Huang et al. 2024, arXiv:2501.05441, R3GAN's schedule].

    value = first + (1 - cos(pi * share)) / 2 * (last - first)          share = min(nimg / (1000 * ramp_kimg), 1)

or, with `ramp_shape` linear, first + share * (last - first). The configuration has them in `ramps`: `lr` multiplies the
learning rates, `beta2` is Adam's, `p` the strength of the augmentation, `ema_kimg` the half-life of the average of G. Terms
of methods follow `ctx.ramp`, the factor of (last - first).
"""
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from training.setup import lazy_rates

if TYPE_CHECKING:
    from training.setup import Run


def ramp(config: Mapping[str, Any], nimg: int) -> float:
    """How far the numbers have come after `nimg` images, 0..1; 0 in a run without ramps."""
    if config.get('ramps') is None:
        return 0.0
    share = min(nimg / (1000 * config['ramp_kimg']), 1)
    return share if config.get('ramp_shape') == 'linear' else (1 - math.cos(math.pi * share)) / 2


def ramped(config: Mapping[str, Any], name: str, nimg: int, otherwise: float) -> float:
    """The number of that name after `nimg` images; `otherwise` if it has no ramp."""
    if name not in (config.get('ramps') or {}):
        return otherwise
    first, last = config['ramps'][name]
    return first + ramp(config, nimg) * (last - first)


def follow_ramps(run: 'Run') -> None:
    """Gives optimizers and augmentation the numbers of the iteration that begins."""
    config, ramps = run.config, run.config.get('ramps') or {}
    for player in run.game.players if {'lr', 'beta2'} & ramps.keys() else ():
        rates = config['G_opt_kwargs' if player is run.game.G else 'D_opt_kwargs']
        beta1, beta2 = rates['betas']
        now = lazy_rates(dict(lr=rates['lr'] * ramped(config, 'lr', run.nimg, 1),
                              betas=[beta1, ramped(config, 'beta2', run.nimg, beta2)]), player.reg_interval)
        for group in player.optimizer.param_groups:
            group.update(lr=now['lr'], betas=tuple(now['betas']))
    if 'p' in ramps:
        run.game.augment.p.fill_(ramped(config, 'p', run.nimg, 0))
