"""What a method may do besides adding terms at the sites of a step (regularizer.py): most methods need none of it."""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from training.context import Phase, StepContext


class Hooks:
    """What is asked of every method, and answers of those that do nothing special. A method overrides what it needs."""
    # Does the method work where the critics that it acts on are in another process than G? It is then in both: where G is,
    # `game.D.is_here` is false, where the critics are, `game.G.is_here`.
    works_apart = False
    brings_data = False             # Does the method open data sets of its own (`Options.data`), in place of --data?
    no_graphs = ''                  # Why its steps cannot be CUDA graphs, as the end of a sentence; empty: they can.

    def variant(self) -> Any:
        """Which form the method's steps take now, as plain data, where Python decides that by more than `interval`.

        A CUDA graph is captured for each value that comes. All other Python numbers keep, in a graph, the values that they
        had when it was captured.
        """

    def reals(self, ctx: StepContext, img: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """What takes the place of reals [N,C,H,W] and their labels [N,c_dim], in every phase and for every term."""
        return img, c

    def phases(self) -> Iterator[Phase]:
        """Phases of each iteration besides those of the recipe, at its end."""
        return iter(())

    def recast(self, phases: list[Phase]) -> list[Phase]:
        """The phases of the recipe, with other steps for those that are not done in this process alone."""
        return phases

    @classmethod
    def data_elsewhere(cls, options: Any) -> tuple[list[str], dict[str, int]] | None:
        """Names, and the shape of the items, of the data sets of a method with `brings_data`, if they are not on this machine.

        None if they are. Raises ValueError, in one sentence, if they cannot be reached.
        """

    def stages(self, config: dict) -> list[Any]:
        """The schedule of data: a list of `Stage`s (training/data/stages.py). At most one method of a run has one."""

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        """Called when a stage begins; also, with `resumed`, when a run goes on inside one, after its state is restored."""

    def end_phase(self, phase: Phase) -> None:
        """Called after all micro-batches of a phase, on all ranks: may add to the gradients of its players before their
        optimizers' step."""

    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        """Called after all phases of an iteration, when `nimg` images have been shown."""

    def before_save(self, nimg: int) -> None:
        """Called before the state of the run is saved, between two iterations."""

    def tell_critics(self) -> dict[str, float]:
        """Numbers from 0 to 1 that are found where G is, for the same method where the critics are, if that is elsewhere."""
        return {}

    def hear_from_generator(self, told: dict[str, float]) -> None:
        """Takes what `tell_critics` returned, before each step of a critic."""

    @classmethod
    def learns_from(cls, options: Any) -> str | None:
        """Of a method that shows fakes to a frozen network: the name of its weights in metrics/weights.py. G learns to please
        it, so that scores by the same network would be too good."""

    def describe(self) -> dict:
        """Plain data that network snapshots carry, by name, for the tools that make pictures with them."""
        return {}

    def state_dict(self) -> dict:
        """What each rank must remember of the method over a restart; players, grafts and optimizers are saved anyway."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""

    def shared_state_dict(self) -> dict:
        """The part of the state that is equal on all ranks, which is saved once: for things as large as a network."""
        return {}

    def load_shared_state_dict(self, state: dict) -> None:
        """Restores what `shared_state_dict` returned, after `load_state_dict`; not called if nothing was saved."""
