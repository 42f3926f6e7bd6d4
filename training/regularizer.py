"""What a method is made of: all that its author needs to know is on this page,
and how a step uses it in `loss.py`.

A method adds terms at the sites of a step, and has hooks for whatever else it needs.
docs/methods/README.md shows one.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from training.context import Phase, StepContext
    from training.loss import Game

SITES = ('g_main', 'g_reg', 'd_fake', 'd_real', 'd_pair', 'd_reg', 'd_reg_pair')
LAZY_SITES = ('g_reg', 'd_reg', 'd_reg_pair')
Term = Tensor | float | None    # What a regularizer adds at a site: [N], a scalar, or nothing.
OTHER_HOOKS = ('variant', 'configure', 'data_elsewhere', 'reals', 'phases', 'recast', 'stages', 'begin_stage', 'end_phase',
               'end_iteration', 'before_save', 'tell_critics', 'hear_from_generator', 'describe', 'state_dict',
               'load_state_dict', 'shared_state_dict', 'load_shared_state_dict')


class Regularizer:
    """Base of everything that adds terms at the sites of a step, and of whatever else it needs for that.

    A subclass overrides any of the methods below; each site takes the context and returns [N], a scalar,
    or None. What is not listed must start with an underscore:
    a misspelt hook would otherwise never be called.
    """
    interval = 1                    # In main steps: act on every interval-th iteration ...
    leaf: str | None = None  # 'img' or 'seen': `d_pair` differentiates the critic with respect to this.
    # Does the method work where the critics that it acts on are in another process than G? It is then in both: where G is,
    # `game.D.is_here` is false, where the critics are, `game.G.is_here`.
    works_apart = False
    brings_data = False  # Does the method open data sets of its own (`Options.data`), in place of --data?
    # Is `d_fake` a function of the fakes themselves? Ratio forms of OSGAN refuse it by name.
    through_fakes = False
    no_graphs = ''                  # Why its steps cannot be CUDA graphs, as the end of a sentence; empty: they can.
    strength = 'weight'             # The option that switches the method off when it is 0.

    @dataclass(frozen=True)
    class Options:
        """Options of the method, frozen; each field becomes a command-line option."""

    def __init__(self, game: Game, options: Any):
        self.game = game
        self.options = options
        self.sites = {site for site in SITES if overrides(self, site)}

    def act_lazily_unless(self, interval: int | None, lazy_site: str, main_site: str) -> None:
        """Acts at `lazy_site`, or, with an interval of its own,
        on every interval-th iteration at `main_site`."""
        is_lazy = interval in (None, self.game.D.reg_interval)
        self.sites = {lazy_site if is_lazy else main_site}
        self.interval = 1 if is_lazy else interval

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        allowed = {*SITES, *OTHER_HOOKS, *dir(Regularizer)}
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith('_') and name not in allowed:
                raise TypeError(f'{cls.__name__}.{name} is no hook; hooks are {", ".join([*SITES, *OTHER_HOOKS])}, '
                                f'and helpers start with an underscore')

    @property
    def gain(self) -> float:
        """... and multiply the term by this factor then, to make up for the others."""
        return self.interval

    @classmethod
    def is_off(cls, options: Any) -> bool:
        """Does this configuration make the method do nothing? Then it is not built into the step at all."""
        return getattr(options, cls.strength, None) == 0

    @classmethod
    def configure(cls, config: dict, options: Any) -> Any:
        """Checks and completes the options before anything is built; may change the configuration.

        Returns the final options. Raises ValueError with one sentence for people,
        naming the options that clash.
        """
        return options

    @classmethod
    def data_elsewhere(cls, options: Any) -> tuple[list[str], dict[str, int]] | None:
        """Of a method that brings data: (names, shape of the items) of data sets that this machine does not have;
        None if it has them.

        Raises ValueError.
        """

    def variant(self) -> Any:
        """What of the host decides what its steps do now, beside `interval`: plain data. CUDA graphs are made for each value.

        Other numbers of the host stay, in a graph, what they were when it was made.
        """

    def reals(self, ctx: StepContext, img: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """What takes the place of reals [N,C,H,W] and their labels [N,c_dim],
        in every phase and for every term."""
        return img, c

    def phases(self) -> Iterator[Phase]:
        """Further phases."""
        return iter(())

    def recast(self, phases: list[Phase]) -> list[Phase]:
        """The phases of the recipe, with other steps for those that are not done in this process alone."""
        return phases

    def stages(self, config: dict) -> list[Any]:
        """The schedule of data: a list of `Stage`s (training/data/stages.py).

        At most one method brings one.
        """

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        """Called when a stage begins, and when a run resumes inside one: then `resumed`, and what was saved
        is restored."""

    def end_phase(self, phase: Phase) -> None:
        """All micro-batches of a phase are through, on all ranks:
        may add to its players' gradients before their step."""

    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        """Called after all phases of an iteration, when `nimg` images have been shown."""

    def before_save(self, nimg: int) -> None:
        """Called before the state of the run is saved, between two iterations."""

    def tell_critics(self) -> dict[str, float]:
        """Numbers from 0 to 1 that are found where G is, for the same method where the critics are, if that is elsewhere."""
        return {}

    def hear_from_generator(self, told: dict[str, float]) -> None:
        """Takes what `tell_critics` returned, before each step of a critic."""

    def describe(self) -> dict:
        """Plain data that network snapshots carry, by name, for the tools that make pictures with them."""
        return {}

    def state_dict(self) -> dict:
        """What the method must remember over a restart (players, grafts and optimizers are saved anyway),
        on each rank."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""

    def shared_state_dict(self) -> dict:
        """The part of the state that is equal on all ranks. It is saved once: worth it for things as large as
        a network."""
        return {}

    def load_shared_state_dict(self, state: dict) -> None:
        """Restores what `shared_state_dict` returned, after `load_state_dict`.

        Not called if it was not saved.
        """

    def g_main(self, ctx: StepContext) -> Term:
        """A term of the generator's step; `ctx.gen` has a graph."""

    def g_reg(self, ctx: StepContext) -> Term:
        """A term of the generator's lazy step; `ctx.gen` has a graph."""

    def d_fake(self, ctx: StepContext) -> Term:
        """A term of a critic's step on `ctx.gen`, `ctx.fake`."""

    def d_real(self, ctx: StepContext) -> Term:
        """A term of a critic's step on `ctx.real`."""

    def d_pair(self, ctx: StepContext) -> Term:
        """A term of a critic's step on both, `ctx.fake` and `ctx.real`."""

    def d_reg(self, ctx: StepContext) -> Term:
        """A term of a critic's lazy step on `ctx.real`, whose images are a leaf."""

    def d_reg_pair(self, ctx: StepContext) -> Term:
        """A term of a critic's lazy step that also needs fakes: `ctx.gen`, without graph."""


def offers(*sites: str) -> Callable[[Callable], Callable]:
    """Says at which sites of a step regularizers may add terms."""
    def mark(step):
        step.sites = frozenset(sites)
        return step
    return mark


def overrides(regularizer: Regularizer, hook: str) -> bool:
    """Does the regularizer's class bring its own version of a hook?"""
    return getattr(type(regularizer), hook) is not getattr(Regularizer, hook)
