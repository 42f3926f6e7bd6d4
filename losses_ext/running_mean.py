"""Running means of what the steps of an iteration see, unbiased from the first update on.

    s <- decay * s + (1 - decay) * x,       mean = s / (1 - decay^k) after k updates

The division is that of Adam [Kingma and Ba 2015, arXiv:1412.6980, section 3]. An x that is not finite is left
out.
"""
from typing import Any

import torch
from torch import Tensor

from torch_utils import distributed, misc
from torch_utils.cuda_graphs import Kept
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
        self._added = Kept()                            # (name, number of a micro-batch) -> its mean []
        self._sums: dict[str, Tensor] = {}              # name -> []
        self._num_updates: dict[str, int] = {}
        self._num_bad: dict[str, Tensor] = {}  # name -> [], updates that were not finite; on the device.
        self._means: dict[str, Tensor] = {}             # name -> [], always the same tensor.

    def add(self, name: str, round_idx: int, values: Tensor) -> None:
        """Takes the values, of any shape, of micro-batch `round_idx`;
        each micro-batch of an iteration has equally many.

        When a phase begins anew with smaller micro-batches, their values replace what it had added before.
        """
        self._added[name, round_idx] = values.detach().mean()

    def update(self) -> None:
        """Moves each mean that was added to, on every rank. All ranks must have added to the same ones."""
        names = list(dict.fromkeys(name for name, _ in self._added))
        means = [torch.stack([mean for (other, _), mean in self._added.items() if other == name]).mean() for name in names]
        self._added.clear()
        distributed.all_reduce_mean_(means)
        for name, mean in zip(names, means):
            self._move(name, mean)

    def _move(self, name, mean):
        before = self._sums.get(name, torch.zeros_like(mean))
        self._sums[name] = misc.finite_or(self.decay * before + (1 - self.decay) * mean, before)
        self._num_updates[name] = self.num_updates(name) + 1
        self._num_bad[name] = self._num_bad.get(name, 0) + (~mean.isfinite()).to(torch.int64)
        self._refresh(name)

    def num_updates(self, name: str) -> int:
        """How often this mean was moved, or would have been by a finite value."""
        return self._num_updates.get(name, 0)

    def get(self, name: str) -> Tensor | None:
        """The mean [], without graph; None before its first update, 0 as long as no value was finite."""
        return self._means.get(name)

    def _refresh(self, name):
        """Makes `get` answer from what is known now, in the
        same tensor: a step that is replayed reads it there."""
        num_updates, num_bad = self._num_updates[name], self._num_bad[name]
        share = torch.where(num_bad == 0, 1 - self.decay ** num_updates,
                            1 - self.decay ** (num_updates - num_bad).float())
        mean = self._sums[name] / share.clamp(min=1e-30)
        self._means.setdefault(name, mean).copy_(mean)

    def names(self, least: int = 1) -> tuple[str, ...]:
        """The means that were moved at least so often."""
        return tuple(name for name, num in self._num_updates.items() if num >= least)

    def state_dict(self) -> dict:
        """The means, as they are between two iterations."""
        return dict(sums=dict(self._sums), num_updates=dict(self._num_updates), num_bad=dict(self._num_bad))

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned.

        Means that are not finite, as of earlier versions, begin anew.
        """
        self.reset()
        sound = {name: value for name, value in state['sums'].items() if value.isfinite()}
        if lost := sorted(state['sums'].keys() - sound.keys()):
            print(f'The saved running means of {", ".join(lost)} are not finite, as an earlier version could leave them: '
                  'they begin anew.', flush=True)
        for name, value in sound.items():
            self._sums[name] = value.to(self.device)
            self._num_updates[name] = state['num_updates'][name]
            self._num_bad[name] = torch.as_tensor(state.get('num_bad', {}).get(name, 0), device=self.device)
            self._refresh(name)


class WithRunningMeans(Regularizer):
    """A regularizer with running means, `_means`: they move
    after each iteration, and begin anew with each stage."""

    def __init__(self, game: Game, options: Any, decay: float):
        super().__init__(game, options)
        self._means = RunningMeans(decay, next(game.D.module.parameters()).device)

    def variant(self):
        return self._means.names()

    def begin_stage(self, stage, seed, resumed):
        if not resumed:
            self._means.reset()

    def end_iteration(self, nimg, batch_idx):
        self._means.update()

    def state_dict(self):
        return self._means.state_dict()

    def load_state_dict(self, state):
        self._means.load_state_dict(state)
