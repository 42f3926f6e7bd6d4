"""What one training step is: the recipe of phases, their steps, and the moves that these are made of.

Read from the top down: `two_stage` lists the phases of an iteration, `g_main` ... `d_both` are their steps, `Game` has the
moves that these are made of. With R1 and path length, in files of their own, that is every operation but for networks and
augmentation. What a step is given is `context.py`, who takes part `cast.py`. Source: Karras et al. 2020, arXiv:1912.04958
and arXiv:2006.06676 (StyleGAN2, StyleGAN2-ADA).
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from torch_utils import training_stats
from torch_utils.ops.conv2d_gradfix import no_weight_gradients
from training.adversarial import Adversarial
from training.both import judge_both, through_view
from training.cast import Cast
from training.context import Generated, Phase, StepContext, offers, with_told
from training.player import Player
from training.regularizer import LAZY_SITES

# The game that is played unless --loss names another: non-saturating [Goodfellow et al. 2014, arXiv:1406.2661].
LOGISTIC = Adversarial(
    G=lambda fake, _: softplus(-fake),
    D_fake=lambda fake: softplus(fake), D_real=lambda real: softplus(-real),
    ratio=lambda a: -torch.exp(-a))


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
    game.accumulate(ctx, game.extra(loss, ctx, 'g_main'))


@offers('g_reg')
def g_reg(game: Game, ctx: StepContext) -> None:
    """The generator's lazy terms, on the first part of the micro-batch."""
    num = max(len(ctx.gen_z) // game.reg_batch_shrink, 1)
    ctx.gen = game.generate(ctx, ctx.gen_z[:num], ctx.gen_c[:num], use='gen_reg')
    game.accumulate(ctx, game.extra(0, ctx, 'g_reg'))


@offers('g_main', 'g_reg')
def g_both(game: Game, ctx: StepContext) -> None:
    """Both in one optimizer step."""
    g_main(game, ctx)
    g_reg(game, ctx)


@offers('d_fake', 'd_real', 'd_pair')
def d_main(game: Game, ctx: StepContext, lazy: tuple[str, ...] = ()) -> None:
    """Tell fakes from reals; the terms of `lazy` sites join in, on the same pass over the reals."""
    adversarial = game.adversarial
    leaf = game.leaf(ctx, 'd_pair')
    ctx.gen, ctx.fake_c = game.fakes(ctx)
    both = None if lazy else judge_both(game, ctx, leaf)                            # In one pass, on GPUs.
    pair = both or adversarial.paired or game.due('d_pair', ctx.batch_idx)          # Are both alive at once?
    ctx.fake, ctx.real = both or (game.judge_fakes(ctx, ctx.critic, leaf), None)
    loss_fake = 0 if adversarial.paired else adversarial.D_fake(ctx.fake.logits)
    loss = game.extra(loss_fake, ctx, 'd_fake')
    if not pair:
        game.accumulate(ctx, loss)                                                  # Frees the fakes' graph.
        loss = 0
    ctx.real = ctx.real or game.judge_reals(ctx, ctx.critic, 'img' if lazy else leaf)
    loss_real = adversarial.D(ctx.fake.logits, ctx.real.logits) if adversarial.paired else adversarial.D_real(ctx.real.logits)
    training_stats.report(f'Loss/{ctx.critic.name}/loss', loss_fake + loss_real)
    game.accumulate(ctx, game.extra(loss + loss_real, ctx, 'd_real', 'd_pair', *lazy))


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
    game.accumulate(ctx, loss)


@offers('d_fake', 'd_real', 'd_pair', 'd_reg', 'd_reg_pair')
def d_both(game: Game, ctx: StepContext) -> None:
    """Both in one optimizer step."""
    d_main(game, ctx, ('d_reg', 'd_reg_pair'))


class Game(Cast):
    """The players, the regularizers, and the moves that steps are made of."""

    def __init__(self, G: Player, D: Player, adversarial: Adversarial = LOGISTIC, augment=None,
                 style_mixing_prob: float = 0.9, seed: int = 0):
        super().__init__(G, D, seed)
        self.adversarial = adversarial
        self.augment = augment                  # AugmentPipe, DiffAugment or None.
        self.style_mixing_prob = style_mixing_prob
        self.tap_G: set[int] = set()            # Resolutions whose maps G returns.
        self.tap_D = False                      # Do critics return their maps?
        self.share_fakes = True                 # Do several critics learn from the same fakes?
        self.reg_batch_shrink = 2               # The generator's lazy step uses 1/reg_batch_shrink of a micro-batch.

    def generate(self, ctx: StepContext, z: Tensor, c: Tensor, use: str = 'gen', update_w_avg: bool = True,
                 G: torch.nn.Module | None = None) -> Generated:
        """Fakes for z [N,z_dim] and c [N,c_dim], by G or another generator. What it draws is the same for the same `use`."""
        G, rng = G or self.G.module, ctx.rng(use)
        ws = self._mixed_styles(G, z, c, rng, update_w_avg) if self.style_mixing_prob > 0 else \
            G.mapping(z, c, skip_w_avg_update=not update_w_avg)                     # [N,num_ws,w_dim]
        out = G.synthesis(ws, return_feats=self.tap_G, noise_generator=rng)
        img, feats = out if self.tap_G else (out, {})
        return Generated(img, c, ws, feats)

    def _mixed_styles(self, G, z, c, rng, update_w_avg):
        """ws [N,num_ws,w_dim], from a random layer on of second latents. Cutoff, uniform, latents are drawn in this order."""
        num_ws = G.mapping.num_ws
        cutoff = torch.empty([], dtype=torch.int64, device=z.device).random_(1, num_ws, generator=rng)
        mixes = torch.rand([], device=z.device, generator=rng) < self.style_mixing_prob
        z2 = torch.randn(z.shape, device=z.device, generator=rng)
        if z.device.type == 'cpu':      # Rows of a larger product round in another way, and there is nothing to gain.
            ws = G.mapping(z, c, skip_w_avg_update=not update_w_avg)
            ws2 = G.mapping(z2, c, skip_w_avg_update=True)
        else:
            ws, ws2 = G.mapping(torch.cat([z, z2]), torch.cat([c, c]), skip_w_avg_update=True).chunk(2)
            if update_w_avg:
                G.mapping.track(ws[:, 0])
        second = (torch.arange(num_ws, device=z.device) >= cutoff) & mixes          # [num_ws]
        return torch.where(second[:, None], ws2, ws)

    def fakes(self, ctx: StepContext) -> tuple[Generated, Tensor]:
        """Fakes without graph for a critic to learn from, and their labels for it; critics of the same source share them."""
        key = ('fakes', ctx.source, ctx.round)
        if key in ctx.iteration:
            return ctx.iteration[key]
        with torch.no_grad():
            fakes = self.generate(ctx, ctx.gen_z, ctx.gen_c), ctx.fake_c
        if self.share_fakes and (len(self.critics_of(ctx.source)) > 1 or self.helpers):
            ctx.iteration[key] = fakes
        return fakes

    def judge(self, ctx: StepContext, critic: Player, img: Tensor, c: Tensor, use: str, leaf: str | None = None, *,
              augment: Any = None, draw: Any = None, D: torch.nn.Module | None = None) -> Verdict:
        """Shows img [N,C,H,W] with labels c to a critic (or to `D` in its place), augmented by a new draw or a verdict's.

        `leaf` cuts the graph and starts a new one at the images ('img') or at what the critic sees of them ('seen').
        """
        img = img.detach().requires_grad_() if leaf == 'img' else img
        augment, seen = augment or self.augment, img
        if augment is not None:
            draw = ctx.draw(augment, img, use) if draw is None else draw
            seen, c = augment.transform(img, draw), with_told(augment, c, draw)
        if critic.view is not None:
            seen = through_view(critic.view, seen, ctx)
        seen = seen.detach().requires_grad_() if leaf == 'seen' else seen
        out = (D or critic.module)(seen, c, return_feats=self.tap_D)
        logits, feats = out if self.tap_D else (out, {})
        return Verdict(img, seen, logits.squeeze(1), feats, draw, c)

    def judge_fakes(self, ctx: StepContext, critic: Player, leaf: str | None = None, report: bool = True) -> Verdict:
        """The critic's verdict on the fakes of this micro-batch."""
        fake = self.judge(ctx, critic, ctx.gen.img, ctx.fake_c, f'aug_fake/{critic.name}', leaf)
        return critic.reported('fake', fake) if report else fake

    def judge_reals(self, ctx: StepContext, critic: Player, leaf: str | None = None, report: bool = True) -> Verdict:
        """The critic's verdict on the reals of this micro-batch; a reported one counts for adaptive augmentation."""
        real = self.judge(ctx, critic, ctx.real_img, ctx.real_c, f'aug_real/{critic.name}', leaf)
        return critic.reported('real', real) if report else real

    def warp(self, maps: Tensor, draw: Any, form: str = 'aligned') -> Tensor:
        """The geometric part of an augmentation draw, applied to maps [N,C,h,w] of the images' geometry."""
        return maps if self.augment is None else self.augment.warp(maps, draw, form=form)

    def extra(self, loss: Tensor | float, ctx: StepContext, *sites: str) -> Tensor | float:
        """`loss` (a tensor, or a plain 0) plus what regularizers add at these sites, each [N] or a scalar."""
        for site in sites:
            for regularizer in self.due(site, ctx.batch_idx):
                value = getattr(regularizer, site)(ctx)
                if value is not None:
                    self.note_term(ctx, regularizer, site, value)
                    gain = 1 if site in LAZY_SITES else regularizer.gain
                    loss = loss + (value if gain == 1 else value * gain)
        return loss

    def accumulate(self, ctx: StepContext, loss: Tensor | float, **how: Any) -> None:
        """Back-propagates `loss` ([N] or a scalar; a plain 0: there was no term). `how`: arguments of `Tensor.backward`."""
        if isinstance(loss, Tensor):
            loss.mean().mul(ctx.phase.interval * ctx.share).backward(**how)


@dataclass
class Verdict:
    """One look of a critic at a batch of images."""
    img: Tensor                     # [N,C,H,W] before augmentation.
    seen: Tensor                    # [N,C,H,W] what the critic saw: augmented, through its view.
    logits: Tensor                  # [N]
    feats: dict[int, Tensor]        # {res: [N,Ch,res,res]} of the critic's trunk, if `game.tap_D`.
    draw: Any                       # The augmentation draw, or None.
    c: Tensor | None = None         # [N,c_dim], the labels that the critic got, with what it was told of the draw.
    among: tuple[Verdict, slice] | None = None      # On all images of one pass, and which of them these are.
    _grads: dict[str, Tensor] = field(default_factory=dict)

    def input_grad(self, wrt: str = 'img') -> Tensor:
        """d (sum of logits) / d `img` or `seen`, [N,C,H,W], differentiable; computed once however many ask."""
        if self.among is not None:
            return self.among[0].input_grad(wrt)[self.among[1]]
        if wrt not in self._grads:
            with no_weight_gradients():
                self._grads[wrt], = torch.autograd.grad(self.logits.sum(), [getattr(self, wrt)], create_graph=True)
        return self._grads[wrt]

