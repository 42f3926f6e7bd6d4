"""Labels of an image set: `dataset.json`, or the folders that the images lie in.

`dataset.json` is an object whose key `labels` is null or a list of [file name, label] pairs.
A label is a class (0, 1, 2, ...) or a list of numbers. `label_names`, which `dataset_tool.py` adds where it
knows them, names the classes.
"""
import json
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dnnlib.output import printable
from training.data.matching import AmbiguousError, match
from training.data.storage import MAX_FILE_BYTES, DatasetError, FolderFiles, ZipFiles

LABEL_FILE = 'dataset.json'
MAX_BYTES = 2 ** 26             # Of the file, and ...
MAX_IMAGE_BYTES = 2 ** 14       # ... more of it for each image: its objects take twenty times the memory.
MAX_CLASSES = 10 ** 6           # A one-hot label has one entry per class.
FEW_CLASSES = 1000              # Numbers of up to so many classes may have gaps of any size;
MAX_GAPS = 10                   # of more, at most so many numbers per class that occurs.

# 'folders' has the classes in plain string order (10 before 2),
# 'natural-folders' by the numbers in their names.
LABEL_SOURCES = ('json', 'folders', 'natural-folders')

_MAX_ROWS = 24                  # Of the table of classes.


class MisplacedLabels(DatasetError):
    """There are labels, but none for the images, not where they count, or none that can be read."""


class Labels(NamedTuple):
    """Labels by the names of the images; None where the set has none."""
    by_name: dict[str, Any] | None
    class_names: list[str] | None = None
    note: str | None = None     # A sentence on how they were found, if that needs one.


def find_labels(files: FolderFiles | ZipFiles, image_names: Sequence[str],
                labels_from: str = 'json') -> Labels:
    """The labels of a folder or archive: from its `dataset.json`, or one class per folder.

    Raises:
        DatasetError: `dataset.json` is not what it should be, or names no image,
            or the folders tell no classes apart.
    """
    assert labels_from in LABEL_SOURCES, f'labels_from={labels_from!r} is not one of {LABEL_SOURCES}'
    if labels_from != 'json':
        return _labels_from_folders(image_names, files.path, natural=labels_from == 'natural-folders')
    name = label_file(files, image_names)
    if name is None:
        _refuse_scattered(files, image_names)
        return Labels(None)
    try:
        most = min(MAX_BYTES + MAX_IMAGE_BYTES * len(image_names), MAX_FILE_BYTES)
        found = _parse(files.read(name, most), f'{files.path}: {name}')
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f'{files.path}: {name} cannot be read ({error})') from error
    return _of_images(found, image_names, f'{files.path}: {name}') if found.by_name else found


def label_file(files: FolderFiles | ZipFiles, image_names: Sequence[str]) -> str | None:
    """The label file of a set: at its root, or in a folder that holds all images,
    as file managers make archives."""
    if LABEL_FILE in files.names:
        return LABEL_FILE
    common = '/'.join([*os.path.commonprefix([folders_of(name) for name in image_names]), ''])
    found = [name for name in files.names
             if base_of(name) == LABEL_FILE and common.startswith(with_slashes(name).removesuffix(LABEL_FILE))]
    return min(found, key=len, default=None)


def with_slashes(name: str) -> str:
    """A name in a set; some archives of Windows have backslashes."""
    return name.replace('\\', '/')


def base_of(name: str) -> str:
    """'a/b.png' -> 'b.png'."""
    return with_slashes(name).rpartition('/')[2]


def folders_of(name: str) -> list[str]:
    """'a/b/c.png' -> ['a', 'b']."""
    return with_slashes(name).split('/')[:-1]


def _refuse_scattered(files: FolderFiles | ZipFiles, image_names: Sequence[str]) -> None:
    """Raises MisplacedLabels if there are several label files, each beside a part of the images."""
    in_order = [*sorted(map(with_slashes, image_names)), '']

    def has_images(folder: str) -> bool:
        return in_order[bisect_left(in_order, folder, hi=len(image_names))].startswith(folder)

    found = [name for name in files.names
             if base_of(name).lower() == LABEL_FILE and has_images(with_slashes(name)[:-len(LABEL_FILE)])]
    if found:
        raise MisplacedLabels(f'{files.path}: {_and_more(found[0], len(found))} is not where labels are looked for: those '
                              f'of all images must be in one {LABEL_FILE} at the root of the set')


def _of_images(found: Labels, image_names: Sequence[str], path: str) -> Labels:
    """The labels by the names of the images, which the file may spell differently."""
    entry, num = next(iter(found.by_name)), len(found.by_name)
    wanted = 'names must be relative to the root of the set, with forward slashes'
    try:
        matched = match(found.by_name, image_names)
    except AmbiguousError as error:
        one, other, image = error.args
        raise MisplacedLabels(f'{path} has the labels of {image} in several ways, as {one} and as {other}; '
                              f'{wanted}') from error
    if not matched.by_image:
        raise MisplacedLabels(f'{path} names no image of the set: it has {_and_more(entry, num)}, the set has '
                              f'{_and_more(image_names[0], len(image_names))}; {wanted}')
    note = f'{path} says {matched.example[0]} for {matched.example[1]}; names were matched.' if matched.example else None
    return found._replace(by_name=matched.by_image, note=note)


def _and_more(name: str, num: int) -> str:
    return f'{name} and {num - 1} more' if num > 1 else name


def label_array(labels: dict[str, Any], image_names: Sequence[str], path: str) -> np.ndarray:
    """The labels of the named images in their order: int64 [N] (classes) or float32 [N, K] (vectors).

    Entries for other files are ignored.

    Raises:
        DatasetError: an image has no label, or one that is negative, a fraction, too large, no number,
            or unlike the others; or so few of the classes occur that their numbers must mean something else.
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
        if size == 0 and value != int(value):
            raise DatasetError(f'{path}: image {name} has the label {value}, which is no class: classes are whole numbers '
                               f'from 0; for a quantity give every image a list of one number, here [{value}]')
        if size == 0 and not 0 <= value < MAX_CLASSES:
            raise DatasetError(f'{path}: image {name} has class label {_shortened(value)}; '
                               f'classes are numbered from 0, up to {MAX_CLASSES - 1}')
    if sizes[0] == 0:
        classes = np.array([int(value) for value in values], dtype=np.int64)
        _refuse_sparse(classes, path)
        return classes
    return np.array(values, dtype=np.float32)


def _refuse_sparse(classes: np.ndarray, path: str) -> None:
    """Raises a DatasetError if almost none of very many classes occur.

    A part of a set of 1000 classes is fine.
    """
    num, used = int(classes.max()) + 1, len(np.unique(classes))
    if num > max(FEW_CLASSES, MAX_GAPS * used):
        raise DatasetError(f'{path}: the labels go up to {num - 1}, but only {used} different ones occur; every number up '
                           f'to the largest is a class, so number the classes from 0 to {used - 1}')


def class_table(classes: Iterable[int], class_names: Sequence[str] | None = None) -> list[str]:
    """Lines of text: the number of images of each class that occurs, with its name where it has one."""
    counts = sorted(Counter(map(int, classes)).items())
    names = dict(enumerate(class_names or []))
    rows = [('class', 'images', 'name' if names else '')]
    rows += [(str(c), str(count), str(names.get(c, ''))) for c, count in counts[:_MAX_ROWS]]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f'{c:>{widths[0]}}  {count:>{widths[1]}}  {_shortened_name(name)}'.rstrip()
             for c, count, name in rows]
    rest = len(counts) - _MAX_ROWS
    return [*lines, f'and {rest} more'] if rest > 0 else lines


def describe(values: Sequence[Any] | np.ndarray) -> str:
    """What kind of labels these are, in words."""
    if not len(values):
        return 'none'
    if np.ndim(values[0]):
        return f'a vector of {_count(len(values[0]), "number")} for each image'
    num, used = int(max(values)) + 1, len({int(value) for value in values})
    gaps = f', of which {used} occur{"s" * (used == 1)}' if used < num else ''
    return f'{_count(num, "class", "classes")}{gaps}'


def _count(num: int, one: str, many: str | None = None) -> str:
    return f'{num} {one if num == 1 else many or one + "s"}'


def _shortened_name(name: str) -> str:
    """A class's name as part of a line."""
    name = printable(name, keep='')
    return name if len(name) <= 60 else name[:57] + '...'


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
        raise DatasetError(f'{path} is not valid JSON ({error})') from error
    if not _is_label_file(content):
        raise DatasetError(
            f'{path} must hold {{"labels": [[FILE NAME, LABEL], ...]}} or {{"labels": null}}')
    if content['labels'] is None:
        return Labels(None)
    class_names = content.get('label_names')
    by_name = {}
    for name, label in content['labels']:
        if name in by_name and by_name[name] != label:
            raise DatasetError(f'{path} has two labels for {name}, {_shortened(by_name[name])} and {_shortened(label)}')
        by_name[name] = label
    return Labels(by_name, class_names if isinstance(class_names, list) else None)


def _is_label_file(content: Any) -> bool:
    if not isinstance(content, dict) or 'labels' not in content:
        return False
    pairs = content['labels']
    return pairs is None or isinstance(pairs, list) and all(map(_is_pair, pairs))


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _labels_from_folders(image_names: Sequence[str], path: str, natural: bool) -> Labels:
    """One class per folder, of those right below the innermost one that holds everything."""
    parents = [folders_of(name) for name in image_names]
    depth = len(os.path.commonprefix(parents))
    outside = [name for name, parent in zip(image_names, parents) if len(parent) == depth]
    if outside:
        raise DatasetError(f'{path}: image {outside[0]} lies in no class folder; '
                           'labels from folders need every image in one of several subfolders')
    in_string_order = sorted({parent[depth] for parent in parents})
    class_names = sorted(in_string_order, key=_with_numbers_in_order) if natural else in_string_order
    index = {name: i for i, name in enumerate(class_names)}
    return Labels({name: index[parent[depth]] for name, parent in zip(image_names, parents)}, class_names,
                  _note_on_order(in_string_order, natural))


def _with_numbers_in_order(name: str) -> str:
    """A key that puts 2 before 10, and otherwise sorts as strings do:
    each number begins with how many digits it has."""
    return re.sub('[0-9]+', lambda number: f'{len(number[0].lstrip("0")):05d}{number[0].lstrip("0")}', name)


def _note_on_order(in_string_order: list[str], natural: bool) -> str | None:
    """A sentence about the order of the classes, if numbers in their names suggest another one."""
    for i, (name, other) in enumerate(zip(in_string_order, sorted(in_string_order, key=_with_numbers_in_order))):
        if name != other:
            taken = other if natural else name
            how = 'numbers in the names of the folders count' if natural else 'in plain string order, as this run began'
            return f'Class {i} is the folder {taken}: {how}.'
    return None


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
