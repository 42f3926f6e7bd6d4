"""The rules of adversarial games: what each side wants of the critic's logits. `--loss` names a game.

They are three small functions of logits a_f (fakes) and a_r (reals), all [N]:

    G(a_f, a_r)         what the generator minimises
    D_fake(a_f)         what the critic minimises on fakes
    D_real(a_r)         what the critic minimises on reals

A paired game looks at the i-th fake and the i-th real together; its critic has one function, D(a_f, a_r).
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """The rules of one adversarial game: functions that take and return [N].

    `paired` games have `D` instead of `D_fake` and `D_real`.
    """
    G: Callable[[Tensor, Tensor | None], Tensor]
    D_fake: Callable[[Tensor], Tensor] | None = None
    D_real: Callable[[Tensor], Tensor] | None = None
    D: Callable[[Tensor, Tensor], Tensor] | None = None
    ratio: Callable[[Tensor], Tensor] | None = None     # G'(a) / D_fake'(a), a: a_f, or a_f - a_r; None: it has poles.
    zero_decides: bool = True       # Is logit 0 the border between real and fake? Adaptive augmentation needs that.

    def __post_init__(self):
        singles = [self.D_fake is None, self.D_real is None]
        assert singles == ([True] * 2 if self.paired else [False] * 2), 'a game has either D, or D_fake and D_real'

    @property
    def paired(self) -> bool:
        """Does the game compare the i-th fake with the i-th real?"""
        return self.D is not None


def opposite(a: Tensor) -> Tensor:
    """The ratio -1 of a game in which G wants the contrary of what the critic wants of fakes."""
    return -torch.ones_like(a)
