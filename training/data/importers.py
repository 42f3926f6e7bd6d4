"""Where `dataset_tool.py` takes images from: folders, archives, LSUN databases,
the files of CIFAR-10 and MNIST."""
import gzip
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dnnlib.kinds_of_file import not_a_data_set
from dnnlib.picture_files import MAX_PIXELS
from training.data import listing, passed_over
from training.data.cifar10 import read_cifar10
from training.data.images import WHITE, decode, recolor
from training.data.labels import LABEL_FILE, MAX_CLASSES, Labels, MisplacedLabels, find_labels, label_array
from training.data.shards import CIFAR10_FILE, PARQUET, TAR, not_labels_of_tars, open_shards, shards_at
from training.data.storage import MAX_FILE_BYTES, DatasetError, FolderFiles, ZipFiles, open_files

MNIST_FILE = 'train-images-idx3-ubyte.gz'


class Item(NamedTuple):
    """One original; `load` gives uint8 [H, W, C] or raises an OSError with the reason alone."""
    name: str
    load: Callable[[], np.ndarray]
    label: Any = None


class Originals(NamedTuple):
    """The images that a training set is made of, in their order."""
    path: str
    items: Iterable[Item]
    count: int
    class_names: list[str] | None = None
    label_note: str | None = None   # A sentence on how labels were found, if that needs one.
    skips_bad: bool = False         # Are unreadable images usual in files of this kind?
    passed_over: str = ''           # Files that are not images, counted, in words.


def open_originals(path: str, labels_from: str = 'json', background: tuple[int, int, int] = WHITE,
                   max_pixels: int = MAX_PIXELS) -> Originals:
    """The images at `path`, of the kind that its name tells, with labels from 'json',
    'folders' or 'none' at all.

    Raises:
        DatasetError: nothing there, not of a known kind, damaged, or without the labels asked for.
    """
    file_name = os.path.basename(os.path.abspath(path))
    read = partial(decode, background=background, max_pixels=max_pixels)
    if not os.path.exists(path):
        raise DatasetError(f'{path}: no such file or folder')
    shards = [] if file_name.endswith('_lmdb') else shards_at(path)
    if not shards and (os.path.isdir(path) and not file_name.endswith('_lmdb') or file_name.lower().endswith('.zip')):
        return _files(path, labels_from, read)
    if shards and labels_from != 'folders':
        return _shards(path, shards, read, labels_from)
    if labels_from == 'none':
        originals = open_originals(path, background=background, max_pixels=max_pixels)
        return originals._replace(items=(item._replace(label=None) for item in originals.items))
    if labels_from != 'json':
        raise DatasetError(f'{path}: has no folders to take labels from; leave out --labels-from={labels_from}')
    if os.path.isdir(path):
        return _lsun(path, read)
    if file_name == CIFAR10_FILE:
        return _cifar10(path)
    if file_name == MNIST_FILE:
        return _mnist(path)
    if (sentence := not_a_data_set(path)) is not None:
        raise DatasetError(sentence)
    raise DatasetError(f'{path}: not a source of a known kind; there are folders, .zip archives, LSUN folders named '
                       f'..._lmdb, {TAR} and {PARQUET} files, {CIFAR10_FILE} and {MNIST_FILE}')


def _files(path: str, labels_from: str, read: Callable[[bytes], np.ndarray]) -> Originals:
    """A folder, in the order of path components, or an archive, in string order,
    which puts 'a-z' before 'a/x'."""
    files = open_files(path)
    names = listing.image_names(files)
    if isinstance(files, FolderFiles):
        names.sort(key=lambda name: name.split('/'))
    found = _labels(files, names, labels_from)
    labels = found.by_name or {}

    def load(name: str) -> np.ndarray:
        return read(files.read(name))

    items = [Item(name, partial(load, name), labels.get(name)) for name in names]
    return Originals(path, items, len(items), found.class_names, found.note,
                     passed_over=listing.what_is_passed_over(files))


def _labels(files: FolderFiles | ZipFiles, names: list[str], labels_from: str) -> Labels:
    if labels_from == 'none':
        return Labels(None)
    if labels_from == 'folders':
        return find_labels(files, names, 'natural-folders')
    with _naming_the_remedy(DatasetError):
        found = find_labels(files, names, labels_from)
        labelled = [name for name in names if found.by_name and found.by_name.get(name) is not None]
        if labelled:
            label_array(found.by_name, labelled, files.path)        # Refuses what no data set could use.
    return found


@contextmanager
def _naming_the_remedy(kind: type[DatasetError]) -> Iterator[None]:
    """An error of this kind is about labels."""
    try:
        yield
    except kind as error:
        raise DatasetError(f'{error}; --labels-from=none leaves the labels out') from error


def _shards(path: str, paths: list[str], read: Callable[[bytes], np.ndarray], labels_from: str) -> Originals:
    """WebDataset and Parquet: encoded pictures in the order of the shards."""
    with _naming_the_remedy(MisplacedLabels):
        beside = os.path.join(path, LABEL_FILE)
        if labels_from != 'none' and paths[0].lower().endswith(TAR) and os.path.exists(beside):
            raise not_labels_of_tars(beside)
        found = open_shards(paths, labels_from != 'none')

    def items() -> Iterator[Item]:
        for picture in found.pictures:
            label = None if labels_from == 'none' else picture.label
            if label is not None and not 0 <= label < MAX_CLASSES:
                raise DatasetError(f'{path}: {picture.name} has class label {label}; classes are numbered from 0, up to '
                                   f'{MAX_CLASSES - 1}; --labels-from=none leaves the labels out')
            yield Item(picture.name, lambda picture=picture: read(picture.read()), label)

    return Originals(path, items(), found.count, found.class_names, found.label_note if labels_from != 'none' else None,
                     passed_over=passed_over.in_words(found.left_out))


def _lsun(path: str, read: Callable[[bytes], np.ndarray]) -> Originals:
    """Encoded pictures by key, without labels, all in colour."""
    try:
        import lmdb
    except ImportError:
        raise DatasetError(f'{path}: LSUN databases need the extra "lmdb" (pip install lmdb)') from None
    with _reading(path, 'LSUN database'):
        database = lmdb.open(os.fspath(path), readonly=True, lock=False, create=False)
        count = database.stat()['entries']

    def load(value: bytes) -> np.ndarray:
        return recolor(read(value), 'rgb')

    def items() -> Iterator[Item]:
        with database.begin() as transaction:
            for key, value in transaction.cursor():
                yield Item(repr(key), partial(load, value))

    return Originals(path, items(), count, skips_bad=True)


def _cifar10(path: str) -> Originals:
    """The training images, 32x32 RGB, classes 0 to 9."""
    with _reading(path, 'CIFAR-10 archive'):
        pixels, labels = read_cifar10(path)                                     # [N, 32, 32, 3], [N]
        _check_classes(labels, len(pixels))
    return _arrays(path, pixels, labels)


def _mnist(path: str) -> Originals:
    """The training digits, grey, padded with black from 28x28 to 32x32, classes 0 to 9."""
    labels_path = os.fspath(path).removesuffix('-images-idx3-ubyte.gz') + '-labels-idx1-ubyte.gz'
    if not os.path.exists(labels_path):
        raise DatasetError(f'{labels_path}: no such file; the labels of MNIST belong beside its images')
    with _reading(path, 'MNIST image file'):
        pixels = _read_idx(path, ndim=3)                                        # [N, 28, 28]
        if pixels.shape[1:] != (28, 28):
            raise ValueError(f'images of {pixels.shape[2]}x{pixels.shape[1]} instead of 28x28 pixels')
    with _reading(labels_path, 'MNIST label file'):
        labels = _read_idx(labels_path, ndim=1)                                 # [N]
        _check_classes(labels, len(pixels))
    return _arrays(path, np.pad(pixels, [(0, 0), (2, 2), (2, 2)])[..., None], labels)


def _read_idx(path: str, ndim: int) -> np.ndarray:
    """A gzipped IDX file of bytes: big-endian magic number (0x800 + ndim) and shape, then the data."""
    with gzip.open(path) as file:
        magic, *shape = struct.unpack(f'>{1 + ndim}I', file.read(4 + 4 * ndim))
        size = math.prod(shape)
        if magic != 0x800 + ndim or size > MAX_FILE_BYTES:
            raise ValueError(f'header {magic:#x} {shape}')
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f'{"more" if len(data) > size else "less"} data than the {size} bytes of its header')
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check_classes(labels: np.ndarray, count: int) -> None:
    if len(labels) != count or not np.isin(labels, range(10)).all():
        raise ValueError(f'its labels are not {count} classes from 0 to 9')


def _arrays(path: str, pixels: np.ndarray, labels: np.ndarray) -> Originals:
    items = [Item(str(i), partial(pixels.__getitem__, i), int(label)) for i, label in enumerate(labels)]
    return Originals(path, items, len(items))


@contextmanager
def _reading(path: str, kind: str) -> Iterator[None]:
    """Whatever the readers of a foreign format raise on damaged files, as a DatasetError."""
    try:
        yield
    except Exception as error:
        raise DatasetError(f'{path}: not a readable {kind} ({error or type(error).__name__})') from error
