"""Has the generator memorised its training images? Fakes beside the training images nearest to them.

Nearness is measured in the features of a detector. For scale,
each distance is divided by a typical one between training images themselves: the median distance of a
training image to its nearest other. Far below 1, a fake is a copy.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo

from dnnlib import writing
from metrics.features import feature_rows
from metrics.image_streams import DatasetImages
from metrics.metric_main import Evaluation, MetricOptions
from metrics.names import Metric, MetricError
from metrics.neighbours import nearest, neighbour_distances
from metrics.sharding import on_main

_MARGIN = 4     # White pixels between the fake and its neighbours.


@dataclass(frozen=True)
class Neighbours:
    """What `nearest_sheet` found.

    Attributes:
        indices: Numbers of the nearest training images, one list per fake, nearest first.
        ratios: Distance of each fake to the nearest one, as a multiple of the typical distance.
        typical_distance: Median distance of a training image to its nearest other.
        failure: Why there is no picture; empty if there is one.
    """
    indices: list[list[int]]
    ratios: list[float]
    typical_distance: float
    failure: str = ''


def nearest_sheet(
    path: str | os.PathLike, options: MetricOptions, num: int = 8, k: int = 6, detector: str = 'efflite0',
) -> Neighbours:
    """Writes a picture with a row per fake: the fake, then its nearest training images.
    Processes call this together.

    Args:
        path: Of the picture, a .png or .jpg.
        options: Generator, data set (as in training: a subset stays one), and the rest.
        num: How many fakes; those that metrics with the same seed see first.
        k: How many neighbours of each.
        detector: Whose features.

    Raises:
        MetricError: As `metric_main.calc_metric`, and if there are too few training images.
    """
    if options.dataset_kwargs is None:
        raise MetricError('nearest training images need a data set')
    work = Evaluation(Metric('nearest', 'kid', detector, num), options)
    train = DatasetImages(options.dataset_kwargs, whole=False, num_workers=options.num_workers)
    if train.num < max(k, 2):
        raise MetricError(f'{train.name} has {train.num} training images; to look for neighbours takes {max(k, 2)}')
    tap = work.detector.main_tap
    real = feature_rows(train, work.detector, [tap], work.features)
    fake = feature_rows(work.fake, work.detector, [tap], work.features)

    def finish():
        distances, indices = nearest(fake[tap], real[tap], k)
        typical = float(neighbour_distances(real[tap], 1).median())
        sheet = sheet_of(next(work.fake.batches([range(num)])), [train.pick(row) for row in indices.tolist()])
        ratios = [float(d) / typical if typical else float('inf') for d in distances[:, 0]]
        return Neighbours(indices.tolist(), ratios, typical, failure_to_write(path, sheet))

    return on_main(finish)


def failure_to_write(path: str | os.PathLike, sheet: np.ndarray) -> str:
    """Writes the picture. Returns why that failed, or nothing: the numbers must not be lost with it."""
    info = PngInfo()
    info.add_text('Software', writing.MARK)
    try:
        with writing.atomic_path(path) as temporary:
            PIL.Image.fromarray(sheet).save(temporary, pnginfo=info, comment=writing.MARK)      # PNG, JPEG.
    except OSError as error:
        return error.strerror or str(error)
    return ''


def sheet_of(fakes: torch.Tensor, neighbours: Sequence[torch.Tensor]) -> np.ndarray:
    """A picture [H, W, 3] of fakes: uint8 [num, 3, H, W]; neighbours: num tensors uint8 [k, 3, H, W]."""
    gap = torch.full((fakes.shape[2], _MARGIN, 3), 255, dtype=torch.uint8)
    rows = [torch.cat([_row(fake[None]), gap, _row(near)], dim=1)
            for fake, near in zip(fakes.cpu(), neighbours)]
    return np.ascontiguousarray(torch.cat(rows).numpy())


def _row(images):
    """Images [n, 3, H, W] side by side: [H, n * W, 3]."""
    return images.permute(2, 0, 3, 1).flatten(1, 2)
