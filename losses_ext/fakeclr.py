"""FakeCLR [Li et al. 2022, ECCV, arXiv:2207.08630]: the contrast of InsGen (insgen.py), of fakes alone.

    L_D += weight_fake * C(A G(z), A G(z'); H_f, Q_f)           z' = z + perturb * min(|z|, clamp) * n,   n ~ N(0, 1)
    L_G += weight_g * C(A G(z), A G(z); H_f, Q_f)

C, the head H_f, the queue Q_f: contrast.py; A: the augmentation of the run, drawn anew for
each view. Q_f takes the keys. How much an entry j of the queue counts depends on its age:

    t_j = 1 (constant),   0 (none),   or   exp(l_j / 0.01) / sum_i exp(l_i / 0.01)   (age)

l: the iterations in which the entries were written, divided by the largest, then by the 2-norm of them all.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from losses_ext.contrast import Contrast, Queue, require_entries, require_trained_head, require_views
from losses_ext.option import option
from training.loss import Game, StepContext
from training.regularizer import Term

AGE_TEMPERATURE = 0.01


@dataclass(frozen=True)
class Options:
    """Options of FakeCLR."""
    weight_fake: float = option(1.0, "Strength of the critic's contrast of fakes.", within='[0, inf)')
    weight_g: float = option(0.1, "Strength of the generator's contrast of fakes.", within='[0, inf)')
    temperature: float = option(0.2, 'T: the smaller, the more the nearest others count.', within='(0, inf)')
    momentum: float = option(0.999, 'Share of the old weights in the momentum copy of the critic.', within='[0, 1]')
    queue: int | None = option(None, 'Length of the queue of fakes; none: 5 % of the images, mirrored ones counted.',
                               within='[1, 1000000]')
    perturb: float = option(0.1, 'What is added to latents, as a share of their size.', within='[0, inf)')
    clamp: float = option(3.0, 'The size that counts at most.', within='(0, inf)')
    forget: str = option('constant', 'How much entries of the queue count more: all as the released code has it (constant), the '
                         'newest as its expression intends (age), none.', choices=('constant', 'age', 'none'))
    mixing: str = option('official', 'Has the neighbour of a fake styles mixed in by a draw of its own (official), or the '
                         'same ones (shared)?', choices=('official', 'shared'))


class FakeCLR(Contrast):
    """Adds one part to each critic's step on fakes, one to the generator's step."""
    Options = Options

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options, dict(fake=options.queue))

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        require_views('fakeclr', config)
        require_trained_head('fakeclr', options)
        require_entries('--fakeclr_queue', options.queue, config)
        return options

    @classmethod
    def is_off(cls, options: Options) -> bool:
        return options.weight_fake == options.weight_g == 0

    def d_fake(self, ctx: StepContext) -> Term:
        z = perturbed(ctx.gen_z, ctx.randn_like(ctx.gen_z, 'fakeclr'), self.options.perturb, self.options.clamp)
        term = self._contrast_fakes(ctx, z, keep='key')
        return None if term is None else self.options.weight_fake * term

    def _offsets(self, queue: Queue) -> Tensor | float:
        if self.options.forget == 'age':
            return newest(queue.written)
        return 1.0 if self.options.forget == 'constant' else 0.0


def perturbed(z: Tensor, noise: Tensor, share: float, most: float) -> Tensor:
    """z' [N,z_dim], of latents and standard normal noise of
    that shape: each number moves in proportion to its size."""
    return z + share * z.abs().clamp(max=most) * noise


def newest(written: Tensor) -> Tensor:
    """t [K], with the sum 1, from the iterations [K] in which entries were
    written. The newest have nearly all of it as long as they are few."""
    l = written / written.max()
    return torch.softmax(l / l.norm() / AGE_TEMPERATURE, dim=0)
