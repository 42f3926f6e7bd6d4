"""What the consistency terms share: a second look at an image that has been moved a little.

    A    a shift by whole pixels, uniform in -shift ... shift of the size on each axis, with what leaves the image
         reflected at its border; on request a mirror image first, with a given chance

A acts on what the critic has been shown, after the augmentation of the run.
"""
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import losses_ext
from training.loss import Game, StepContext, Verdict
from training.regularizer import Regularizer


class Shift:
    """A, with the two methods of an augmentation: `draw` takes random numbers, `transform` applies them."""

    def __init__(self, shift: float, flip: float):
        self.shift = shift
        self.flip = flip

    def draw(self, images_or_shape: Tensor | Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """[N,3], uniform in 0..1: of the mirror image, of the shift down, of that to the right."""
        num = getattr(images_or_shape, 'shape', images_or_shape)[0]
        return torch.rand([num, 3], device=generator.device if generator is not None else None, generator=generator)

    def transform(self, img: Tensor, draw: Tensor) -> Tensor:
        """A(img), [N,C,H,W]."""
        height, width = img.shape[2:]
        down, right = (self.pixels(size, u) for size, u in ((height, draw[:, 1]), (width, draw[:, 2])))
        rows, columns = reflected(height, down), reflected(width, right)            # [N,H], [N,W]
        columns = torch.where((draw[:, 0] < self.flip)[:, None], width - 1 - columns, columns)
        img = img.gather(2, rows[:, None, :, None].expand_as(img))
        return img.gather(3, columns[:, None, None, :].expand_as(img))

    def pixels(self, size: int, u: Tensor) -> Tensor:
        """The shift [N], in whole pixels, of u [N] in 0..1."""
        return ((2 * u - 1) * self.shift * size).round().long()                     # [N]


class Moving(Regularizer):
    """Base of the methods that move images by A, `_moved`, with the options `shift` and `flip`."""
    works_apart = True

    def __init__(self, game: Game, options: Any):
        super().__init__(game, options)
        self._moved = Shift(options.shift, options.flip)

    @classmethod
    def configure(cls, config: dict, options: Any) -> Any:
        require_motion(f'--{cls.__name__.lower()}', options.shift, options.flip, config['data_shape']['img_resolution'])
        warn_without_scale(cls.__name__.lower(), config)
        return options


def reflected(size: int, shift: Tensor) -> Tensor:
    """For each pixel of a line, the index of the pixel that comes there, [N,size], when lines of
    `size` pixels are moved by shift [N], smaller than `size`, and reflected at their ends."""
    index = (torch.arange(size, device=shift.device) - shift[:, None]).abs()
    return size - 1 - (size - 1 - index).abs()


def require_motion(prefix: str, shift: float, flip: float, res: int) -> None:
    """Raises ValueError if A can change nothing at this resolution."""
    if shift * res <= 0.5 and flip == 0:
        raise ValueError(f'{prefix}_shift={shift:g} moves nothing at {res} pixels: give {prefix}_shift={1.5 / res:g} or more, '
                         f'or {prefix}_flip=0.5')


def warn_without_scale(name: str, config: dict) -> None:
    """Warns of a game whose logits have no natural scale: neither have the weights of terms in them."""
    rules = losses_ext.rules_of(config['loss_kwargs']['game'])
    if not rules.zero_decides and not rules.paired:
        print(f'Warning: --reg_type={name} with --loss={config["loss"]}: its logits have no natural scale, and so '
              f'the weights of {name} have none: see what share of the gradient it has (Loss/share/{name}).',
              file=sys.stderr)


def change_of_logits(game: Game, ctx: StepContext, verdict: Verdict, moved: Shift, use: str) -> Tensor:
    """(D(x) - D(A x))^2, [N], for the images of a verdict
    as constants. The second look is reported nowhere."""
    img = verdict.seen.detach()
    if ctx.critic.view is not None:                 # A comes before the view, which the second look has again.
        img = verdict.img.detach()
        img = img if game.augment is None else game.augment.transform(img, verdict.draw)
    again = game.judge(ctx, ctx.critic, img, verdict.c, f'{use}/{ctx.critic.name}', augment=moved)
    return (verdict.logits - again.logits).square()
