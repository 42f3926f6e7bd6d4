"""The generator's site: critics and centres that are elsewhere, and the half of each step that stays here.

    G learns        fakes with graph -> centre -> d L_G(D_k) / d fakes, from which the gradient goes on into G
    D_k learns      fakes without graph -> centre, which does the step of training/loss.py with them and its own reals
    both            in one step where both learn of the same fakes (a step that has `at_critics`)
"""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losses_ext.centres import Centre
from losses_ext.sites.agreement import Kind
from losses_ext.sites.hub import Hub
from training.loss import Game, Phase, StepContext, d_both, d_main, d_reg, g_both, g_main, g_reg, offers
from training.player import Player


class Elsewhere(Player):
    """A critic that sits in a centre. Here are its name and its shapes, no numbers."""
    is_here = False

    def reset(self, seed: int | None = None) -> None:
        if not hasattr(self, 'module'):
            with torch.random.fork_rng(devices=[]):
                self.module = self._make_module().train().requires_grad_(False).to('meta')
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        super().reset_optimizer()
        self.real_signs = torch.zeros(2)

    def copy_frozen(self, source: torch.nn.Module) -> None:
        pass

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    @classmethod
    def like(cls, critic: Player) -> 'Elsewhere':
        """What stands for a critic that was made here."""
        return cls(critic.name, critic._make_module, critic._make_optimizer, critic.reg_interval)


class CentreElsewhere(Centre):
    """A centre whose images are on another machine. Its number of images and its labels are known once it is there."""
    dataset = None

    def __init__(self, index: int, kwargs: dict, code: np.ndarray | None, hub: Hub):
        super().__init__(index, kwargs, code)
        self._hub = hub
        self.centre = self.centre[0], (Shared(self, hub), self.centre[1][1])

    def without_path(self) -> tuple[str, tuple[dict, list[float]]]:
        return self.centre[0], ({key: value for key, value in self._kwargs.items() if key != 'path'}, self.centre[1][1])

    def note_contents(self) -> None:
        self.num, self.labels = self._hub.contents(self.index) or (0, None)

    def draw_labels(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.labels is not None:
            return super().draw_labels(num, rng)
        c = np.zeros([num, self._hub.c_dim], np.float32)        # It has never come: nobody learns from these.
        return self.with_code(c), c

    def close(self) -> None:
        self._hub.leave(self.index)

    def open_reals(self, make: Callable[[Any], Any], config: dict, device: torch.device, nimg: int, order: int) -> 'NoReals':
        self._hub.enter(self.index, nimg, order)
        return NoReals(config['batch'], config['data_shape']['c_dim'], device)


class Shared:
    """What metrics get of a centre that is elsewhere, in place of a data set: labels by their numbers, moments if it allows."""

    def __init__(self, centre: CentreElsewhere, hub: Hub):
        self._centre, self._hub = centre, hub

    def __len__(self) -> int:
        return self._centre.num

    @property
    def name(self) -> str:
        """Of the centre."""
        return self._hub.links[self._centre.index].name

    @property
    def image_shape(self) -> list[int]:
        """[C,H,W]"""
        return self._hub.image_shape

    def get_label(self, index: int) -> np.ndarray:
        """[c_dim], as if images with equal labels lay together."""
        values, counts = self._centre.labels
        return values[np.searchsorted(np.cumsum(counts), index, side='right')]

    def ask_moments(self, query: dict, widths: dict[str, int]) -> dict[str, tuple]:
        """{tap: (number, mean, scatter)}. Raises ValueError."""
        return self._hub.moments(self._centre.index, query, widths)


class NoReals:
    """Stands for the reals of a centre that is elsewhere: so many images without pixels, so many empty labels."""

    def __init__(self, num: int, c_dim: int, device: torch.device):
        self._batch = torch.empty([num, 0, 0, 0], device=device), torch.zeros([num, c_dim], device=device)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The same at all times."""
        return self._batch


def recast(phases: Iterable[Phase], hub: Hub) -> Iterator[Phase]:
    """The phases with those steps that critics take part in as the halves of them that stay here. Raises ValueError."""
    halves = {g_main: g_main_here, g_both: g_both_here, d_main: d_main_here, d_both: d_main_here, d_reg: d_reg_here, g_reg: None}
    for phase in phases:
        if hasattr(phase.step, 'at_critics'):
            step = offers(*phase.step.sites)(partial(g_main_here, hub=hub, kind=Kind.JUDGE_AND_LEARN))
            yield replace(phase, step=step, players=[player for player in phase.players if player.is_here])
            continue
        if phase.step not in halves:
            raise ValueError(f'the phase {phase.name} cannot be divided between the generator\'s site and the centres')
        half = halves[phase.step]
        yield phase if half is None else replace(phase, step=offers(*phase.step.sites)(partial(half, hub=hub)))


def g_main_here(game: Game, ctx: StepContext, hub: Hub, kind: Kind = Kind.JUDGE) -> None:
    """`g_main`, with the image gradient of a centre. While it works on that, the fakes of the next centre are made."""
    try:
        ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c)
        hub.judge(ctx, kind, partial(pass_on, game, ctx))
    except RuntimeError:            # If memory has run out, the phase is repeated.
        hub.forget()
        raise


def pass_on(game: Game, ctx: StepContext, image_grad: Tensor) -> None:
    """The gradient of G by that of its images, [N,C,H,W], and by the terms of methods."""
    extra = game.extra(0, ctx, 'g_main')
    terms, grads = [ctx.gen.img], [image_grad]
    if isinstance(extra, Tensor):
        terms.append(extra.mean() * (ctx.phase.interval * ctx.share))
        grads.append(None)
    torch.autograd.backward(terms, grads)


def g_both_here(game: Game, ctx: StepContext, hub: Hub) -> None:
    """`g_both`, the same way."""
    g_main_here(game, ctx, hub)
    hub.settle()
    g_reg(game, ctx)


def d_main_here(game: Game, ctx: StepContext, hub: Hub) -> None:
    """The fakes of `d_main`."""
    ctx.gen, ctx.fake_c = game.fakes(ctx)
    hub.learn(ctx)


def d_reg_here(game: Game, ctx: StepContext, hub: Hub) -> None:
    """The fakes of `d_reg`, if a method wants any."""
    if game.having('d_reg_pair'):
        with torch.no_grad():
            ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c, update_w_avg=False)
    hub.learn(ctx)
