"""A critic's look at fakes and reals in one pass, on GPUs: they take as long for a call as for a few images.

On CPUs there is nothing to win, and larger products round in another way.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from training.context import StepContext
    from training.loss import Game, Verdict
    from training.player import Player


def judge_both(game: Game, ctx: StepContext, leaf: str | None = None) -> tuple[Verdict, Verdict] | None:
    """The critic's verdicts on the fakes and the reals of this micro-batch, from one pass; None if it has to be two.

    Neither has anything to do with the other's logits: their gradients with respect to images, which start at the same
    `leaf` (`Game.judge`), come from one pass, too.
    """
    one_sided = any(r.leaf and not r.of_both for r in game.due('d_pair', ctx.batch_idx))
    if one_sided or not takes_both(ctx.critic, ctx):
        return None
    img, c = torch.cat([ctx.gen.img, ctx.real_img]), torch.cat([ctx.fake_c, ctx.real_c])
    one_pass = partial(ctx.critic.module, num_batches=2)
    verdict = game.judge(ctx, ctx.critic, img, c, f'aug/{ctx.critic.name}', leaf, D=one_pass)
    num = len(ctx.gen.img)
    fake, real = (replace(of_images(verdict, part), among=(verdict, part)) for part in (slice(num), slice(num, None)))
    return ctx.critic.reported('fake', fake), ctx.critic.reported('real', real)


def takes_both(critic: Player, ctx: StepContext) -> bool:
    """Can the critic see them in one pass, and is that faster?"""
    return ctx.real_img.device.type != 'cpu' and getattr(critic.module, 'takes_batches', False)


def through_view(view: Callable[[Tensor, StepContext], Tensor], img: Tensor, ctx: StepContext) -> Tensor:
    """What a critic sees of images: a view that draws numbers draws the same for fakes and reals, if both are shown."""
    num = len(img) if ctx.real_img is None else max(len(ctx.real_img), 1)
    views = [view(batch, ctx) for batch in img.split(num)]
    return views[0] if len(views) == 1 else torch.cat(views)


def of_images(value: Any, part: slice) -> Any:
    """A verdict, or a draw of an augmentation, for some of its images: its tensors have an entry for each."""
    if isinstance(value, Tensor):
        return value[part]
    if hasattr(value, 'of'):
        return value.of(part)
    if is_dataclass(value):
        changes = {field.name: of_images(getattr(value, field.name), part) for field in fields(value)}
        if 'shape' in changes:
            changes['shape'] = len(range(value.shape[0])[part]), *value.shape[1:]
        return replace(value, **changes)
    if isinstance(value, dict):
        return {key: of_images(item, part) for key, item in value.items()}
    return tuple(of_images(item, part) for item in value) if isinstance(value, tuple) else value
