"""Who takes part in a run: players and regularizers, and which of them a step asks. No tensor is computed here."""
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_utils.randomness import Streams
from training.player import Player
from training.regularizer import LAZY_SITES, SITES, Regularizer, overrides

if TYPE_CHECKING:
    from training.context import Phase, StepContext


class Cast:
    """G, the critics, and the regularizers. What they do with one another is `Game` (loss.py)."""

    def __init__(self, G: Player, D: Player, seed: int = 0):
        self.G = G
        self.G_ema: torch.nn.Module | None = None       # Once the run has one.
        self.critics = {D.name: D}
        self.helpers: dict[str, Player] = {}            # Players that only the method knows which brought them.
        self.frozen: dict[str, torch.nn.Module] = {}    # Copies of players that methods keep; saved with the run.
        self.frozen_of: dict[str, str] = {}             # Name of the player, where it is not G.
        self.seed = seed                                # Of the weights of further critics.
        self.regularizers: list[Regularizer] = []
        self.shares: Any = None                         # Measures what each of them does, if anyone wants to know.

    @property
    def D(self) -> Player:
        """The first critic."""
        return next(iter(self.critics.values()))

    @property
    def main_players(self) -> list[Player]:
        """G and all critics that learn in this process."""
        return [self.G, *(critic for critic in self.critics.values() if critic.is_here)]

    @property
    def players(self) -> list[Player]:
        """All that learn in this process."""
        return [*self.main_players, *self.helpers.values()]

    def add_critic(self, name: str, view: Callable | None = None, source: int = 0) -> Player:
        """One more critic like D; its fresh weights are the same whatever other methods there are."""
        assert name not in self.critics, f'there is a critic {name} already'
        seed = Streams(self.seed).seed_of(0, f'weights/{name}')
        critic = type(self.D)(name, self.D._make_module, self.D._make_optimizer, self.D.reg_interval, view, seed)
        critic.source = source
        self.critics[name] = critic
        return critic

    def add_helper(self, name: str, make_module: Callable[[], torch.nn.Module], view: Callable | None = None,
                   source: int = 0) -> Player:
        """A player with a network of a method's own, and an optimizer like D's. It learns in the method's own phases, and no
        other method acts on it; its fresh weights are the same whatever other methods there are."""
        assert name not in (*self.critics, *self.helpers), f'there is a player {name} already'
        seed = Streams(self.seed).seed_of(0, f'weights/{name}')
        helper = Player(name, make_module, self.D._make_optimizer, self.D.reg_interval, view, seed)
        helper.source = source
        self.helpers[name] = helper
        return helper

    def keep_copy(self, name: str, player: Player) -> torch.nn.Module:
        """A copy of a player's network as it is now, which does not learn; what was kept under this name goes."""
        self.frozen[name] = copy.deepcopy(player.module).requires_grad_(False)
        self.frozen_of[name] = player.name
        return self.frozen[name]

    def critics_of(self, source: int) -> list[Player]:
        """The critics that judge one source's reals."""
        return [critic for critic in self.critics.values() if critic.source == source]

    @property
    def first_critics(self) -> list[Player]:
        """The first critic of every source: those that see whole images and came before what methods added."""
        return list({critic.source: critic for critic in reversed(self.critics.values())}.values())[::-1]

    def having(self, hook: str) -> list[Regularizer]:
        """The regularizers that have a hook or act at a site."""
        return [r for r in self.regularizers if (hook in r.sites if hook in SITES else overrides(r, hook))]

    def due(self, site: str, batch_idx: int) -> list[Regularizer]:
        """The regularizers that act at a site in this iteration. In lazy phases the phase itself says when."""
        lazy = site in LAZY_SITES
        return [r for r in self.having(site) if lazy or batch_idx % r.interval == 0]

    def acting_in(self, phase: Phase) -> list[Regularizer]:
        """The regularizers that have a say in what a phase does."""
        return [r for r in self.regularizers if r is phase.owner or r.sites & phase.step.sites]

    def note_term(self, ctx: StepContext, regularizer: Regularizer, site: str, term: Any) -> None:
        """Hands on what a regularizer adds, if shares of the gradient are being measured."""
        if self.shares is not None:
            self.shares.note_term(ctx, regularizer, site, term)

    def leaf(self, ctx: StepContext, *sites: str) -> str | None:
        """Where a critic's graph has to begin, at 'img' or 'seen', since terms differentiate with respect to that."""
        wanted = {r.leaf for site in sites for r in self.due(site, ctx.batch_idx)}
        return 'img' if 'img' in wanted else 'seen' if 'seen' in wanted else None

    def take_reals(self, ctx: StepContext, img: Tensor, c: Tensor) -> None:
        """Gives a micro-batch its reals and their labels, as regularizers make them: the same for all critics and terms."""
        for regularizer in self.having('reals'):
            img, c = regularizer.reals(ctx, img, c)
        ctx.real_img, ctx.real_c = img, c
