"""Gradient penalty on reals, R1 [Mescheder et al. 2018, arXiv:1801.04406].

    L = gamma/2 * ||grad_x D(x)||^2         x: a real before augmentation

The gradient flows through the augmentation. Part of every run unless gamma is 0.
"""
from dataclasses import dataclass

from losses_ext.option import option
from losses_ext.ramped import ramped
from torch_utils import misc, training_stats
from training.loss import StepContext
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of R1."""
    gamma: float | None = option(None, 'Strength of R1, the same as --gamma; none: by --cfg.', within='[0, inf)', filled=True)
    final: float | None = option(None, 'What it goes to as --ramp-kimg says; none: it stays.', within='[0, inf)', left_out=True)
    interval: int = option(16, 'The lazy step of D comes after so many main ones, and counts that much; 1: in every main '
                           'step, without rates of lazy regularization.', within='[1, inf)')


class R1(Regularizer):
    """Acts in a critic's lazy step, whose interval it sets for all methods that act there."""
    Options = Options
    strength = 'gamma'

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        config['D_reg_interval'] = None if options.interval == 1 else options.interval
        return options

    def d_reg(self, ctx: StepContext) -> Term:
        penalty = misc.squared_norms(ctx.real.input_grad())                         # [N]
        loss = penalty * (ramped(self.options.gamma, self.options.final, ctx) / 2)
        training_stats.report(f'Loss/r1_penalty{ctx.critic.suffix}', penalty)
        training_stats.report(f'Loss/{ctx.critic.name}/reg', loss)
        return loss
