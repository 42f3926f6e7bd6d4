"""The grid of images that a run makes again and again: its layout, its contents, its picture file."""
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dnnlib import writing
from dnnlib.picture_files import open_picture

STRIP_TEXT = 'rows'         # The text in a film strip that says after how many images its rows were made.


def grid_size(height: int, width: int, most: tuple[int, int] = (32, 32)) -> tuple[int, int]:
    """(columns, rows) of a grid of images of that size: about 8K, at least 7x4 and at most `most` images."""
    return int(np.clip(7680 // width, 7, most[0])), int(np.clip(4320 // height, 4, most[1]))


def grid_indices(dataset: Any, columns: int, rows: int) -> list[int]:
    """Which items of a data set the grid shows, row by row. With labels, every row has one label, in turn.

    The choice depends on the data set only, so that all runs on it can be compared.
    """
    rng = np.random.RandomState(0)
    if not dataset.has_labels:
        order = list(range(len(dataset)))
        rng.shuffle(order)
        return [order[i % len(order)] for i in range(columns * rows)]
    groups: dict[tuple, list[int]] = {}
    for i in range(len(dataset)):
        label = np.atleast_1d(dataset.get_details(i).raw_label)
        groups.setdefault(tuple(label.tolist()[::-1]), []).append(i)
    by_label = [groups[label] for label in sorted(groups)]
    for group in by_label:
        rng.shuffle(group)
    indices = []
    for row in range(rows):
        group = by_label[row % len(by_label)]
        start = row // len(by_label) * columns      # Where the label's previous row ended.
        indices += [group[(start + column) % len(group)] for column in range(columns)]
    return indices


def to_grid(images: np.ndarray, value_range: tuple[float, float], columns: int) -> PIL.Image.Image:
    """Images [N,C,H,W], N a multiple of `columns`, C 1 or 3, as one picture; `value_range` becomes 0..255."""
    low, high = value_range
    pixels = (np.asarray(images, np.float32) - low) * (255 / (high - low))
    pixels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    num, channels, height, width = pixels.shape
    assert channels in (1, 3), f'images have {channels} channels, expected 1 or 3'
    pixels = pixels.reshape(num // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = pixels.reshape(num // columns * height, columns * width, channels)
    return PIL.Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)


def corner(images: np.ndarray, columns: int, size: tuple[int, int]) -> np.ndarray:
    """The images [n,C,H,W] in the upper left corner, `size` columns x rows at most,
    of a grid of images [N,C,H,W]."""
    rows = images.reshape(len(images) // columns, columns, *images.shape[1:])
    return rows[:size[1], :size[0]].reshape(-1, *images.shape[1:])


def save_picture(picture: PIL.Image.Image, path: str | os.PathLike) -> None:
    """Writes a picture into a run directory, complete or not at all."""
    writing.write_picture(path, picture, 'any')


def append_row(row: PIL.Image.Image, path: str | os.PathLike, nimg: int, max_rows: int = 64) -> None:
    """Adds the row after `nimg` images to a film strip, in place of rows after as many images or more.

    Once there are `max_rows`, every second one is removed. All rows have one size. A strip that cannot be
    read is started anew, and a message says so.
    """
    past, rows = _read_strip(Path(path), row)
    past = [other for other in past if other < nimg] + [nimg]
    rows[nimg] = row
    shown = [other for other in thinned(past, max_rows) if other in rows]
    strip = PIL.Image.new(row.mode, (row.width, row.height * len(shown)))
    for index, other in enumerate(shown):
        strip.paste(rows[other], (0, index * row.height))
    mark = writing.picture_mark('PNG')
    mark['pnginfo'].add_text(STRIP_TEXT, json.dumps(dict(past=past, shown=shown)))
    with writing.atomic(path, 'any') as file:
        strip.save(file, 'PNG', **mark)


def thinned(items: list, most: int) -> list:
    """What is left of a sequence if every second item is removed whenever there are `most`."""
    left: list = []
    for item in items:
        left = (left[::2] if len(left) >= most else left) + [item]
    return left


def _read_strip(path: Path, row: PIL.Image.Image) -> tuple[list[int], dict[int, PIL.Image.Image]]:
    """([images after which a row was added], {images: row} of the rows that are left)."""
    if not path.exists():
        return [], {}
    try:
        with open_picture(path, formats=['PNG']) as strip:
            num_rows = strip.height // row.height
            if (strip.mode, strip.size) != (row.mode, (row.width, num_rows * row.height)):
                raise ValueError('its rows are of another size')
            unnamed = list(range(-num_rows, 0))         # Earlier versions did not write these numbers down.
            known = json.loads(strip.text.get(STRIP_TEXT, json.dumps(dict(past=unnamed, shown=unnamed))))
            past, shown = known['past'], known['shown']
            if len(shown) != num_rows or not all(type(nimg) is int for nimg in [*past, *shown]):
                raise ValueError('it does not say which rows it holds')
            return past, {nimg: strip.crop((0, top * row.height, row.width, (top + 1) * row.height))
                          for top, nimg in enumerate(shown)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f'Warning: {path} cannot be gone on with ({error}); it begins anew.', flush=True)
        return [], {}
