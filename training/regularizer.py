"""What a method is made of: all that its author needs to know is on this page, and how a step uses it in `loss.py`.

A method adds terms at the sites of a step. docs/methods/README.md shows one. The few that need more override a
hook of `hooks.py`: other reals, further phases or critics, state, stages of data.
"""
from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from training.hooks import Hooks

if TYPE_CHECKING:
    from training.context import StepContext
    from training.loss import Game

SITES = ('g_main', 'g_reg', 'd_fake', 'd_real', 'd_pair', 'd_reg', 'd_reg_pair')
LAZY_SITES = ('g_reg', 'd_reg', 'd_reg_pair')
Term = Tensor | float | None        # What a regularizer adds at a site: [N], a scalar, or nothing.


class Regularizer(Hooks):
    """Base of everything that adds terms at the sites of a step.

    A subclass overrides sites and hooks. Its own helpers start with an underscore: a misspelt site would otherwise
    never be called.
    """
    interval = 1                    # In main steps: act on every interval-th iteration ...
    leaf: str | None = None         # 'img' or 'seen': `d_pair` differentiates the critic with respect to this,
    of_both = False                 # of both, fakes and reals? Then one pass may yield both gradients.
    strength = 'weight'             # The option that switches the method off when it is 0.
    through_fakes = False           # Is `d_fake` a function of the fakes themselves? Ratio forms of OSGAN refuse it by name.

    @dataclass(frozen=True)
    class Options:
        """Options of the method, frozen; each field becomes a command-line option."""

    def __init__(self, game: Game, options: Any):
        self.game = game
        self.options = options
        self.sites = {site for site in SITES if overrides(self, site)}

    @property
    def gain(self) -> float:
        """... and multiply the term by this factor then, to make up for the others."""
        return self.interval

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

    @classmethod
    def configure(cls, config: dict, options: Any) -> Any:
        """Checks and completes the options before anything is built, and returns them; may change the configuration.

        Raises ValueError with one sentence for people, which names the options that clash.
        """
        return options

    @classmethod
    def is_off(cls, options: Any) -> bool:
        """Does this configuration make the method do nothing? Then it is not built into the step at all."""
        return getattr(options, cls.strength, None) == 0

    def act_lazily_unless(self, interval: int | None, lazy_site: str, main_site: str) -> None:
        """Acts at `lazy_site`, or, with an interval of its own, in every interval-th iteration at `main_site`."""
        is_lazy = interval in (None, self.game.D.reg_interval)
        self.sites = {lazy_site if is_lazy else main_site}
        self.interval = 1 if is_lazy else interval

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith('_') and not hasattr(Regularizer, name):
                raise TypeError(f'{cls.__name__}.{name} is no hook; hooks are {", ".join(HOOKS)}, '
                                f'and helpers start with an underscore')


def overrides(regularizer: Regularizer, hook: str) -> bool:
    """Does the regularizer's class bring its own version of a hook?"""
    return getattr(type(regularizer), hook) is not getattr(Regularizer, hook)


HOOKS = (*SITES, 'configure', *(name for name in vars(Hooks) if callable(getattr(Hooks, name)) and name[0] != '_'))
