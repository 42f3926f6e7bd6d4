"""The rules of adversarial games: what each side wants of the critic's logits.

They are three small functions of logits a_f (fakes) and a_r (reals), all [N]:

    G(a_f, a_r)         what the generator minimises
    D_fake(a_f)         what the critic minimises on fakes
    D_real(a_r)         what the critic minimises on reals

A paired game (relativistic) looks at the i-th fake and the i-th real together; its critic has one function, D(a_f, a_r).

Sources: logistic [Goodfellow et al. 2014, arXiv:1406.2661], hinge [Lim and Ye 2017, arXiv:1705.02894], least squares
[Mao et al. 2017, arXiv:1611.04076], Wasserstein [Arjovsky et al. 2017, arXiv:1701.07875], relativistic paired
[Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441].
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Adversarial:
    """The rules of one adversarial game: functions that take and return [N].

    `paired` games have `D` instead of `D_fake` and `D_real`.
    """
    name: str
    G: Callable[[Tensor, Tensor | None], Tensor]
    D_fake: Callable[[Tensor], Tensor] | None = None
    D_real: Callable[[Tensor], Tensor] | None = None
    D: Callable[[Tensor, Tensor], Tensor] | None = None
    ratio: Callable[[Tensor], Tensor] | None = None     # G'(a) / D_fake'(a), a: a_f, or a_f - a_r; None: it has poles.
    zero_decides: bool = True       # Is logit 0 the border between real and fake? Adaptive augmentation needs that.

    @property
    def paired(self) -> bool:
        """Does the game compare the i-th fake with the i-th real?"""
        return self.D is not None


def opposite(a: Tensor) -> Tensor:
    """The ratio -1 of a game in which G wants the contrary of what the critic wants of fakes."""
    return -torch.ones_like(a)


ADVERSARIAL = {game.name: game for game in (
    Adversarial(
        'logistic',                                 # Non-saturating.
        G=lambda fake, _: softplus(-fake),
        D_fake=lambda fake: softplus(fake),
        D_real=lambda real: softplus(-real),
        ratio=lambda a: -torch.exp(-a)),
    Adversarial(
        'saturating',
        G=lambda fake, _: -softplus(fake),
        D_fake=lambda fake: softplus(fake),
        D_real=lambda real: softplus(-real),
        ratio=opposite),
    Adversarial(
        'hinge',
        G=lambda fake, _: -fake,
        D_fake=lambda fake: relu(1 + fake),
        D_real=lambda real: relu(1 - real)),
    Adversarial(
        'lsgan',                                    # Targets -1 and +1, so that 0 is the border.
        G=lambda fake, _: (fake - 1).square() / 2,
        D_fake=lambda fake: (fake + 1).square() / 2,
        D_real=lambda real: (real - 1).square() / 2),
    Adversarial(
        'wgan',
        G=lambda fake, _: -fake,
        D_fake=lambda fake: fake,
        D_real=lambda real: -real,
        ratio=opposite,
        zero_decides=False),
    Adversarial(
        'relativistic',
        G=lambda fake, real: softplus(real - fake),
        D=lambda fake, real: softplus(fake - real),
        ratio=lambda a: -torch.exp(-a),
        zero_decides=False),
)}
