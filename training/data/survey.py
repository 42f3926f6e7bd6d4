"""What is in a data set, before it is trained on: sizes, colours, problems, classes, duplicates, outliers.

Pictures are compared by the means of 16x16 equal parts of each, in colour, as they are and mirrored:

    duplicates              the same pixels
    near duplicates         root of the mean squared difference below 5 of 255: saved anew, made smaller
    outliers                those furthest from their nearest other picture that is no near duplicate

No network looks at them: what is alike in meaning alone is not found.
"""
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from training.data.importers import Originals
from training.data.labels import class_table, describe

GRID = 16               # Parts of a picture to a side.
NEAR = 5.0              # Of 255.
MOST_COMPARED = 20_000  # Pictures of which each is compared with every other.
THUMB = 64              # Pixels of a thumbnail's longer side.
MOST_THUMBS = 50_000    # Thumbnails that are kept, about a kilobyte each.
NUM_OUTLIERS = 24


class Seen(NamedTuple):
    """A picture that could be read."""
    name: str
    width: int
    height: int
    kind: str               # 'RGB' or 'grey'.
    sha256: bytes           # Of its pixels.
    thumb: bytes            # A small WebP; empty beyond MOST_THUMBS.


@dataclass
class Survey:
    """What was found; numbers of pictures index `seen`."""
    path: str
    passed_over: str = ''
    label_note: str | None = None
    seen: list[Seen] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)     # (name, reason)
    labels: str = 'none'
    classes: list[str] = field(default_factory=list)
    duplicates: list[list[int]] = field(default_factory=list)           # Groups.
    near: list[list[int]] = field(default_factory=list)                 # Groups, of more than equal pictures.
    outliers: list[int] = field(default_factory=list)                   # The furthest first.
    num_compared: int = 0

    @property
    def sizes(self) -> Counter[str]:
        """{'256x192 RGB': number of pictures}."""
        return Counter(f'{image.width}x{image.height} {image.kind}' for image in self.seen)

    @property
    def sides(self) -> list[int]:
        """Shorter sides."""
        return [min(image.width, image.height) for image in self.seen]


def survey(originals: Originals, max_images: int | None = None) -> Survey:
    """Looks at all the pictures; those that cannot be read are listed."""
    found = Survey(originals.path, originals.passed_over, originals.label_note)
    total = originals.count if max_images is None else min(originals.count, max_images)
    parts, labels = [], []
    for item in tqdm(islice(originals.items, max_images), total=total, unit='image', disable=None):
        try:
            pixels = item.load()
        except OSError as error:
            found.unreadable.append((item.name, str(error)))
            continue
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        found.seen.append(Seen(item.name, image.width, image.height, 'grey' if pixels.shape[2] == 1 else 'RGB',
                               hashlib.sha256(f'{pixels.shape}'.encode() + pixels.tobytes()).digest(),
                               thumbnail(image) if len(found.seen) < MOST_THUMBS else b''))
        labels.append(item.label)
        if len(parts) < MOST_COMPARED:
            parts.append(means_of_parts(image))
    num_missing = labels.count(None)
    if 0 < num_missing < len(labels):
        found.labels = f'none of use: {num_missing} of {len(labels)} images have no label, and all need one'
    elif labels and not num_missing:
        found.labels = describe(labels)
        found.classes = [] if isinstance(labels[0], list) else class_table(labels, originals.class_names)
    found.duplicates = groups_of_equal([image.sha256 for image in found.seen])
    if parts:
        compare(found, np.stack(parts))
    return found


def thumbnail(image: Image.Image) -> bytes:
    """A small WebP."""
    small, data = image.convert('RGB'), io.BytesIO()
    small.thumbnail((THUMB, THUMB), Image.Resampling.BOX)
    small.save(data, 'webp', quality=70)
    return data.getvalue()


def means_of_parts(image: Image.Image) -> np.ndarray:
    """uint8 [GRID, GRID, 3]."""
    return np.asarray(image.convert('RGB').resize((GRID, GRID), Image.Resampling.BOX))


def groups_of_equal(keys: Sequence[Any]) -> list[list[int]]:
    """Numbers of equal keys, groups of two and more."""
    groups: dict[Any, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def compare(found: Survey, parts: np.ndarray) -> None:
    """Near duplicates and outliers, by means of parts [N, GRID, GRID, 3] of the first N pictures."""
    found.num_compared = num = len(parts)
    keys = [image.sha256 for image in found.seen[:num]]
    group_of = np.arange(num)                                       # The first picture of the group that one is in.
    nearest_other = np.full(num, np.inf)
    for rows, distances in distances_to_all(parts):
        near = distances < NEAR
        join_groups(group_of, near)
        nearest_other[rows] = np.where(near, np.inf, distances).min(axis=1)
    groups = groups_of_equal(group_of.tolist())
    found.near = [group for group in groups if len({keys[number] for number in group}) > 1]
    order = np.argsort(-np.where(np.isfinite(nearest_other), nearest_other, -1), kind='stable')
    found.outliers = order[:NUM_OUTLIERS].tolist() if num > 2 else []


def distances_to_all(parts: np.ndarray, at_once: int = 1024) -> Iterator[tuple[slice, np.ndarray]]:
    """(some rows, distances [len(rows), N] of their pictures to all), as they are or mirrored, whichever is less."""
    flat = parts.reshape(len(parts), -1).astype(np.float32)
    mirrored = parts[:, :, ::-1].reshape(len(parts), -1).astype(np.float32)
    squares = np.square(flat).sum(axis=1)
    for start in range(0, len(flat), at_once):
        rows = slice(start, min(start + at_once, len(flat)))
        dots = np.maximum(flat[rows] @ flat.T, flat[rows] @ mirrored.T)
        squared = squares[rows, None] + squares - 2 * dots
        yield rows, np.sqrt(np.maximum(squared, 0) / flat.shape[1])


def join_groups(group_of: np.ndarray, near: np.ndarray) -> None:
    """Makes one group of the groups [N] of all pictures that are near to one, for each row of `near` [rows, N]."""
    for is_near in near:
        groups = np.flatnonzero(np.bincount(group_of[is_near]))     # In order, without sorting.
        if len(groups) > 1:
            group_of[np.isin(group_of, groups)] = groups[0]
