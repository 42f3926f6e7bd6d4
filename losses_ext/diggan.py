"""Discriminator gradient gap, DigGAN [Fang et al. 2022, arXiv:2211.14694].

The critic's gradient with respect to its input must be as long on reals as on fakes:

    L = weight * (||grad D(x_r)|| - ||grad D(x_f)||)^2      x_r: real, x_f: fake, a constant

Lengths are taken over all pixels of an image, the i-th real is paired with the i-th fake,
and the mean is over pairs.

With `pair=mean` it is the gap of the mean lengths, whose gradient has a factor that only the whole batch
knows:

    L = weight * gap^2,    dL = 2 weight * gap * d gap,    gap = mean ||grad D(x_r)|| - mean ||grad D(x_f)||

Every micro-batch adds its part of gap and of d gap; their product joins the critic's gradient
at the end of the phase.
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses_ext.option import option
from losses_ext.running_mean import WithRunningMeans
from torch_utils import distributed, training_stats
from training.loss import Game, Phase, StepContext, Verdict
from training.regularizer import Term


@dataclass(frozen=True)
class Options:
    """Options of DigGAN."""
    weight: float | None = option(None, 'Strength of DigGAN; none: 5 times --gamma.', within='[0, inf)', filled=True)
    interval: int = option(4, 'Act on every k-th iteration, and count k-fold then.', within='[1, inf)')
    pair: str = option('sample', 'Compare the norms pair by pair, or their means over the batch.',
                       choices=('sample', 'mean'))
    wrt: str = option('aug',
                      'Gradient with respect to what the critic sees, or to the image before augmentation.',
                      choices=('aug', 'image'))
    ema: float = option(0.0, 'Share of the running mean in every norm; 0.5 is near the official code.',
                        within='[0, 1)')


class DigGAN(WithRunningMeans):
    """Adds the gap of each critic to its main step."""
    Options = Options
    works_apart = True
    of_both = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options, options.ema)
        self.interval = options.interval
        self.leaf = 'seen' if options.wrt == 'aug' else 'img'
        # By critic: gap [] of each micro-batch so far; the sum of their d gap, for each of its parameters.
        self._gaps: dict[str, list[Tensor]] = {}
        self._slopes: dict[str, list[Tensor | None]] = {}

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        gamma = config['loss_kwargs']['r1_gamma']
        if options.weight is None and gamma == 0:
            raise ValueError('--diggan_weight is 5 times --gamma unless given, and --gamma is 0: give --diggan_weight')
        return replace(options, weight=5.0 * gamma if options.weight is None else options.weight)

    def d_pair(self, ctx: StepContext) -> Term:
        n_r = self._norms(ctx, ctx.real, 'real')                                    # [N]
        n_f = self._norms(ctx, ctx.fake, 'fake')                                    # [N]
        if self.options.pair == 'mean':
            return self._hold(ctx, n_r.mean() - n_f.mean())
        gap = squared_gap(n_r, n_f)
        training_stats.report(f'Loss/diggan/gap{ctx.critic.suffix}', gap)
        return self.options.weight * gap

    def _hold(self, ctx: StepContext, gap: Tensor) -> None:
        """Keeps a micro-batch's gap of means and its gradient until those of the whole batch are known."""
        name, parameters = ctx.critic.name, list(ctx.critic.module.parameters())
        slopes = torch.autograd.grad(gap * ctx.share, parameters, retain_graph=True, allow_unused=True)
        if ctx.round == 0:                                  # Also of a phase that began anew.
            self._gaps[name], self._slopes[name] = [], [None] * len(parameters)
        self._gaps[name].append(gap.detach())
        self._slopes[name] = [added if slope is None else slope if added is None else slope + added
                              for slope, added in zip(self._slopes[name], slopes)]

    def end_phase(self, phase: Phase) -> None:
        (gaps, self._gaps), (slopes, self._slopes) = (self._gaps, {}), (self._slopes, {})
        gaps = {name: torch.stack(parts).mean() for name, parts in gaps.items()}
        distributed.all_reduce_mean_(list(gaps.values()))
        for name, gap in gaps.items():
            critic = self.game.critics[name]
            training_stats.report(f'Loss/diggan/gap{critic.suffix}', gap.square())
            for parameter, slope in zip(critic.module.parameters(), slopes[name]):
                if slope is not None:
                    grad = slope * (2 * self.options.weight * self.gain * gap)
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _norms(self, ctx: StepContext, verdict: Verdict, kind: str) -> Tensor:
        """Norms of the input gradients [N], pulled towards their running mean."""
        norms = gradient_norms(verdict.input_grad(self.leaf))
        training_stats.report(f'Loss/diggan/norm_{kind}{ctx.critic.suffix}', norms)
        if self.options.ema == 0:
            return norms
        name = f'{ctx.critic.name}/{kind}'
        self._means.add(name, ctx.round, norms)
        mean = self._means.get(name)
        return norms if mean is None else torch.lerp(norms, mean, self.options.ema)


def gradient_norms(grad: Tensor) -> Tensor:
    """||grad_i|| of input gradients [N,...] over all entries
    of an image, [N]. Its derivative at zero is zero."""
    return grad.flatten(1).norm(dim=1)


def squared_gap(n_r: Tensor, n_f: Tensor) -> Tensor:
    """The term of lengths on reals and fakes, [N], without its weight."""
    return (n_r - n_f).square()
