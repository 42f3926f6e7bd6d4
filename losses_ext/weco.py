"""Weight-discrepancy co-training, the WeCo half of GenCo [Cui et al. 2022, "GenCo:
Generative Co-training for Generative Adversarial Networks with Limited Data", AAAI, arXiv:2110.01254].

A second critic D2 sees the same images as D, and its weights are pushed away from D's:

    L_D2 += w_t * (1 + <theta_1, theta_2> / (|theta_1| |theta_2|))        w_t = weight * (1 - progress)

theta_1, theta_2: all parameters of D and D2 as one vector each; theta_1 is a constant.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from losses_ext.option import option
from torch_utils import training_stats
from training.loss import Game, StepContext
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of WeCo."""
    weight: float = option(0.01,
                           'Strength of the push (tiny next to the rest; what helps is the second critic).',
                           within='[0, inf)')
    decay: str = option('linear', 'To 0 over the run, or not at all.', choices=('linear', 'none'))
    both: bool = option(False, 'Push the first critic as well.')
    mode: str = option('global', 'Cosine of all weights, or the mean over layers.',
                       choices=('global', 'layer'))
    twin: bool = option(False, 'Keep the second critic at weight 0, too: a twin without push.')


class WeCo(Regularizer):
    """A twin of D that must not become like it; one for each source of data."""
    Options = Options
    works_apart = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self._others = {}           # {name of a critic that is pushed: the critic it is pushed away from}
        for critic in game.first_critics:
            twin = game.add_critic(f'D2{critic.suffix}', source=critic.source)
            parameter_pairs(critic.module, twin.module)         # Raises if they do not match.
            self._others[twin.name] = critic
            if options.both:
                self._others[critic.name] = twin

    @classmethod
    def is_off(cls, options: Options) -> bool:
        return options.weight == 0 and not options.twin

    def d_fake(self, ctx: StepContext) -> Term:
        other = self._others.get(ctx.critic.name)
        if other is None:
            return None
        cosine = weight_cosine(parameter_pairs(other.module, ctx.critic.module), self.options.mode)
        training_stats.report(f'Loss/weco/cosine{ctx.critic.suffix}', cosine)
        if self.options.weight == 0:
            return None
        return push(cosine, self.options.weight, ctx.remaining if self.options.decay == 'linear' else 1)


def push(cosine: Tensor, weight: float, remaining: float | Tensor) -> Tensor:
    """The term, []: `weight` goes to 0 with `remaining`, the share of the run that is still to come."""
    return (1 + cosine) * weight * remaining


def parameter_pairs(constant: torch.nn.Module, learning: torch.nn.Module) -> list[tuple[Tensor, Tensor]]:
    """[(theta_1, theta_2)] of two critics, the first ones
    detached. Layers that a method grafted on one are left out.

    Raises ValueError for the first tensor whose shapes differ.
    """
    mine = dict(learning.named_parameters())
    pairs = [(tensor.detach(), mine[name]) for name, tensor in constant.named_parameters() if name in mine]
    for name, tensor in constant.named_parameters():
        if name in mine and tensor.shape != mine[name].shape:
            raise ValueError(f'--reg_type=weco compares critics of one architecture, but {name} has shape '
                             f'{list(tensor.shape)} in one and {list(mine[name].shape)} in the other')
    return pairs


def weight_cosine(pairs: list[tuple[Tensor, Tensor]], mode: str = 'global') -> Tensor:
    """Cosine [] between two sets of weights, given as pairs of
    tensors; with `layer` the mean of the pairs' own cosines."""
    if mode == 'global' and pairs[0][1].is_cuda:            # GPUs take as long for a call as for a layer.
        return joined_cosine(pairs)
    dots = torch.stack([(a * b).sum() for a, b in pairs])
    squares = [torch.stack([tensor.square().sum() for tensor in side]) for side in zip(*pairs)]
    if mode == 'global':
        dots, squares = dots.sum(), [side.sum() for side in squares]
    norms = (squares[0] * squares[1]).clamp(min=1e-16).sqrt()       # A tensor of zeros has cosine 0.
    return (dots / norms).mean()


def joined_cosine(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The same of all weights but for rounding: each side is copied into one vector."""
    orders = [sorted(range(b.ndim), key=b.stride, reverse=True) for _, b in pairs]      # As they lie in memory.
    a, b = (torch.cat([tensor.permute(order).flatten() for tensor, order in zip(side, orders)]) for side in zip(*pairs))
    return torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-8)
