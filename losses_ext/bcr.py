"""Balanced consistency regularization, bCR [Zhao et al. 2021, AAAI, arXiv:2002.04724].

The critic's logit must not change when an image is moved a little, be it a real or a fake. (CR
asks that of reals alone, so that the generator can learn to imitate what A does to images.)

    L = weight_real * (D(x_r) - D(A x_r))^2 + weight_fake * (D(x_f) - D(A x_f))^2

x_r, x_f: a real and a fake, augmented, the fake a constant; A:
consistency.py. There is no factor 1/2, and both logits have gradients.
"""
from dataclasses import dataclass

from losses_ext.consistency import Moving, change_of_logits
from losses_ext.option import option
from torch_utils import training_stats
from training.loss import StepContext, Verdict
from training.regularizer import Term


@dataclass(frozen=True)
class Options:
    """Options of bCR."""
    weight_real: float = option(10.0, 'Strength of bCR on reals.', within='[0, inf)')
    weight_fake: float = option(10.0, 'Strength of bCR on fakes.', within='[0, inf)')
    shift: float = option(0.03125, 'Farthest shift, as a share of the size.', within='[0, 0.5]')
    flip: float = option(0.0, 'Chance of a mirror image.', within='[0, 1]')


class BCR(Moving):
    """Adds one part to each critic's step on fakes, the other to that on reals."""
    Options = Options

    @classmethod
    def is_off(cls, options: Options) -> bool:
        return options.weight_real == options.weight_fake == 0

    def d_fake(self, ctx: StepContext) -> Term:
        return self._term(ctx, 'fake', ctx.fake, self.options.weight_fake)

    def d_real(self, ctx: StepContext) -> Term:
        return self._term(ctx, 'real', ctx.real, self.options.weight_real)

    def _term(self, ctx: StepContext, kind: str, verdict: Verdict, weight: float) -> Term:
        if weight == 0:
            return None
        change = change_of_logits(self.game, ctx, verdict, self._moved, f'bcr_{kind}')      # [N]
        training_stats.report(f'Loss/bcr/{kind}{ctx.critic.suffix}', change)
        return weight * change
