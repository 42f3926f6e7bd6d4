"""Image data sets: what training and metrics read.

An item is (image uint8 [C, H, W], label float32 [label_dim]). Nothing here needs torch:
a `DataLoader` takes anything with `__len__` and `__getitem__`.
"""
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dnnlib import commands
from training.data import images, listing
from training.data.labels import LABEL_FILE, Labels, class_table, describe, find_labels, label_array, label_file
from training.data.storage import DatasetError, fingerprint, open_files

__all__ = ['BadFile', 'Dataset', 'DatasetError', 'Details', 'ImageFolderDataset']

MIN_RESOLUTION = 8              # The networks begin at 4x4 and need at least one block above it.
# Smaller sets are decoded before training (a few seconds); else headers are read.
MAX_CHECKED_PIXELS = 2 ** 26


class Details(NamedTuple):
    """Where an item comes from; `raw_label` is an int64 scalar (class) or a float32 vector."""
    raw_idx: int
    xflip: bool
    raw_label: np.ndarray
    yflip: bool = False


class BadFile(NamedTuple):
    """A file of a set that cannot be used: "image {name} {reason}; {remedy}" is a sentence."""
    name: str
    reason: str
    remedy: str


class Dataset(ABC):
    """Images and labels by index; where they come from is up to `_load_raw_image` and `_load_raw_labels`.

    Args:
        name: what the set is called in names of runs.
        raw_shape: [number of images, C, H, W] of what there is.
        max_size: keep a random choice of this many images; None keeps all.
        use_labels: hand out labels; otherwise they have length 0.
        xflip: append the mirror image of every image, so that item k + N/2 is item k mirrored.
        random_seed: of the choice.
        yflip: then append all of that upside down.
    """

    def __init__(
        self,
        name: str,
        raw_shape: Sequence[int],
        max_size: int | None = None,
        use_labels: bool = False,
        xflip: bool = False,
        random_seed: int = 0,
        yflip: bool = False,
    ):
        self._name = name
        self._raw_shape = list(raw_shape)
        self._use_labels = use_labels
        raw_idx = _choose(self._raw_shape[0], max_size, random_seed)
        self._raw_idx = np.tile(raw_idx, 2) if xflip else raw_idx               # [N]
        self._xflip = np.arange(len(self._raw_idx)) >= len(raw_idx)             # [N], the second half if any
        self._yflip = np.arange(len(self._raw_idx) * (2 if yflip else 1)) >= len(self._raw_idx)
        if yflip:
            self._raw_idx, self._xflip = np.tile(self._raw_idx, 2), np.tile(self._xflip, 2)

    @abstractmethod
    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        """One image, uint8 [C, H, W]."""

    def _load_raw_labels(self) -> np.ndarray | None:
        """All labels, int64 [number of images] or float32 [number of images, K]; None if there are none."""
        return None

    def close(self) -> None:        # noqa: B027 (most sets hold nothing open)
        """Closes what is open; it opens again when needed."""

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ('_raw_labels', 'label_shape')}

    def __len__(self) -> int:
        return len(self._raw_idx)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._load_raw_image(self._raw_idx[idx])
        assert image.dtype == np.uint8 and list(image.shape) == self.image_shape, \
            f'image {idx} is {image.dtype} {list(image.shape)}, expected uint8 {self.image_shape}'
        if self._xflip[idx]:
            image = image[:, :, ::-1]
        if self._yflip[idx]:
            image = image[:, ::-1]
        return image.copy(), self.get_label(idx)

    def get_label(self, idx: int) -> np.ndarray:
        """Label of an item, float32 [label_dim]: one-hot for classes, length 0 without labels."""
        label = self._raw_labels[self._raw_idx[idx]]
        if self._raw_labels.ndim > 1:
            return label.copy()
        onehot = np.zeros(self.label_shape, dtype=np.float32)
        onehot[label] = 1
        return onehot

    def get_details(self, idx: int) -> Details:
        """Raw index, mirrored or not, and raw label of an item."""
        raw_idx = int(self._raw_idx[idx])
        return Details(raw_idx, bool(self._xflip[idx]), self._raw_labels[raw_idx].copy(), bool(self._yflip[idx]))

    @cached_property
    def _raw_labels(self) -> np.ndarray:
        """int64 [number of images] or float32 [number of images, K], K = 0 without labels."""
        labels = self._load_raw_labels() if self._use_labels else None
        return np.zeros([self._raw_shape[0], 0], dtype=np.float32) if labels is None else labels

    @property
    def name(self) -> str:
        """What the set is called."""
        return self._name

    @property
    def image_shape(self) -> list[int]:
        """[C, H, W] of every image."""
        return list(self._raw_shape[1:])

    @property
    def num_channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        """Side of the images in pixels; DatasetError if they are not square."""
        _, height, width = self.image_shape
        if height != width:
            raise DatasetError(f'{self.name}: images are {width}x{height}, not square')
        return height

    @cached_property
    def label_shape(self) -> list[int]:
        """[number of classes] over all images, whatever subset is used; [K] for vectors,
        [0] without labels."""
        labels = self._raw_labels
        return [int(labels.max()) + 1] if labels.ndim == 1 else list(labels.shape[1:])

    @property
    def label_dim(self) -> int:
        """Length of a label."""
        return self.label_shape[0]

    @property
    def has_labels(self) -> bool:
        """Whether labels are used and there are any."""
        return self.label_dim > 0

    @property
    def has_onehot_labels(self) -> bool:
        """Whether labels are classes."""
        return self._raw_labels.ndim == 1


class ImageFolderDataset(Dataset):
    """The images in a folder and its subfolders or in a zip archive, in plain string order of their names.

    Opening lists the files and decodes the first image, no more;
    the label file is read when labels are first needed, and an archive is opened once in every process that
    reads from it, however that was started.

    Args:
        path: folder or .zip archive.
        resolution: side in pixels that the images must have; None takes it from the first image.
        max_size, use_labels, xflip, yflip, random_seed: as in `Dataset`.
        labels_from: 'json' reads `dataset.json`; 'folders' makes every subfolder a class,
            in plain string order (10 before 2), which older runs have recorded; 'natural-folders' goes by the
            numbers in the names (2 before 10).

    Raises:
        DatasetError: nothing to read at `path`, or the first image is damaged or
            of another resolution. Later, when the file concerned is first needed: any other image is damaged
            or of another shape than the first, or the label file is not what it should be.
    """

    def __init__(
        self,
        path: str,
        resolution: int | None = None,
        max_size: int | None = None,
        use_labels: bool = False,
        xflip: bool = False,
        random_seed: int = 0,
        labels_from: str = 'json',
        yflip: bool = False,
    ):
        self._path = os.fspath(path)
        self._labels_from = labels_from
        self._files = open_files(self._path)
        self._image_names = listing.image_names(self._files)
        height, width, channels = self._first_shape = self._decode(self._image_names[0]).shape
        if resolution is not None and (height, width) != (resolution, resolution):
            raise DatasetError(f'{path}: images are {width}x{height}, not {resolution}x{resolution} as asked for')
        super().__init__(
            name=_name_of(self._path),
            raw_shape=[len(self._image_names), channels, height, width],
            max_size=max_size,
            use_labels=use_labels,
            xflip=xflip,
            random_seed=random_seed,
            yflip=yflip,
        )

    def close(self) -> None:
        """Closes the archive; it opens again when needed."""
        self._files.close()

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the content: names, lengths and checksums of all images and of the label file.

        It does not depend on where the set lies, on the options that it is opened with,
        or on whether it is a folder or an archive; but a label file in another place than the root counts
        only where it is used, since runs without labels have never counted it. Of an archive only the
        directory is read; of a folder, every file.
        """
        names = [*self._image_names, *([LABEL_FILE] if LABEL_FILE in self._files.names else [])]
        if LABEL_FILE not in names and self._use_labels and self._labels_from == 'json':
            elsewhere = label_file(self._files, self._image_names)
            names += [elsewhere] if elsewhere else []
        return fingerprint(self._files, names)

    def passed_over(self) -> str:
        """The files of this set that are not among its images, counted, in words; '' if there are none."""
        return listing.what_is_passed_over(self._files)

    def left_behind(self) -> list[str]:
        """Folders in this set that other programs left behind (thumbnails, caches); earlier versions used
        their pictures."""
        return sorted(kind.removeprefix('folder ') for kind in self._files.left_out if kind.startswith('folder '))

    def check(self, decode: bool = True) -> Iterator[BadFile]:
        """Goes through the images of this set and yields those that cannot be used; without `decode`,
        by headers."""
        for raw_idx in np.unique(self._raw_idx):
            name = self._image_names[raw_idx]
            try:
                problem = shape_problem(self._shape_of(name, decode), self._first_shape)
            except OSError as error:
                yield BadFile(name, f'cannot be read ({error})', self._how_to_list())
            else:
                if problem:
                    yield BadFile(name, problem, self._how_to_repack())

    def require_trainable(self) -> None:
        """Raises a DatasetError unless a network can be trained on this set.

        It looks at the side of the images, the labels (if used) and every image. Images are decoded if the
        whole set has at most MAX_CHECKED_PIXELS pixels; otherwise only their headers are read.
        """
        problem = side_problem(self._first_shape)
        if problem:
            raise self._error(self._image_names[0], problem, self._how_to_repack())
        _ = self._raw_labels        # Reads the label file.
        num_pixels = self._raw_shape[0] * self._first_shape[0] * self._first_shape[1]
        for bad in self.check(decode=num_pixels <= MAX_CHECKED_PIXELS):
            raise self._error(*bad)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        name = self._image_names[raw_idx]
        pixels, problem = None, None
        try:
            pixels = self._decode(name, self._first_shape[:2])                  # [H, W, C]
            problem = shape_problem(pixels.shape, self._first_shape)
        except images.WrongSizeError as error:
            problem = shape_problem(error.shape, self._first_shape)
        if problem:
            raise self._error(name, problem, self._how_to_repack())
        return pixels.transpose(2, 0, 1)

    def about_labels(self) -> list[str]:
        """Lines of text: what kind of labels are used, the classes with the number of their images,
        and how they were found where that is not a matter of course."""
        labels = self._raw_labels
        if not self.has_labels:
            return ['none']
        found = self._find_labels()
        table = class_table(labels, found.class_names) if self.has_onehot_labels else []
        return [describe(labels), *table, *([found.note] if found.note else [])]

    def has_ambiguous_order(self) -> bool:
        """Whether 'folders' and 'natural-folders' number the classes differently."""
        return self._labels_from != 'json' and self._find_labels().note is not None

    def _find_labels(self) -> Labels:
        return find_labels(self._files, self._image_names, self._labels_from)

    def _load_raw_labels(self) -> np.ndarray | None:
        labels = self._find_labels().by_name
        return None if labels is None else label_array(labels, self._image_names, self._path)

    def _decode(self, name: str, size: Sequence[int] | None = None) -> np.ndarray:
        """One image, uint8 [H, W, C]; a WrongSizeError before it is decoded
        if it has another size than asked for."""
        try:
            return images.decode(self._files.read(name), size=size)
        except images.WrongSizeError:
            raise
        except OSError as error:
            raise self._error(name, f'cannot be read ({error})', self._how_to_list()) from error

    def _shape_of(self, name: str, decode: bool) -> tuple[int, ...]:
        """(H, W, C) of one image."""
        if decode:
            try:
                return images.decode(self._files.read(name), size=self._first_shape[:2]).shape
            except images.WrongSizeError as error:
                return error.shape
        with self._files.open(name) as file:
            return images.read_shape(file)

    def _error(self, name: str, reason: str, remedy: str) -> DatasetError:
        return DatasetError(f'{self._path}: image {name} {reason}; {remedy}')

    def _how_to_list(self) -> str:
        return 'to list all such files: ' + shlex.join([
            *commands.words_of('dataset_tool'), '--check', f'--source={self._path}'])

    def _how_to_repack(self) -> str:
        side = largest_side(self._first_shape)
        return 'to make a set of equal images: ' + shlex.join([
            *commands.words_of('dataset_tool'), f'--source={self._path}',
            f'--dest={_name_of(self._path)}-{side}.zip',
            '--transform=center-crop', f'--width={side}', f'--height={side}', '--color=rgb'])


def shape_problem(shape: Sequence[int], first_shape: Sequence[int]) -> str | None:
    """How an image of `shape` [H, W, C] differs from the first one; None if it does not."""
    (height, width, channels), (first_height, first_width, first_channels) = shape, first_shape
    if (height, width) != (first_height, first_width):
        return f'is {width}x{height}; all images must be {first_width}x{first_height} like the first one'
    if channels != first_channels:
        return f'is {_COLORS[channels]}; all images must be {_COLORS[first_channels]} like the first one'
    return None


def side_problem(shape: Sequence[int]) -> str | None:
    """Why networks cannot be trained on images of `shape` [H, W, C]; None if they can."""
    height, width = shape[:2]
    if height == width and height >= MIN_RESOLUTION and height & (height - 1) == 0:
        return None
    return f'is {width}x{height}; training needs squares with a power of two, at least {MIN_RESOLUTION}, as their side'


def largest_side(shape: Sequence[int]) -> int:
    """The largest side that networks can be trained at and that an image of `shape` [H, W,
    C] has pixels for."""
    return max(2 ** (min(shape[:2]).bit_length() - 1), MIN_RESOLUTION)


_COLORS = {1: 'grey', 3: 'RGB'}


def _choose(count: int, max_size: int | None, random_seed: int) -> np.ndarray:
    """Indices of the images to keep, int64, ascending."""
    indices = np.arange(count, dtype=np.int64)
    if max_size is None or max_size >= count:
        return indices
    np.random.RandomState(random_seed).shuffle(indices)
    return np.sort(indices[:max_size])


def _name_of(path: str) -> str:
    """'sets/cats.zip' and 'sets/cats/' -> 'cats'."""
    name = os.path.basename(os.path.abspath(path))
    return name if os.path.isdir(path) else os.path.splitext(name)[0]
