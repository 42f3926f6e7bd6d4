"""Packs original images into a training set: the loop of `dataset_tool.py`."""
import sys
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dnnlib.picture_files import TooManyPixelsError
from training.data.images import encode_png
from training.data.importers import Item, Originals
from training.data.labels import LABEL_FILE, dump_labels
from training.data.storage import DatasetError, open_writer
from training.data.transforms import Transform
from training.dataset import shape_problem, side_problem

_SKIP = 'use --skip-bad=N to leave up to N such images out'
_LARGER = f'a larger --max-pixels allows it, if there is memory for it, or {_SKIP}'
_CROP = 'use --transform=center-crop with --width and --height'
_RECOLOR = 'use --color=rgb or --color=gray'


class Outcome(NamedTuple):
    """What became of one original: an array, or a problem, or neither if the transform dropped it."""
    index: int
    item: Item
    pixels: np.ndarray | None = None        # uint8 [H, W, C]
    problem: str | None = None              # Continues a sentence that begins with the image's name.
    remedy: str = ''                        # How to solve the problem.
    unreadable: bool = False                # Is the file damaged? If not, the image does not fit the others.


class Summary(NamedTuple):
    """What `pack` has done."""
    shape: tuple[int, int, int]             # (H, W, C) of all images.
    num_written: int
    num_dropped: int                        # By the transform.
    num_bad: int                            # Unreadable and skipped.
    labels: list                            # Of the written images, None for one that has none.
    brightest: int                          # Of all values of their pixels, 0 to 255.


def pack(
    originals: Originals,
    dest: str,
    transform: Transform,
    max_images: int | None = None,
    max_bad: float = 0,
) -> Summary:
    """Writes the transformed `originals`, with their labels, to the folder or .zip archive `dest`.

    Files are numbered by their position among the originals, so a dropped image leaves a gap.
    Up to `max_bad` unreadable images are named and skipped. Unless all goes well nothing is written.

    Raises:
        DatasetError: `dest` is taken, there is one unreadable image too many, an image does not fit the
        others, or
            none is left.
    """
    shape, labels, num_dropped, num_bad, brightest = None, {}, 0, 0, 0
    with open_writer(dest) as add:
        for outcome in outcomes(originals, transform, max_images):
            if outcome.problem:
                sentence = f'{originals.path}: image {outcome.item.name} {outcome.problem}'
                num_bad += 1
                if not outcome.unreadable or num_bad > max_bad:
                    raise DatasetError(f'{sentence}; {outcome.remedy} (--check lists all images that will not do)')
                tqdm.write(f'Skipped: {sentence}', file=sys.stderr)
            elif outcome.pixels is None:
                num_dropped += 1
            else:
                shape = outcome.pixels.shape
                brightest = max(brightest, int(outcome.pixels.max()))
                name = _file_name(outcome.index)
                labels[name] = outcome.item.label
                add(name, encode_png(outcome.pixels))
        if not labels:
            raise DatasetError(f'{originals.path}: no image left to write ({num_dropped} dropped, {num_bad} unreadable)')
        pairs = None if None in labels.values() else list(labels.items())
        add(LABEL_FILE, dump_labels(pairs, originals.class_names))
    return Summary(shape, len(labels), num_dropped, num_bad, list(labels.values()), brightest)


def outcomes(originals: Originals, transform: Transform, max_images: int | None = None) -> Iterator[Outcome]:
    """Reads and transforms the originals in turn, with a progress bar on a terminal."""
    first_shape = None                      # Of the first image that can be trained on.
    total = originals.count if max_images is None else min(originals.count, max_images)
    items = tqdm(islice(originals.items, max_images), total=total, unit='image', disable=None)
    for index, item in enumerate(items):
        try:
            pixels = transform(item.load())
        except OSError as error:
            remedy = _LARGER if isinstance(error, TooManyPixelsError) else _SKIP
            yield Outcome(index, item, problem=f'cannot be read ({error})', remedy=remedy, unreadable=True)
            continue
        if pixels is None:
            yield Outcome(index, item)
            continue
        problem = shape_problem(pixels.shape, first_shape) if first_shape else side_problem(pixels.shape)
        first_shape = first_shape or (None if problem else pixels.shape)
        remedy = _RECOLOR if first_shape and first_shape[:2] == pixels.shape[:2] else _CROP
        yield Outcome(index, item, pixels, problem, remedy)


def _file_name(index: int) -> str:
    """12345 -> '00012/img00012345.png': at most 1000 images in a folder."""
    number = f'{index:08d}'
    return f'{number[:5]}/img{number}.png'
