"""Consistency regularization, CR [Zhang et al. 2020, ICLR, arXiv:1910.12027].

The critic's logit of a real must not change when the image is moved a little:

    L = weight * (D(x) - D(A x))^2          x: a real, augmented; A: consistency.py

There is no factor 1/2, and both logits have gradients.
"""
import sys
from dataclasses import dataclass

from losses_ext.consistency import Moving, change_of_logits
from losses_ext.option import option
from torch_utils import training_stats
from training.loss import StepContext
from training.regularizer import Term


@dataclass(frozen=True)
class Options:
    """Options of CR."""
    weight: float = option(10.0, 'Strength of CR.', within='[0, inf)')
    shift: float = option(0.03125, 'Farthest shift, as a share of the size.', within='[0, 0.5]')
    flip: float = option(0.0, 'Chance of a mirror image.', within='[0, 1]')


class CR(Moving):
    """Adds the term to each critic's step on reals."""
    Options = Options

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        if 'bcr' in config['regularizers']:
            print('Warning: --reg_type=cr,bcr: bcr has the term of cr, which now counts twice.', file=sys.stderr)
        return super().configure(config, options)

    def d_real(self, ctx: StepContext) -> Term:
        change = change_of_logits(self.game, ctx, ctx.real, self._moved, 'cr')      # [N]
        training_stats.report(f'Loss/cr/real{ctx.critic.suffix}', change)
        return self.options.weight * change
