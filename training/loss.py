"""What one training step is: the recipe of phases, their steps, the moves that these are made of, and what a step knows.

Read from the top down: `two_stage` lists the phases of one iteration, `g_main` ... `d_reg` are their steps, `Game` has the
two moves the steps are made of (`generate`, `judge`), and `StepContext` is one micro-batch. How a method adds its terms is
`regularizer.py`; what learns is `player.py`; the loop that says when a phase runs is `training_loop.py`.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958, and "Training
Generative Adversarial Networks with Limited Data", arXiv:2006.06676.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils import training_stats
from torch_utils.ops.conv2d_gradfix import no_weight_gradients
from torch_utils.randomness import Streams
from training.adversarial import ADVERSARIAL, Adversarial
from training.player import Player
from training.regularizer import LAZY_SITES, SITES, Regularizer, overrides

# ---------------------------------------------------------------------------------------------------------------------
# The default recipe


def two_stage(game: Game) -> Iterator[Phase]:
    """G learns, then every critic learns; each has its lazy phase, if a regularizer acts there."""
    if game.G.reg_interval is None:
        yield Phase('Gboth', g_both, [game.G], every_source=True)
    else:
        yield Phase('Gmain', g_main, [game.G], every_source=True)
        yield from g_reg_phase(game)
    for critic in game.critics.values():
        if critic.reg_interval is None:
            yield Phase(f'{critic.name}both', d_both, [critic], critic=critic)
        else:
            yield Phase(f'{critic.name}main', d_main, [critic], critic=critic)
            yield from d_reg_phase(game, critic)


def g_reg_phase(game: Game) -> Iterator[Phase]:
    """The generator's lazy phase, if a regularizer acts there."""
    if game.having('g_reg'):
        yield Phase('Greg', g_reg, [game.G], interval=game.G.reg_interval or 1)


def d_reg_phase(game: Game, critic: Player) -> Iterator[Phase]:
    """A critic's lazy phase, if a regularizer acts there."""
    if game.having('d_reg') or game.having('d_reg_pair'):
        yield Phase(f'{critic.name}reg', d_reg, [critic], interval=critic.reg_interval or 1, critic=critic)


# ---------------------------------------------------------------------------------------------------------------------
# Steps


def offers(*sites: str) -> Callable[[Callable], Callable]:
    """Says at which sites of a step regularizers may add terms."""
    def mark(step):
        step.sites = frozenset(sites)
        return step
    return mark


@offers('g_main')
def g_main(game: Game, ctx: StepContext) -> None:
    """Make every critic take fakes for reals."""
    ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c)
    loss = 0
    for critic in game.critics_of(ctx.source):
        fake = game.judge_fakes(ctx, critic)
        real = game.judge_reals(ctx, critic, report=False).logits if game.adversarial.paired else None
        loss = loss + critic.weight * game.adversarial.G(fake.logits, real)
    training_stats.report('Loss/G/loss', loss)
    ctx.accumulate(game.extra(loss, ctx, 'g_main'))


@offers('g_reg')
def g_reg(game: Game, ctx: StepContext) -> None:
    """The generator's lazy terms, on the first part of the micro-batch."""
    num = max(len(ctx.gen_z) // game.reg_batch_shrink, 1)
    ctx.gen = game.generate(ctx, ctx.gen_z[:num], ctx.gen_c[:num], use='gen_reg')
    ctx.accumulate(game.extra(0, ctx, 'g_reg'))


@offers('g_main', 'g_reg')
def g_both(game: Game, ctx: StepContext) -> None:
    """Both in one optimizer step."""
    g_main(game, ctx)
    g_reg(game, ctx)


@offers('d_fake', 'd_real', 'd_pair')
def d_main(game: Game, ctx: StepContext, lazy: bool = False) -> None:
    """Tell fakes from reals; with `lazy` the terms of `d_reg` join in, on the same pass over the reals."""
    adversarial = game.adversarial
    pair = adversarial.paired or bool(game.due('d_pair', ctx.batch_idx))            # Both alive at once?
    leaf = game.leaf(ctx, 'd_pair')

    ctx.gen, ctx.fake_c = game.fakes(ctx)
    ctx.fake = game.judge_fakes(ctx, ctx.critic, leaf)
    loss_fake = 0 if adversarial.paired else adversarial.D_fake(ctx.fake.logits)
    loss = game.extra(loss_fake, ctx, 'd_fake')
    if not pair:
        ctx.accumulate(loss)                                                        # Frees the fakes' graph.
        loss = 0

    ctx.real = game.judge_reals(ctx, ctx.critic, 'img' if lazy else leaf)
    loss_real = adversarial.D(ctx.fake.logits, ctx.real.logits) if adversarial.paired else \
        adversarial.D_real(ctx.real.logits)
    training_stats.report(f'Loss/{ctx.critic.name}/loss', loss_fake + loss_real)
    sites = ('d_real', 'd_pair', 'd_reg', 'd_reg_pair') if lazy else ('d_real', 'd_pair')
    ctx.accumulate(game.extra(loss + loss_real, ctx, *sites))


@offers('d_reg', 'd_reg_pair')
def d_reg(game: Game, ctx: StepContext) -> None:
    """A critic's lazy terms."""
    loss = 0
    if game.having('d_reg'):
        ctx.real = game.judge_reals(ctx, ctx.critic, leaf='img')
        loss = game.extra(loss, ctx, 'd_reg')
    if game.having('d_reg_pair'):
        with torch.no_grad():
            ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c, update_w_avg=False)
        loss = game.extra(loss, ctx, 'd_reg_pair')
    ctx.accumulate(loss)


@offers('d_fake', 'd_real', 'd_pair', 'd_reg', 'd_reg_pair')
def d_both(game: Game, ctx: StepContext) -> None:
    """Both in one optimizer step."""
    d_main(game, ctx, lazy=True)


# ---------------------------------------------------------------------------------------------------------------------
# The game: players, regularizers, and the two moves


class Game:
    """The players, the regularizers, and the two moves that steps are made of."""

    def __init__(self, G: Player, D: Player, adversarial: Adversarial = ADVERSARIAL['logistic'], augment=None,
                 style_mixing_prob: float = 0.9, seed: int = 0):
        self.G = G
        self.G_ema: torch.nn.Module | None = None   # Once the run has one.
        self.critics = {D.name: D}
        self.frozen: dict[str, torch.nn.Module] = {}    # Earlier copies of G that a method keeps; saved with the run.
        self.adversarial = adversarial
        self.augment = augment                  # AugmentPipe, DiffAugment or None.
        self.style_mixing_prob = style_mixing_prob
        self.seed = seed                        # Of the weights of further critics.
        self.regularizers: list[Regularizer] = []
        self.tap_G: set[int] = set()            # Resolutions whose maps G returns.
        self.tap_D = False                      # Do critics return their maps?
        self.share_fakes = True                 # Do several critics learn from the same fakes?
        self.reg_batch_shrink = 2               # The generator's lazy step uses 1/reg_batch_shrink of a micro-batch.

    @property
    def D(self) -> Player:
        """The first critic."""
        return next(iter(self.critics.values()))

    @property
    def players(self) -> list[Player]:
        """G and all critics."""
        return [self.G, *self.critics.values()]

    def add_critic(self, name: str, view: Callable | None = None, source: int = 0) -> Player:
        """One more critic of D's architecture and optimizer settings, with fresh weights that no other choice changes."""
        assert name not in self.critics, f'there is a critic {name} already'
        seed = Streams(self.seed).seed_of(0, f'weights/{name}')
        critic = Player(name, self.D._make_module, self.D._make_optimizer, self.D.reg_interval, view, seed)
        critic.source = source
        self.critics[name] = critic
        return critic

    def generate(self, ctx: StepContext, z: Tensor, c: Tensor, use: str = 'gen', update_w_avg: bool = True,
                 G: torch.nn.Module | None = None) -> Generated:
        """Fakes for z [N,z_dim] and c [N,c_dim], by G or by another generator.

        Draws cutoff, uniform, second latents, layer noise, in this order: the same for the same `use`.
        """
        G, rng = G or self.G.module, ctx.rng(use)
        ws = G.mapping(z, c, skip_w_avg_update=not update_w_avg)                    # [N,num_ws,w_dim]
        if self.style_mixing_prob > 0:
            ws = self._mix_styles(G, ws, z, c, rng)
        out = G.synthesis(ws, return_feats=self.tap_G, noise_generator=rng)
        img, feats = out if self.tap_G else (out, {})
        return Generated(img, c, ws, feats)

    def _mix_styles(self, G, ws, z, c, rng):
        num_ws = ws.shape[1]
        cutoff = torch.empty([], dtype=torch.int64, device=ws.device).random_(1, num_ws, generator=rng)
        mixes = torch.rand([], device=ws.device, generator=rng) < self.style_mixing_prob
        z2 = torch.randn(z.shape, device=z.device, generator=rng)
        ws2 = G.mapping(z2, c, skip_w_avg_update=True)
        second = (torch.arange(num_ws, device=ws.device) >= cutoff) & mixes         # [num_ws]
        return torch.where(second[:, None], ws2, ws)

    def fakes(self, ctx: StepContext) -> tuple[Generated, Tensor]:
        """Fakes without graph for a critic to learn from, and their labels for it; critics of the same source share them."""
        key = ('fakes', ctx.source, ctx.round)
        if key in ctx.iteration:
            return ctx.iteration[key]
        with torch.no_grad():
            fakes = self.generate(ctx, ctx.gen_z, ctx.gen_c), ctx.fake_c
        if self.share_fakes and len(self.critics_of(ctx.source)) > 1:
            ctx.iteration[key] = fakes
        return fakes

    def take_reals(self, ctx: StepContext, img: Tensor, c: Tensor) -> None:
        """Gives a micro-batch its reals and their labels, as regularizers make them: the same for all critics and terms."""
        for regularizer in self.having('reals'):
            img, c = regularizer.reals(ctx, img, c)
        ctx.real_img, ctx.real_c = img, c

    def judge(self, ctx: StepContext, critic: Player, img: Tensor, c: Tensor, use: str, leaf: str | None = None, *,
              augment: Any = None, draw: Any = None) -> Verdict:
        """Shows img [N,C,H,W] with labels c, augmented by a draw of `use`, to a critic.

        `leaf` cuts the graph and starts a new one at the images ('img') or at what the critic sees of them ('seen'). With
        `augment` another augmentation takes the place of the game's; `draw` is one that a verdict had, to be used again.
        """
        img = img.detach().requires_grad_() if leaf == 'img' else img
        augment, seen = augment or self.augment, img
        if augment is not None:
            draw = augment.draw(img, generator=ctx.rng(use)) if draw is None else draw
            seen = augment.transform(img, draw)
        if critic.view is not None:
            seen = critic.view(seen, ctx)
        seen = seen.detach().requires_grad_() if leaf == 'seen' else seen
        out = critic.module(seen, c, return_feats=self.tap_D)
        logits, feats = out if self.tap_D else (out, {})
        return Verdict(img, seen, logits.squeeze(1), feats, draw, c)

    def judge_fakes(self, ctx: StepContext, critic: Player, leaf: str | None = None, report: bool = True) -> Verdict:
        """The critic's verdict on the fakes of this micro-batch."""
        fake = self.judge(ctx, critic, ctx.gen.img, ctx.fake_c, f'aug_fake/{critic.name}', leaf)
        if report:
            training_stats.report(f'Loss/scores/fake{critic.suffix}', fake.logits)
            training_stats.report(f'Loss/signs/fake{critic.suffix}', fake.logits.detach().sign())
        return fake

    def judge_reals(self, ctx: StepContext, critic: Player, leaf: str | None = None, report: bool = True) -> Verdict:
        """The critic's verdict on the reals of this micro-batch; a reported one counts for adaptive augmentation."""
        real = self.judge(ctx, critic, ctx.real_img, ctx.real_c, f'aug_real/{critic.name}', leaf)
        if report:
            signs = real.logits.detach().sign()
            training_stats.report(f'Loss/scores/real{critic.suffix}', real.logits)
            training_stats.report(f'Loss/signs/real{critic.suffix}', signs)
            known = signs.isfinite()
            critic.real_signs += torch.stack([signs.where(known, 0).sum(), known.sum().to(signs)])
        return real

    def warp(self, maps: Tensor, draw: Any, form: str = 'aligned') -> Tensor:
        """The geometric part of an augmentation draw, applied to maps [N,C,h,w] of the images' geometry."""
        return maps if self.augment is None else self.augment.warp(maps, draw, form=form)

    def critics_of(self, source: int) -> list[Player]:
        """The critics that judge one source's reals."""
        return [critic for critic in self.critics.values() if critic.source == source]

    @property
    def first_critics(self) -> list[Player]:
        """The first critic of every source: those that see whole images and came before what methods added."""
        return list({critic.source: critic for critic in reversed(self.critics.values())}.values())[::-1]

    # Regularizers.

    def having(self, hook: str) -> list[Regularizer]:
        """The regularizers that have a hook or act at a site."""
        return [r for r in self.regularizers if (hook in r.sites if hook in SITES else overrides(r, hook))]

    def due(self, site: str, batch_idx: int) -> list[Regularizer]:
        """The regularizers that act at a site in this iteration. In lazy phases the phase itself says when."""
        lazy = site in LAZY_SITES
        return [r for r in self.having(site) if lazy or batch_idx % r.interval == 0]

    def extra(self, loss: Tensor | float, ctx: StepContext, *sites: str) -> Tensor | float:
        """`loss` (a tensor, or a plain 0) plus what regularizers add at these sites, each [N] or a scalar."""
        for site in sites:
            for regularizer in self.due(site, ctx.batch_idx):
                value = getattr(regularizer, site)(ctx)
                if value is not None:
                    gain = 1 if site in LAZY_SITES else regularizer.gain
                    loss = loss + (value if gain == 1 else value * gain)
        return loss

    def leaf(self, ctx: StepContext, *sites: str) -> str | None:
        """Where a critic's input must be a leaf for those who differentiate with respect to it."""
        wanted = {r.leaf for site in sites for r in self.due(site, ctx.batch_idx)}
        return 'img' if 'img' in wanted else 'seen' if 'seen' in wanted else None


# ---------------------------------------------------------------------------------------------------------------------
# What a step knows


@dataclass
class Generated:
    """One generator pass."""
    img: Tensor                     # [N,C,H,W]
    c: Tensor                       # [N,c_dim], the labels G got.
    ws: Tensor                      # [N,num_ws,w_dim], after style mixing.
    feats: dict[int, Tensor]        # {res: [N,Ch,res,res]}, the maps that somebody tapped.


@dataclass
class Verdict:
    """One look of a critic at a batch of images."""
    img: Tensor                     # [N,C,H,W] before augmentation.
    seen: Tensor                    # [N,C,H,W] what the critic saw: augmented, through its view.
    logits: Tensor                  # [N]
    feats: dict[int, Tensor]        # {res: [N,Ch,res,res]} of the critic's trunk, if `game.tap_D`.
    draw: Any                       # The augmentation draw, or None.
    c: Tensor | None = None         # [N,c_dim], the labels that the critic got.
    _grads: dict[str, Tensor] = field(default_factory=dict)

    def input_grad(self, wrt: str = 'img') -> Tensor:
        """d (sum of logits) / d `img` or `seen`, [N,C,H,W], differentiable; computed once however many ask."""
        if wrt not in self._grads:
            with no_weight_gradients():
                self._grads[wrt], = torch.autograd.grad(self.logits.sum(), [getattr(self, wrt)], create_graph=True)
        return self._grads[wrt]


@dataclass
class Phase:
    """A stretch of one iteration that ends in one optimizer step of `players`; due every `interval` iterations."""
    name: str
    step: Callable[[Game, StepContext], None]
    players: list[Player]
    interval: int = 1
    critic: Player | None = None
    every_source: bool = False      # Without a critic: on every source of the stage, or on its `reg_source` alone?


@dataclass
class StepContext:
    """One micro-batch of one phase, and everything already computed from it. N is the size of the micro-batch."""
    game: Game
    phase: Phase
    streams: Any                    # Random numbers: `generator(nimg, consumer)`.
    nimg: int = 0                   # Images shown before this iteration.
    batch_idx: int = 0              # Iterations before this one.
    progress: float = 0.0           # Share of the run that is done, 0..1.
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

    def randn_like(self, tensor: Tensor, use: str) -> Tensor:
        """Standard normal numbers of a tensor's shape for one use."""
        return torch.randn(tensor.shape, device=tensor.device, generator=self.rng(use))

    def accumulate(self, loss: Tensor | float, inputs: list[Tensor] | None = None, retain_graph: bool = False) -> None:
        """Back-propagates `loss` ([N] or a scalar; a plain 0: there was no term) times the phase's interval.

        With `inputs`, to these tensors only; with `retain_graph`, so that another loss can go the same way.
        """
        if isinstance(loss, Tensor):
            loss = loss.mean().mul(self.phase.interval * self.share)
            loss.backward(inputs=inputs, retain_graph=retain_graph)
