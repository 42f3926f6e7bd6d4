"""DiffAugment: differentiable augmentation without a probability [Zhao et al. 2020, arXiv:2006.10738].

    color         x + b;  chroma times s;  contrast times k         b in +-0.5, s in 0..2, k in 0.5..1.5
    translation   out[y, x] = in[y + t_y, x + t_x], else zero       t up to an eighth of the size, whole pixels
    cutout        a block of half the size set to zero, anywhere

Same interface as `training.augment.AugmentPipe`: draw, transform, warp, forward.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils.ops import grid_sample_gradfix
from training.augment import nearest_mask
from training.warp import affine_grid

POLICIES = ('color', 'translation', 'cutout')


@dataclass(frozen=True)
class Draw:
    """Everything random about one augmentation of one batch. Policies that are not in use have None."""
    shape: tuple                            # N, C, H, W of the images
    policies: tuple                         # In the order in which they are applied
    color: tuple | None = None              # brightness, saturation, contrast, each [N, 1, 1, 1] in [0, 1)
    shift: torch.Tensor | None = None       # [N, 2] y and x, whole pixels
    hole: torch.Tensor | None = None        # [N, 2] y and x of the middle of the block, pixels

    def keep_mask(self, res: int) -> Tensor | None:
        """[N, res, res] bool, False where cutout covers a map of resolution `res`; None without cutout."""
        if self.hole is None:
            return None
        covered = ~self.hole_mask()
        if 'translation' in self.policies[self.policies.index('cutout'):]:  # The hole moves with the image.
            covered = _translate(covered[:, None], self.shift)[:, 0]
        return nearest_mask(~covered, res)

    def hole_mask(self) -> Tensor:
        """[N, H, W] bool, False in the block of half the image size around `hole`."""
        keep = []
        for axis, length in enumerate(self.shape[2:]):
            block = _block(length)
            start = self.hole[:, axis, None] - block // 2
            position = torch.arange(length, device=self.hole.device)
            keep.append((position < start) | (position >= start + block))       # [N, length]
        return keep[0][:, :, None] | keep[1][:, None, :]


class DiffAugment(torch.nn.Module):
    """Augmentation of image batches [N, C, H, W] by every policy of a comma list, in its order, every time.

    Arguments: policy: of color, translation, cutout, each at most once. Raises ValueError for anything else.
    """

    def __init__(self, policy='color,translation,cutout'):
        super().__init__()
        self.init_kwargs = {'policy': policy}
        self.policies = tuple(name.strip() for name in policy.split(','))
        for name in self.policies:
            if name not in POLICIES:
                raise ValueError(f'DiffAugment: unknown policy {name!r} in {policy!r}; known are {", ".join(POLICIES)}')
        if len(set(self.policies)) < len(self.policies):
            raise ValueError(f'DiffAugment: {policy!r} names a policy twice')

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws and transforms: [N, C, H, W] -> [N, C, H, W]."""
        return self.transform(images, self.draw(images, generator))

    @torch.no_grad()
    def draw(self, images_or_shape: Tensor | Sequence[int], generator: torch.Generator | None = None) -> Draw:
        """Makes all random choices for these images, or for a shape (N, C, H, W), as a `Draw`.

        generator: source of all random numbers; None = the default one of the device.
        The device is that of the images, else that of the generator, else the default device.
        """
        shape = tuple(getattr(images_or_shape, 'shape', images_or_shape))
        device = getattr(images_or_shape, 'device', generator.device if generator is not None else None)
        options = {'generator': generator, 'device': device}
        num_samples, sizes = shape[0], shape[2:]
        drawn = {}
        for name in self.policies:
            if name == 'color':
                drawn['color'] = tuple(torch.rand([num_samples, 1, 1, 1], **options) for _ in range(3))
            if name == 'translation':
                most = [int(size / 8 + 0.5) for size in sizes]
                drawn['shift'] = torch.cat([torch.randint(-m, m + 1, [num_samples, 1], **options) for m in most], dim=1)
            if name == 'cutout':
                ends = [size + 1 - _block(size) % 2 for size in sizes]
                drawn['hole'] = torch.cat([torch.randint(0, end, [num_samples, 1], **options) for end in ends], dim=1)
        return Draw(shape, self.policies, **drawn)

    def transform(self, images: Tensor, draw: Draw) -> Tensor:
        """Applies `draw`, made for this shape: [N, C, H, W] -> [N, C, H, W].

        Deterministic, any order of derivative.
        """
        assert images.shape == draw.shape, f'images {list(images.shape)}, drawn for {list(draw.shape)}'
        for name in draw.policies:
            if name == 'color':
                images = _color(images, *draw.color)
            if name == 'translation':
                images = _translate(images, draw.shift)
            if name == 'cutout':
                images = images * draw.hole_mask()[:, None]
        return images

    def warp(self, maps: Tensor | dict[int, Tensor], draw: Draw, form: str = 'aligned') -> Tensor | dict[int, Tensor]:
        """Shifts feature maps [N, C, h, w], or {res: map}, as `draw` shifts the images, by bilinear sampling.

        Without translation the maps themselves are returned, not a copy. Raises ValueError for another form
        than 'aligned': there is no published one for DiffAugment.
        """
        if form != 'aligned':
            raise ValueError(f"DiffAugment moves feature maps in the form 'aligned' only, not {form!r}")
        if draw.shift is None:
            return maps
        if isinstance(maps, dict):
            return {res: self.warp(x, draw, form) for res, x in maps.items()}
        offset = torch.stack([draw.shift[:, 1] * (2 / draw.shape[3]), draw.shift[:, 0] * (2 / draw.shape[2])], dim=1)
        theta = torch.cat([torch.eye(2, device=maps.device).expand(len(maps), 2, 2), offset[:, :, None]], dim=2)
        grid = affine_grid(theta, maps.shape[3], maps.shape[2])
        return grid_sample_gradfix.grid_sample(maps, grid.to(maps.dtype))


def _block(size):
    """Side of the block that cutout blanks."""
    return int(size / 2 + 0.5)


def _color(x, brightness, saturation, contrast):
    """[N, C, H, W], three of [N, 1, 1, 1] in [0, 1) -> [N, C, H, W]."""
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (saturation * 2) + grey
    grey = x.mean(dim=[1, 2, 3], keepdim=True)
    return (x - grey) * (contrast + 0.5) + grey


def _translate(x, shift):
    """[N, C, H, W] -> the same at each position plus its sample's shift [N, 2] (y, x); zero outside."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device) + shift[:, :1]                         # [N, H]
    columns = torch.arange(width, device=x.device) + shift[:, 1:]                       # [N, W]
    places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    moved = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return moved.view(x.shape) * inside[:, None]
