"""Pictures and arrays as files: written complete or not at all,
and only over files that these scripts wrote before."""
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from dnnlib import writing

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np


MAX_WAITING_BYTES = 2 ** 29


class ImageWriter:
    """Encodes and writes pictures in the background; leaving the `with` block waits for all
    and raises what failed.

    A line is printed for each picture once it is on the disk, in order; `total` is how many there will be.
    """

    def __init__(self, total: int | None = None, num_threads: int = 4, max_waiting: int = 64):
        self._pool = ThreadPoolExecutor(num_threads)
        self._max_waiting = max_waiting
        self._waiting: list[tuple[Path, int, Future]] = []
        self._total = total
        self._num_done = 0

    def write(self, path: Path, image: 'np.ndarray') -> None:
        """Saves a uint8 picture [H, W, C], C = 1 or 3.

        Blocks while too many are waiting, so memory stays bounded.
        """
        while self._waiting and (self._waiting[0][2].done() or len(self._waiting) >= self._max_waiting
                                 or sum(num for _, num, _ in self._waiting) > MAX_WAITING_BYTES):
            self._finish_first()
        self._waiting.append((path, image.nbytes, self._pool.submit(save_image, path, image)))

    def __enter__(self) -> 'ImageWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            while self._waiting:
                self._finish_first()

    def _finish_first(self):
        path, _, future = self._waiting.pop(0)
        future.result()
        self._num_done += 1
        click.echo(path.name + (f' ({self._num_done}/{self._total})' if self._total else ''))


@contextmanager
def answered(path: Path):
    """Turns errors of the system while `path` is written into one sentence for users."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f'{path} cannot be written: {error.strerror or error}') from None


def require_free(folder: Path, names: Iterable[str]) -> None:
    """A usage error, before any picture is made, if a file of this name stands there
    that these scripts did not write."""
    for name in names:
        try:
            writing.require_free(folder / name)
        except OSError as error:
            raise click.BadParameter(f'{folder / name} {error.strerror}', param_hint='--outdir') from None


def require_room(path: Path, num_bytes: int) -> None:
    """A usage error, before anything is computed, if so many bytes cannot be written there."""
    try:
        with writing.atomic_path(path.with_name(f'{path.name}.trial')) as trial, open(trial, 'wb') as file:
            while num_bytes > 0:
                num_bytes -= file.write(bytes(min(num_bytes, 2 ** 20)))
            file.flush()
            os.fsync(file.fileno())
            raise InterruptedError          # Leaves the block, so that the temporary file is removed.
    except InterruptedError:
        return
    except OSError as error:
        raise click.BadParameter(f'{path} cannot be written: {error.strerror or error}', param_hint='--outdir') from None


def save_image(path: Path, image: 'np.ndarray') -> None:
    """Writes a uint8 picture [H, W, C], C = 1 or 3. A click error, for users, if that fails."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    info.add_text('Software', writing.MARK)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    with answered(path), writing.atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, pnginfo=info)


def save_arrays(path: Path, **arrays: 'np.ndarray') -> None:
    """Writes an .npz file.

    If that fails, it goes where temporary files do, so that nothing computed is lost.
    """
    try:
        _write_arrays(path, arrays)
    except OSError as error:
        failure = f'{path} cannot be written: {error.strerror or error}'
        try:
            other = Path(tempfile.mkdtemp(prefix='stylegan2-')) / path.name
            _write_arrays(other, arrays)
        except OSError:
            raise click.ClickException(failure) from None
        raise click.ClickException(f'{failure}; what was computed is in {other}') from None


def _write_arrays(path: Path, arrays: 'dict[str, np.ndarray]') -> None:
    import zipfile

    import numpy as np
    with writing.atomic(path) as file:
        np.savez(file, **arrays)
        with zipfile.ZipFile(file, 'a') as archive:
            archive.comment = writing.MARK.encode()
