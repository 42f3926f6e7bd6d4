"""Running means of what the steps of an iteration see, unbiased from the first update on.

    s <- decay * s + (1 - decay) * x,       mean = s / (1 - decay^k) after k updates

The division is that of Adam [Kingma and Ba 2015, arXiv:1412.6980, section 3].
"""
from typing import Any

import torch
from torch import Tensor

from torch_utils import distributed
from training.loss import Game
from training.regularizer import Regularizer


class RunningMeans:
    """Running means by name. Steps `add` values to them; `update`, at the end of an iteration, moves them."""

    def __init__(self, decay: float, device: torch.device):
        self.decay = decay
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._added: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}              # name -> []
        self._num_updates: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Takes values, any shape, of one micro-batch; all micro-batches of an iteration have equally many."""
        self._added.setdefault(name, []).append(values.detach().mean())

    def update(self) -> None:
        """Moves each mean that was added to. On every rank, which have added to the same ones."""
        names, self._added, added = list(self._added), {}, self._added
        means = [torch.stack(added[name]).mean() for name in names]
        distributed.all_reduce_mean_(means)
        for name, mean in zip(names, means):
            self._sums[name] = self.decay * self._sums.get(name, 0) + (1 - self.decay) * mean
            self._num_updates[name] = self.num_updates(name) + 1

    def num_updates(self, name: str) -> int:
        """How often this mean was moved."""
        return self._num_updates.get(name, 0)

    def get(self, name: str) -> Tensor | None:
        """The mean [], without graph; None before its first update."""
        num_updates = self.num_updates(name)
        return self._sums[name] / (1 - self.decay ** num_updates) if num_updates else None

    def state_dict(self) -> dict:
        """The means, as they are between two iterations."""
        return dict(sums=dict(self._sums), num_updates=dict(self._num_updates))

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        self.reset()
        self._sums = {name: value.to(self.device) for name, value in state['sums'].items()}
        self._num_updates = dict(state['num_updates'])


class WithRunningMeans(Regularizer):
    """A regularizer that follows running means, `_means`: they move after each iteration, and a new stage has new ones."""

    def __init__(self, game: Game, options: Any, decay: float):
        super().__init__(game, options)
        self._means = RunningMeans(decay, next(game.D.module.parameters()).device)

    def begin_stage(self, stage, seed, resumed):
        if not resumed:
            self._means.reset()

    def end_iteration(self, nimg, batch_idx):
        self._means.update()

    def state_dict(self):
        return self._means.state_dict()

    def load_state_dict(self, state):
        self._means.load_state_dict(state)
