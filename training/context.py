"""What a step is given and what it hands on: a phase, one micro-batch of it, and what one generator pass returns."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from training.player import Player

if TYPE_CHECKING:
    from training.loss import Game, Verdict


@dataclass
class Phase:
    """A stretch of one iteration that ends in one optimizer step of `players`; due every `interval` iterations."""
    name: str
    step: Callable[[Game, StepContext], None]
    players: list[Player]
    interval: int = 1
    critic: Player | None = None
    every_source: bool = False      # Without a critic: on every source of the stage, or on its `reg_source` alone?
    owner: Any = None               # The regularizer that brought it, if any did.
    drawn: dict = field(default_factory=dict)   # {kind of step: what the last one drew of augmentations}, on GPUs.


def offers(*sites: str) -> Callable[[Callable], Callable]:
    """Says at which sites of a step regularizers may add terms."""
    def mark(step):
        step.sites = frozenset(sites)
        return step
    return mark


@dataclass
class Generated:
    """One generator pass."""
    img: Tensor                     # [N,C,H,W]
    c: Tensor                       # [N,c_dim], the labels G got.
    ws: Tensor                      # [N,num_ws,w_dim], after style mixing.
    feats: dict[int, Tensor]        # {res: [N,Ch,res,res]}, the maps that somebody tapped.


def with_told(augment: Any, c: Tensor, draw: Any) -> Tensor:
    """Labels c [N,c_dim] as critics get them: with what an augmentation tells them of a draw behind, if it does."""
    return augment.with_told(c, draw) if getattr(augment, 'tells', False) else c


@dataclass
class StepContext:
    """One micro-batch of one phase, and everything already computed from it. N is the size of the micro-batch."""
    game: Game
    phase: Phase
    streams: Any                    # Random numbers: `generator(nimg, consumer)`.
    nimg: int = 0                   # Images shown before this iteration.
    batch_idx: int = 0              # Iterations before this one.
    remaining: float | Tensor = 1.0  # Share of the run that is still to come, 1..0.
    ramp: float | Tensor = 0.0      # How far numbers that change have come, 0..1 (ramp.py).
    round: int = 0                  # Which micro-batch of the phase.
    source: int = 0                 # Which of the stage's sources.
    real_img: Tensor | None = None  # [N,C,H,W] in -1..1, as critics see them (`Game.take_reals`).
    real_c: Tensor | None = None    # [N,c_dim] of the reals.
    gen_z: Tensor | None = None     # [N,z_dim]
    gen_c: Tensor | None = None     # [N,G.c_dim] of the fakes, for G.
    fake_c: Tensor | None = None    # [N,c_dim] of the fakes, for critics: `gen_c` unless G knows more.
    iteration: dict = field(default_factory=dict)   # Shared by all micro-batches of an iteration.
    gen: Generated | None = None    # Filled by the step.
    fake: Verdict | None = None
    real: Verdict | None = None
    critic: Player | None = None    # The critic that learns; of the phase, unless said otherwise.
    draws: Any = None               # Draws of the augmentation that are made beforehand (graphs.py).
    ahead: list | None = None       # Likewise without graphs: (augmentation, shape, use, draw).
    share: float = 1.0              # Size relative to the configured micro-batches (less: memory had run out).

    def __post_init__(self):
        self.fake_c = self.gen_c if self.fake_c is None else self.fake_c
        self.critic = self.critic or self.phase.critic

    def rng(self, use: str) -> torch.Generator:
        """The generator for one use of random numbers in this micro-batch of this phase."""
        return self.streams.generator(self.nimg, self._consumer(use))

    def numpy_rng(self, use: str) -> np.random.Generator:
        """The same for NumPy."""
        return self.streams.numpy(self.nimg, self._consumer(use))

    def _consumer(self, use):
        return f'{self.phase.name}/{self.source}/{self.round}/{use}'

    def shared_rng(self, use: str) -> torch.Generator:
        """The same for a use that all phases of the iteration share."""
        return self.streams.generator(self.nimg, f'{self.source}/{self.round}/{use}')

    def draw(self, augment: Any, img: Tensor, use: str) -> Any:
        """What the augmentation draws for images [N,C,H,W], for one use of random numbers."""
        if self.draws is not None:
            return self.draws.take(augment, tuple(img.shape), self._consumer(use), self.nimg)
        if self.ahead is None:
            return augment.draw(img, generator=self.rng(use))
        wanted = augment, tuple(img.shape), use
        self.phase.drawn.get(self._kind(), []).append(wanted)
        found = next((draw for *others, draw in self.ahead if tuple(others) == wanted), None)
        return augment.draw(img, generator=self.rng(use)) if found is None else found

    def draw_ahead(self) -> None:
        """Makes the draws that such a step made last time. For GPUs: the host will wait for their margins, and so not
        for a pass of the generator."""
        last = self.phase.drawn.get(self._kind(), ())
        self.ahead = [(augment, shape, use, augment.draw(shape, generator=self.rng(use))) for augment, shape, use in last]
        self.phase.drawn[self._kind()] = []

    def _kind(self):
        """Steps draw the same if it is the same micro-batch and the same terms are due."""
        due = tuple(self.batch_idx % regularizer.interval == 0 for regularizer in self.game.acting_in(self.phase))
        return self.source, self.round, due

    def randn_like(self, tensor: Tensor, use: str) -> Tensor:
        """Standard normal numbers of a tensor's shape for one use."""
        return torch.randn(tensor.shape, device=tensor.device, generator=self.rng(use))
