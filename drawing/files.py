"""Pictures as files, written in the background."""
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np


class ImageWriter:
    """Encodes and writes pictures in the background; leaving the `with` block waits for all and raises what failed."""

    def __init__(self, num_threads: int = 4, max_waiting: int = 64):
        self._pool = ThreadPoolExecutor(num_threads)
        self._max_waiting = max_waiting
        self._waiting: list[Future] = []

    def write(self, path: Path, image: 'np.ndarray') -> None:
        """Saves a uint8 picture [H, W, C], C = 1 or 3. Blocks while too many are waiting, so memory stays bounded."""
        if len(self._waiting) >= self._max_waiting:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(save_image, path, image))

    def __enter__(self) -> 'ImageWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


def save_image(path: Path, image: 'np.ndarray') -> None:
    """Writes a uint8 picture [H, W, C], C = 1 or 3. A click error, for users, if that fails."""
    from PIL import Image
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    try:
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise click.ClickException(f'{path} cannot be written: {error.strerror or error}') from None
