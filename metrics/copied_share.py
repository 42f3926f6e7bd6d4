"""Does a generator copy its training images? How many of its images lie nearer to one than images that it
never saw do.

    copied = share of fakes with d(fake) < q,    q = 1 % quantile of d(unseen)

d: distance to the nearest training image, mirrored or not, in slightly blurred pixels of the image made
small, the smallest over shifts by half a pixel. Unseen images are held-out ones; where nothing was held out,
each training image takes its turn and is compared with the others. A generator that copies nothing gets about
1 %, so only a share whose interval lies above that is a sign of copying. Features of a network would not do:
noise that nobody sees moves them further than another picture is away.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from scipy.stats import binomtest
from torch.nn import functional as F

from metrics.detector import Detector
from metrics.features import feature_rows
from metrics.image_streams import DatasetImages, open_dataset
from metrics.metric_main import Evaluation, MetricOptions
from metrics.names import Metric, MetricError
from metrics.neighbours import nearest
from metrics.overfitting import held_out_items

QUANTILE = 0.01
NUM_FAKES = 1000
CONFIDENCE = 0.95
MIN_UNSEEN = 20             # A quantile of fewer distances would mean nothing.
SIZE = 32                   # Pixels; larger images are reduced to this size.
SHIFTS = tuple(product((0, -0.5, 0.5), repeat=2))       # In pixels of the reduced image.


class Pixels(Detector):
    """Small, slightly blurred images as features [N, 3 * H * W], one tap for each shift."""
    name = 'pixels'
    sha256 = 'none'
    resize_rule = f'averages over areas, at most {SIZE}x{SIZE}'
    taps = dict.fromkeys([f'shift{number}' for number in range(len(SHIFTS))], 3 * SIZE ** 2)
    main_tap = 'shift0'     # The image as it is, without a shift.
    fd_taps = (main_tap,)

    def __init__(self, size: int = SIZE):
        super().__init__()
        self.size = size
        self.taps = dict.fromkeys(self.taps, 3 * size ** 2)

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        small = F.adaptive_avg_pool2d(images.float(), self.size)
        return {tap: _blurred(_shifted(small, *SHIFTS[[*self.taps].index(tap)])).flatten(1) for tap in taps}


def _shifted(images, dx, dy):
    """Images [N, 3, H, W] shifted by dx and dy pixels; half a pixel takes the mean of two neighbours."""
    if dx == dy == 0:
        return images
    theta = torch.tensor([[1, 0, 2 * dx / images.shape[3]], [0, 1, 2 * dy / images.shape[2]]],
                         device=images.device)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode='border', align_corners=False)


def _blurred(images):
    """Through the filter [1, 2, 1] / 4 in both directions."""
    row = torch.tensor([1, 2, 1], dtype=images.dtype, device=images.device) / 4
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(images, [1, 1, 1, 1], mode='replicate'), kernel, groups=3)


@dataclass(frozen=True)
class CopiedShare:
    """What `find_copies` found.

    Attributes:
        num_fakes: Images of the generator that were looked at.
        num_copies: Those that lie nearer to a training image than all but 1 % of the unseen images do.
        low, high: 95 % interval of their share among all that the generator makes (Clopper and Pearson 1934).
        limit: The distance q, below which an image counts as a copy.
        num_unseen: How many unseen images q was taken from.
        are_held_out: Were they held out from training? Else they are training images, each against the
            others.
    """
    num_fakes: int
    num_copies: int
    low: float
    high: float
    limit: float
    num_unseen: int
    are_held_out: bool

    @property
    def copies(self) -> bool:
        """Is it clear that the generator copies?"""
        return self.low > QUANTILE

    def __str__(self):
        share, low, high = (100 * value for value in (self.num_copies / self.num_fakes, self.low, self.high))
        unseen = 'pictures held out from training' if self.are_held_out else 'training pictures, each compared with the others,'
        found = (f'{self.num_copies} of {self.num_fakes} pictures ({share:.1f} %, 95 % interval {low:.1f} to {high:.1f} %) are '
                 f'nearer to a training picture than {100 - 100 * QUANTILE:g} % of {self.num_unseen} {unseen} are; without '
                 f'copying it would be about {100 * QUANTILE:g} %')
        return f'Training pictures are copied: {found}.' if self.copies else f'No sign of copying: {found}.'


@dataclass(frozen=True)
class Pairs:
    """Fakes beside the training images nearest to them, the nearest pair first.

    fakes, train: uint8 [N, 3, H, W].
    distances: float64 [N].
    """
    fakes: torch.Tensor
    train: torch.Tensor
    distances: torch.Tensor


def find_copies(options: MetricOptions, held_out_kwargs: Mapping[str, Any] | None = None,
                num_fakes: int = NUM_FAKES, num_pairs: int = 8) -> tuple[CopiedShare, Pairs]:
    """Compares generated images with the training set.

    Args:
        options: Generator or set of generated images, and the training set (a subset stays one).
        held_out_kwargs: Arguments of a set of images that were not trained on. None: what a subset left out,
            or nothing.
        num_fakes: How many images a generator makes.
        num_pairs: How many pairs are returned.

    Raises:
        MetricError: There are too few images, or as `metric_main.calc_metric`.
    """
    if options.dataset_kwargs is None:
        raise MetricError('copies can only be looked for in one data set')
    size = min(SIZE, open_dataset(options.dataset_kwargs).resolution)
    options = replace(options, detector=Pixels(size), cache=False)
    num = num_fakes if options.images_kwargs is None else None
    work = Evaluation(Metric('copied', 'kid', Pixels.name, num), options)
    train = _TrainingImages(options, work)
    unseen = train.distances_of_held_out(held_out_kwargs)
    are_held_out = unseen is not None
    if unseen is None:
        unseen = train.distances_to_others()
    if len(unseen) < MIN_UNSEEN:
        raise MetricError(f'{train.images.name}: {len(unseen)} {"held-out" if are_held_out else "training"} images are too few '
                          f'to say what a copy is; it takes {MIN_UNSEEN}')
    distances, neighbours = train.nearest_to(work.fake)
    order = distances.argsort()[:num_pairs]
    pairs = Pairs(_pick(work.fake, order.tolist()), train.images.pick(neighbours[order].tolist()),
                  distances[order])
    return judge(distances, unseen, are_held_out), pairs


class _TrainingImages:
    """The training images and their mirror images, and how far others are from them."""

    def __init__(self, options: MetricOptions, work: Evaluation):
        self.kwargs, self.num_workers, self.work = dict(options.dataset_kwargs), options.num_workers, work
        self.images = DatasetImages({**self.kwargs, 'xflip': True}, keep_xflip=True, whole=False,
                                    num_workers=self.num_workers)
        self.rows = self._rows(self.images, [Pixels.main_tap])[Pixels.main_tap]

    def _rows(self, images, taps):
        return feature_rows(images, self.work.detector, taps, self.work.features)

    def nearest_to(self, images) -> tuple[torch.Tensor, torch.Tensor]:
        """(distances float64 [N] of images to the nearest training image, its number [N])."""
        found = [nearest(rows, self.rows, 1) for rows in self._rows(images, list(Pixels.taps)).values()]
        distances, which = torch.stack([distances[:, 0] for distances, _ in found]).min(dim=0)
        numbers = torch.stack([numbers[:, 0] for _, numbers in found])
        return distances, numbers.gather(0, which[None])[0]

    def distances_of_held_out(self, held_out_kwargs) -> torch.Tensor | None:
        """[N]; None if nothing was held out."""
        if held_out_kwargs is not None:
            return self.nearest_to(DatasetImages(held_out_kwargs, num_workers=self.num_workers))[0]
        try:
            _, left = held_out_items(self.kwargs)
        except MetricError:  # Training saw all images, so none is held out.
            return None
        return self.nearest_to(DatasetImages(self.kwargs, num_workers=self.num_workers))[0][left]

    def distances_to_others(self) -> torch.Tensor:
        """Distance of every training image to the nearest other one or its mirror image, float64 [N]."""
        details = [self.images.dataset.get_details(i) for i in range(self.images.num)]
        items = torch.tensor([item.raw_idx for item in details])
        originals = DatasetImages({**self.kwargs, 'xflip': False}, whole=False, num_workers=self.num_workers)
        found = []
        for rows in self._rows(originals, list(Pixels.taps)).values():
            # The image itself, perhaps its mirror image, and another one.
            distances, numbers = nearest(rows, self.rows, 3)
            is_other = items[numbers] != items[:len(rows), None]
            found.append(distances.masked_fill(~is_other, float('inf')).amin(dim=1))
        return torch.stack(found).amin(dim=0)


def judge(fakes: torch.Tensor, unseen: torch.Tensor, are_held_out: bool) -> CopiedShare:
    """From the distances [N] of fakes and [M] of unseen images to their nearest training image."""
    limit = torch.quantile(unseen, QUANTILE, interpolation='lower')     # At most 1 % of the unseen lie below.
    num = int((fakes < limit).sum())
    low, high = binomtest(num, len(fakes)).proportion_ci(CONFIDENCE, 'exact')
    return CopiedShare(len(fakes), num, float(low), float(high), float(limit), len(unseen), are_held_out)


def _pick(images, numbers):
    """The images of these numbers [N, 3, H, W]: generated ones are made again."""
    batches = (next(images.batches([range(number, number + 1)])) for number in numbers)
    return torch.cat(list(batches)).cpu()
