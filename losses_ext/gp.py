"""Gradient penalty centred at one, as of WGAN-GP [Gulrajani et al. 2017, arXiv:1704.00028, equation 3].

    L = weight * (||grad D(x)|| - 1)^2      x = u x_r + (1 - u) x_f, u uniform in 0..1

x_r: the i-th real, x_f: the i-th fake, both before augmentation and constants.
"""
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses_ext.option import option
from torch_utils import training_stats
from training.loss import Game, StepContext
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of the gradient penalty."""
    weight: float = option(10.0, 'Strength of the gradient penalty.', within='[0, inf)')
    interval: int | None = option(None, 'Act on every k-th iteration, and count k-fold then; none: where R1 would act.',
                                  within='[1, inf)')


class GradientPenalty(Regularizer):
    """Acts in a critic's lazy step, or, with an interval of its own, in its main step."""
    Options = Options
    works_apart = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self.act_lazily_unless(options.interval, 'd_reg_pair', 'd_fake')

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        interval = config['D_reg_interval'] if options.interval is None else options.interval
        if config['loss_kwargs']['r1_gamma'] > 0:
            raise ValueError('--reg_type=gp wants gradients of length 1, R1 wants none: give --gamma=0')
        if config['regularizers'].get('r2', {'gamma': 0})['gamma'] > 0:
            raise ValueError('--reg_type=gp wants gradients of length 1, r2 wants none: leave out one of them')
        if 'diggan' in config['regularizers']:
            print('Warning: --reg_type=diggan,gp: gp alone makes gradients equally long.', file=sys.stderr)
        return replace(options, interval=interval)

    def d_reg_pair(self, ctx: StepContext) -> Term:
        return self._penalty(ctx)

    def d_fake(self, ctx: StepContext) -> Term:
        return self._penalty(ctx)

    def _penalty(self, ctx: StepContext) -> Tensor:
        u = torch.rand([len(ctx.real_img), 1, 1, 1], device=ctx.real_img.device, generator=ctx.rng('gp'))
        img = between(ctx.gen.img, ctx.real_img, u)                                 # [N,C,H,W]
        verdict = self.game.judge(ctx, ctx.critic, img, ctx.real_c, f'aug_gp/{ctx.critic.name}', leaf='img')
        norms = verdict.input_grad().flatten(1).norm(dim=1)                         # [N]
        penalty = distance_to_one(norms)
        training_stats.report(f'Loss/gp/norm{ctx.critic.suffix}', norms)
        training_stats.report(f'Loss/gp/penalty{ctx.critic.suffix}', penalty)
        return self.options.weight * penalty


def between(fake: Tensor, real: Tensor, u: Tensor) -> Tensor:
    """u real + (1 - u) fake, without the fakes' graph; u is [N,1,1,1]."""
    return fake.detach().lerp(real, u)


def distance_to_one(norms: Tensor) -> Tensor:
    """The penalty of gradients of these lengths, [N], without its weight."""
    return (norms - 1).square()
