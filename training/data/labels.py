"""Labels of an image set: `dataset.json`, or the folders that the images lie in.

`dataset.json` is an object whose key `labels` is null or a list of [file name, label] pairs. A label is a class (0, 1,
2, ...) or a list of numbers. `label_names`, which `dataset_tool.py` adds where it knows them, names the classes.
"""
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from training.data.storage import DatasetError, FolderFiles, ZipFiles

LABEL_FILE = 'dataset.json'
MAX_CLASSES = 10 ** 6           # A one-hot label has one entry per class.

LABEL_SOURCES = ('json', 'folders')


class Labels(NamedTuple):
    """Labels by file name, as found; None where the set has none."""
    by_name: dict[str, Any] | None
    class_names: list[str] | None = None


def find_labels(files: FolderFiles | ZipFiles, image_names: Sequence[str], labels_from: str = 'json') -> Labels:
    """The labels of a folder or archive: from its `dataset.json`, or one class per folder.

    Raises:
        DatasetError: `dataset.json` is not what it should be, or the folders tell no classes apart.
    """
    assert labels_from in LABEL_SOURCES, f'labels_from={labels_from!r} is not one of {LABEL_SOURCES}'
    if labels_from == 'folders':
        return _labels_from_folders(image_names, files.path)
    if LABEL_FILE not in files.names:
        return Labels(None)
    try:
        return _parse(files.read(LABEL_FILE), files.path)
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f'{files.path}: {LABEL_FILE} cannot be read ({error})') from error


def label_array(labels: dict[str, Any], image_names: Sequence[str], path: str) -> np.ndarray:
    """The labels of the named images in their order: int64 [N] (classes) or float32 [N, K] (vectors).

    Entries for other files are ignored; fractions in class labels are cut off.

    Raises:
        DatasetError: an image has no label, or one that is negative, too large, no number, or unlike the others.
    """
    missing = [name for name in image_names if labels.get(name) is None]
    if missing:
        others = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise DatasetError(f'{path}: {LABEL_FILE} has no label for image {missing[0]}{others}; all images need one')
    values = [labels[name] for name in image_names]
    sizes = [_vector_size(value) for value in values]
    for name, value, size in zip(image_names, values, sizes):
        if size < 0:
            raise DatasetError(f'{path}: image {name} has the label {_shortened(value)}, '
                               'which is neither a finite number nor a list of such')
        if size != sizes[0]:
            raise DatasetError(f'{path}: image {name} has {_kind(size)} as its label; '
                               f'all labels must be alike, and image {image_names[0]} has {_kind(sizes[0])}')
        if size == 0 and not -1 < value < MAX_CLASSES:
            raise DatasetError(f'{path}: image {name} has class label {_shortened(value)}; '
                               f'classes are numbered from 0, up to {MAX_CLASSES - 1}')
    if sizes[0] == 0:
        return np.array([int(value) for value in values], dtype=np.int64)
    return np.array(values, dtype=np.float32)


def dump_labels(pairs: Sequence[tuple[str, Any]] | None, class_names: Sequence[str] | None = None) -> bytes:
    """The content of `dataset.json` for [file name, label] pairs, or for no labels."""
    content = {'labels': pairs}
    if pairs and class_names:
        content['label_names'] = list(class_names)
    return json.dumps(content).encode()


def _parse(data: bytes, path: str) -> Labels:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path}: {LABEL_FILE} is not valid JSON ({error})') from error
    if not _is_label_file(content):
        raise DatasetError(
            f'{path}: {LABEL_FILE} must hold {{"labels": [[FILE NAME, LABEL], ...]}} or {{"labels": null}}')
    if content['labels'] is None:
        return Labels(None)
    class_names = content.get('label_names')
    return Labels(dict(content['labels']), class_names if isinstance(class_names, list) else None)


def _is_label_file(content: Any) -> bool:
    if not isinstance(content, dict) or 'labels' not in content:
        return False
    pairs = content['labels']
    return pairs is None or isinstance(pairs, list) and all(map(_is_pair, pairs))


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _labels_from_folders(image_names: Sequence[str], path: str) -> Labels:
    """One class per folder, in string order: the folders right below the innermost one that holds everything."""
    parents = [name.split('/')[:-1] for name in image_names]
    depth = len(os.path.commonprefix(parents))
    outside = [name for name, parent in zip(image_names, parents) if len(parent) == depth]
    if outside:
        raise DatasetError(f'{path}: image {outside[0]} lies in no class folder; '
                           'labels from folders need every image in one of several subfolders')
    class_names = sorted({parent[depth] for parent in parents})
    index = {name: i for i, name in enumerate(class_names)}
    return Labels({name: index[parent[depth]] for name, parent in zip(image_names, parents)}, class_names)


def _vector_size(value: Any) -> int:
    """0 for a number, K for a list of K numbers, -1 for anything else."""
    if _is_number(value):
        return 0
    return len(value) if isinstance(value, list) and value and all(map(_is_number, value)) else -1


def _is_number(value: Any) -> bool:
    """Whether it is a number that float32 can hold; comparing a NaN says no."""
    return isinstance(value, (int, float)) and abs(value) <= float(np.finfo(np.float32).max)


def _kind(size: int) -> str:
    return f'a list of {size} numbers' if size else 'a single number'


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + '...'
