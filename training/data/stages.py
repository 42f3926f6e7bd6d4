"""What feeds a step: sources of reals and labels, the stages that say which are on line,
and endless batches of reals."""
import atexit
import multiprocessing
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dnnlib.output import printable
from torch_utils import misc
from training.data.storage import DatasetError

MAX_BAD_IMAGES = 10     # Per process that loads images.
MAX_RESTARTS = 10       # Of the processes that load images, of one source on one rank.
WORKER_IS_GONE = 'DataLoader worker (pid'  # How torch's RuntimeError about a worker that was killed begins.
STOP_SIGNALS = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGHUP')
                if hasattr(signal, name)]


def centre_name(index: int) -> str:
    """What metrics and network files call a data centre."""
    return f'centre-{index}'


class Source:
    """One data set, and the labels that fakes of its kind get.

    `code` [k] is appended to the labels that G gets of them; critics do not see it.
    `centre` is set if the source is one of several data centres: its name, and the arguments of its data set
    with the code, as metrics take them.
    """
    centre: tuple[str, tuple[dict, list[float]]] | None = None

    def __init__(self, dataset: Any, code: np.ndarray | None = None):
        self.dataset = dataset
        self.code = code

    def open_reals(self, make: Callable[[Any], Any], config: dict, device: torch.device, nimg: int, order: int) -> Any:
        """Endless batches of reals from a position of the run on, in one of many orders; `make` opens those of a data set."""
        return make(self.dataset)

    def draw_labels(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Labels of items picked at random: for G [num,G.c_dim], for critics [num,c_dim], float32."""
        c = np.zeros([num, 0], np.float32)
        if self.dataset.label_dim > 0:
            c = np.stack([self.dataset.get_label(i) for i in rng.integers(len(self.dataset), size=num)])
        return self.with_code(c), c

    def with_code(self, c: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Labels [N,c_dim] as G gets them."""
        if self.code is None:
            return c
        if isinstance(c, np.ndarray):
            return np.concatenate([c, np.tile(self.code, [len(c), 1])], axis=1)
        return torch.cat([c, misc.constant(self.code, shape=[len(c), len(self.code)], device=c.device)],
                         dim=1)


@dataclass
class Stage:
    """A stretch of the run, until `end_nimg` images have been shown; its `sources` are on line: steps use
    them."""
    end_nimg: int
    sources: list[Source]
    reg_source: Source | None = None    # Labels for the generator's lazy step. None: the first source's.
    # Labels of the grid of fakes, row by row in turn. None: its reals'.
    grid_sources: list[Source] | None = None


class OutOfImagesError(DatasetError):
    """Training cannot go on for want of images; raised between two iterations, on all ranks alike."""


class WithoutBad(torch.utils.data.Dataset):
    """A data set whose unreadable images are replaced by the next readable one: a run outlives a few of them.

    Each is named once. One more than MAX_BAD_IMAGES, and the DatasetError of the last is raised.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        for candidate in range(idx, idx + len(self)):
            try:
                return self.dataset[candidate % len(self)]
            except DatasetError as error:
                self._note(candidate % len(self), error)
        raise DatasetError('no image of the data set can be read')

    def _note(self, idx: int, error: DatasetError) -> None:
        if idx in self._bad:
            return
        self._bad.add(idx)
        if len(self._bad) > MAX_BAD_IMAGES:
            raise DatasetError(f'more than {MAX_BAD_IMAGES} images cannot be read; the last: {error}') from error
        print(f'Warning: skipped an image, training goes on: {error}', flush=True)


def ignore_stop_signals(worker: int) -> None:
    """In a process that loads images: schedulers and terminals signal all processes of a run,
    but its trainers decide.

    A worker ends when its trainer does (`end_with_program`).
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def start_method(num_workers: int) -> str | None:
    """How processes that load images start: on Linux as copies of this one, whatever Python's default (from 3.14 on it is
    another, which imports torch in each of them); elsewhere as is usual there. None without such processes."""
    return 'fork' if num_workers and sys.platform == 'linux' else None


def processes(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader about the processes that load images.

    None load, with a warning, where they could not hand over what they loaded: it goes through shared memory, whose
    handles go through a socket in the directory for temporary files. Where one of these cannot be made (no /dev/shm,
    a full disk, a path too long for a socket), torch's processes lose images in silence, and it waits for ever.
    """
    method = start_method(num_workers)
    try:
        if num_workers:
            with Listener():                                    # In multiprocessing's directory for temporary files.
                torch.empty(1).share_memory_()
                multiprocessing.get_context(method).Queue().close()
    except (OSError, RuntimeError) as error:
        tell_of_no_processes(error)
        return dict(num_workers=0, prefetch_factor=None)
    return dict(num_workers=num_workers, multiprocessing_context=method)


def tell_of_no_processes(error: Exception) -> None:
    """Says why from here on images are loaded without processes of their own. It may be an error of one of them."""
    print('Warning: images are loaded without processes of their own, which could not hand them over: '
          f'{printable(str(error).strip().splitlines()[-1])}', flush=True)


def has_no_room(error: RuntimeError) -> bool:
    """Is it of a process that loads images, for which shared memory is too small? That of containers often is."""
    return 'shared memory' in str(error) and 'No space left' in str(error)


def end_with_program(batches: Iterator) -> None:
    """Sees to it that the workers of a loader's iterator end when this program does;
    nobody else will after an error.

    Without this, Python would send them SIGTERM at its end, which they ignore, and wait for them for ever.
    """
    atexit.register(end_workers, weakref.ref(batches), workers_of(batches))


def workers_of(batches: Iterator) -> list[multiprocessing.Process]:
    """The processes of a loader's iterator, none if it has none. (Torch has no public name for them.)"""
    return list(getattr(batches, '_workers', []))


def end_workers(batches: Callable[[], Iterator | None], workers: Iterable[multiprocessing.Process]) -> None:
    """Asks the workers of a loader's iterator, if it still is there, to end; kills those that do not."""
    shut_down = getattr(batches(), '_shutdown_workers', None)       # torch has no public name for it.
    if shut_down is not None:
        shut_down()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def without_traceback(error: OSError) -> str:
    """The sentence of an error. One of a worker arrives as the text of its whole traceback."""
    return str(error).rpartition(f'\n{DatasetError.__module__}.{DatasetError.__qualname__}: ')[2].strip()


@contextmanager
def no_exception_from_signals():
    """Keeps torch from installing its handler for workers that end: it would raise in the middle of a
    step."""
    can_listen = hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if can_listen else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


class RealStream:
    """This rank's share of the reals of one source, from any position of the run.

    Every rank runs the same permutation of the data set and takes interleaved elements. If a process that
    loads images is killed, as systems do when memory runs out, another one takes its place and continues with
    the same images.
    """

    def __init__(self, dataset: Any, batch_size: int, rank: int, world_size: int, seed: int,
                 loader_kwargs: dict, device: torch.device, start_nimg: int = 0):
        self.device = device
        self._images = WithoutBad(dataset)
        self._batch_size, self._position = batch_size // world_size, start_nimg // world_size
        self._sampler_kwargs = dict(rank=rank, num_replicas=world_size, seed=seed)
        self._loader_kwargs = loader_kwargs
        self._num_restarts = 0
        self._open()

    def _open(self) -> None:
        """Begins to load what comes at this position."""
        sampler = misc.InfiniteSampler(self._images, start=self._position, **self._sampler_kwargs)
        with warnings.catch_warnings():         # More processes than cores are harmless, and --workers is the user's.
            warnings.filterwarnings('ignore', 'This DataLoader will create')
            loader = DataLoader(self._images, self._batch_size, sampler=sampler,
                                worker_init_fn=ignore_stop_signals,
                                generator=torch.Generator(),
                                **self._loader_kwargs | processes(self._loader_kwargs.get('num_workers', 0)))
        with no_exception_from_signals():
            # Starts the workers; their seeds come from a generator of their own.
            self._batches = iter(loader)
        end_with_program(self._batches)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N,C,H,W] in -1..1 and labels [N,c_dim] on the device; N is the batch size of one rank.

        Raises a DatasetError with a sentence for users.
        """
        while True:
            try:
                img, c = next(self._batches)
                break
            except DatasetError as error:
                raise DatasetError(without_traceback(error)) from error
            except RuntimeError as error:
                if has_no_room(error):
                    self._do_without_workers(error)
                elif str(error).startswith(WORKER_IS_GONE):
                    self._replace_workers(error)
                else:
                    raise
        self._position += self._batch_size
        img = misc.to_device(img, self.device).to(torch.float32) / 127.5 - 1
        return img, misc.to_device(c, self.device)

    def _do_without_workers(self, error: RuntimeError) -> None:
        """Continues to load, in this process."""
        end_workers(lambda: self._batches, workers_of(self._batches))
        tell_of_no_processes(error)
        self._loader_kwargs = dict(self._loader_kwargs, num_workers=0, prefetch_factor=None)
        self._open()

    def _replace_workers(self, error: RuntimeError) -> None:
        """Continues to load, with new processes.

        Raises a DatasetError if that has been tried often enough.
        """
        end_workers(lambda: self._batches, workers_of(self._batches))
        self._num_restarts += 1
        if self._num_restarts > MAX_RESTARTS:
            raise DatasetError(f'processes that load images were killed more than {MAX_RESTARTS} times (is the memory of this '
                               'machine exhausted?); --workers=0 loads them without') from error
        print('Warning: a process that loads images was killed (is the memory of this machine exhausted?); others were '
              'started, training goes on.', flush=True)
        self._open()
