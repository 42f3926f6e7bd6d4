"""Gradient penalty on fakes, R2 [Mescheder et al. 2018, arXiv:1801.04406].

    L = gamma/2 * ||grad_x D(x)||^2         x: a fake before augmentation, a constant

Same as R1, which is on reals; together they make a critic flat on both sides.
"""
import sys
from dataclasses import dataclass, replace

from torch import Tensor

from losses_ext.option import option
from losses_ext.ramped import ramped
from torch_utils import misc, training_stats
from training.loss import Game, StepContext, Verdict
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of R2."""
    gamma: float | None = option(None, 'Strength of R2; none: as --gamma.', within='[0, inf)', filled=True)
    final: float | None = option(None, 'What it goes to as --ramp-kimg says; none: with --r1_final, as that.', within='[0, inf)',
                                 left_out=True)
    interval: int | None = option(None, 'Act on every k-th iteration, and count k-fold then; none: together with R1.',
                                  within='[1, inf)')


class R2(Regularizer):
    """Acts in a critic's lazy step, or, with an interval of its own, in its main step."""
    Options = Options
    works_apart = True
    strength = 'gamma'
    leaf = 'img'

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self.act_lazily_unless(options.interval, 'd_reg_pair', 'd_pair')

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        gamma = config['loss_kwargs']['r1_gamma']
        if options.gamma is None and gamma == 0:
            raise ValueError('--r2_gamma is that of R1 unless given, and --gamma is 0: give --r2_gamma')
        gamma = gamma if options.gamma is None else options.gamma
        interval = config['D_reg_interval'] if options.interval is None else options.interval
        if 'diggan' in config['regularizers']:
            print('Warning: --reg_type=diggan,r2: R1 and R2 together leave little for DigGAN to do.',
                  file=sys.stderr)
        final = config['loss_kwargs'].get('r1_final') if options.final is None and options.gamma is None else options.final
        return replace(options, gamma=gamma, interval=interval, final=final)

    def d_reg_pair(self, ctx: StepContext) -> Term:
        return self._penalty(ctx, self.game.judge_fakes(ctx, ctx.critic, leaf='img', report=False))

    def d_pair(self, ctx: StepContext) -> Term:
        return self._penalty(ctx, ctx.fake)

    def _penalty(self, ctx: StepContext, fake: Verdict) -> Tensor:
        penalty = misc.squared_norms(fake.input_grad())                             # [N]
        training_stats.report(f'Loss/r2/penalty{ctx.critic.suffix}', penalty)
        return penalty * (ramped(self.options.gamma, self.options.final, ctx) / 2)
