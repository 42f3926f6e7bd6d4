"""Path length regularization [Karras et al. 2020, arXiv:1912.04958, equation 4].

    L = weight * (||J_w^T y||_2 - a)^2

J_w: derivative of the image by w; y: a random image of unit length in expectation; a: running mean of the
lengths ||J_w^T y||. Part of every run unless the weight is 0.
"""
from dataclasses import dataclass

import torch

from losses_ext.option import option
from torch_utils import misc, training_stats
from torch_utils.ops.conv2d_gradfix import no_weight_gradients
from training.loss import Game, StepContext
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of path length regularization."""
    weight: float | None = option(None, 'Strength of path length regularization; none: 2, with --cfg=cifar 0.',
                                  within='[0, inf)', filled=True)
    decay: float = option(0.01, 'Share of the newest lengths in their running mean.', within='(0, 1]')
    batch_shrink: int = option(2, 'The lazy step of G takes one of so many parts of a micro-batch, to save memory.',
                               within='[1, inf)')
    interval: int = option(4, 'The lazy step of G comes after so many main ones, and counts that much; 1: in every main '
                           'step, without rates of lazy regularization.', within='[1, inf)')


class PathLength(Regularizer):
    """Acts in the generator's lazy step, whose interval and size it sets for all methods that act there."""
    Options = Options

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        game.reg_batch_shrink = options.batch_shrink
        self._mean = torch.zeros([], device=next(game.G.module.parameters()).device)

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        config['G_reg_interval'] = None if options.interval == 1 else options.interval
        return options

    def g_reg(self, ctx: StepContext) -> Term:
        img, ws = ctx.gen.img, ctx.gen.ws
        y = ctx.randn_like(img, 'pl_noise') / (img.shape[2] * img.shape[3]) ** 0.5
        with no_weight_gradients():
            jacobian, = torch.autograd.grad((img * y).sum(), [ws], create_graph=True)   # [N,num_ws,w_dim]
        lengths = jacobian.square().sum(2).mean(1).sqrt()                           # [N]
        mean = self._mean.lerp(lengths.mean(), self.options.decay)                  # Part of the graph.
        self._mean.copy_(misc.finite_or(mean.detach(), self._mean))
        penalty = (lengths - mean).square()
        training_stats.report('Loss/pl_penalty', penalty)
        return training_stats.report('Loss/G/reg', penalty * self.options.weight)

    def state_dict(self) -> dict:
        return dict(mean=self._mean)

    def load_state_dict(self, state: dict) -> None:
        self._mean.copy_(state['mean'])
