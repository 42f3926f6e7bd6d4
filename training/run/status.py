"""What a run tells people while it goes: the status line, the progress bar, statistics as JSONL."""
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

import dnnlib
from dnnlib import writing
from dnnlib.reading import read_file
from torch_utils import training_stats
from training.run.health import CannotGoOn
from training.run.run_files import MAX_ROWS_BYTES

# Fields of the status line: (label, format, statistic).
FIELDS = (
    ('tick', '<5d', 'Progress/tick'),
    ('kimg', '<8.1f', 'Progress/kimg'),
    ('time', '<12s', 'Timing/total_sec'),
    ('sec/tick', '<7.1f', 'Timing/sec_per_tick'),
    ('sec/kimg', '<7.2f', 'Timing/sec_per_kimg'),
    ('maintenance', '<6.1f', 'Timing/maintenance_sec'),
    ('cpumem', '<6.2f', 'Resources/cpu_mem_gb'),
    ('gpumem', '<6.2f', 'Resources/peak_gpu_mem_gb'),
    ('augment', '.3f', 'Progress/augment'),
)


def status_line(values: dict[str, float]) -> str:
    """One line for people from values by statistic name."""
    parts = []
    for label, form, name in FIELDS:
        text = dnnlib.util.format_time(values[name]) if name == 'Timing/total_sec' else values[name]
        parts.append(f'{label} {format(text, form)}')
    return ' '.join(parts)


def resources(device: torch.device) -> dict[str, float]:
    """Resident memory of this process and peak memory of its device since the last call, in GiB."""
    peak = 0
    if device.type == 'cuda':
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    return {'Resources/cpu_mem_gb': psutil.Process(os.getpid()).memory_info().rss / 2**30,
            'Resources/peak_gpu_mem_gb': peak / 2**30}


class PhaseTimer:
    """Milliseconds of the latest execution of each phase,
    measured on the device without making the host wait."""

    def __init__(self, device: torch.device):
        self._device = device
        self._spans: dict[str, tuple] = {}

    @contextmanager
    def __call__(self, name: str):
        begin = self._now()
        yield
        self._spans[name] = (begin, self._now())

    def _now(self):
        if self._device.type != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def report(self) -> None:
        """Reports `Timing/PHASE` for every phase that ran since the last report."""
        for name, (begin, end) in self._spans.items():
            if self._device.type == 'cuda':
                end.synchronize()
                training_stats.report0(f'Timing/{name}', begin.elapsed_time(end))
            else:
                training_stats.report0(f'Timing/{name}', (end - begin) * 1000)
        self._spans.clear()


class StatsWriter:
    """Appends statistics, a row for each tick, to `stats.jsonl`.

    Args:
        run_dir: Where to.
        num_ticks: How many ticks the saved state has; the file keeps one row of each of them and nothing
        else.
        unwritten: Rows of these ticks that could not be written then.
    """

    def __init__(self, run_dir: str | os.PathLike, num_ticks: int = 0, unwritten: Sequence[str] = ()):
        self._path = Path(run_dir) / 'stats.jsonl'
        self._unwritten = list(unwritten)
        try:
            self._end, sentence = mend_rows(self._path, num_ticks, {tick_of(row) for row in unwritten})
        except OSError as error:
            raise CannotGoOn(f'{self._path} cannot be gone on with: {error.strerror}') from error
        if sentence:
            print(f'Warning: {sentence}', flush=True)

    @property
    def unwritten(self) -> list[str]:
        """The rows that are not in the file, as nobody could write them; a saved state has them instead."""
        return list(self._unwritten)

    def add(self, stats: dict[str, Any]) -> None:
        """One more row of statistics {name: {num, mean, std}}, for `write`."""
        self._unwritten.append(json.dumps({**stats, 'timestamp': time.time()}) + '\n')

    def write(self) -> None:
        """Writes all rows that are not yet written.

        After an OSError they still are not; the next call overwrites.
        """
        data = ''.join(self._unwritten).encode()
        with self._open() as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._end:
                print(f'Warning: {self._path} has lost rows while the run went on.', flush=True)
                self._end = size
            file.seek(self._end)
            file.truncate()
            file.write(data)
        self._end += len(data)
        self._unwritten.clear()

    def sync(self) -> None:
        """Returns when all that is written is on the disk."""
        with self._open() as file:
            os.fsync(file.fileno())

    def _open(self):
        writing.require_free(self._path, 'any')
        return os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b')


def tick_of(row: str | bytes) -> int | None:
    """The tick whose row of `stats.jsonl` this is, None if it is not a complete row."""
    try:
        tick = json.loads(row)['Progress/tick']['mean']
        return int(tick) if tick >= 0 else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def mend_rows(path: Path, num_ticks: int, elsewhere: Collection[int | None] = ()) -> tuple[int, str | None]:
    """Makes a file of statistics hold one row of each tick before `num_ticks`, in order, and nothing else.

    Ticks `elsewhere` have no row there. Returns its length, and a sentence about what was wrong,
    None if nothing was: that rows follow, or a part of one, is usual after a kill.
    """
    with writing.append(path):          # Makes the file.
        pass
    content = read_file(path, MAX_ROWS_BYTES)
    lines = content.splitlines(keepends=True)
    ticks = [tick_of(line) if line.endswith(b'\n') else None for line in lines]
    rows = {tick: line for tick, line in zip(ticks, lines) if tick is not None and tick < num_ticks}
    kept = b''.join(rows[tick] for tick in sorted(rows))
    if content.startswith(kept):
        os.truncate(path, len(kept))
    else:
        writing.write_bytes(path, kept, 'any', sync=True)
    before = ticks[:max((i for i, tick in enumerate(ticks) if tick in rows), default=-1) + 1]
    num_twice = sum(tick in rows for tick in before) - len(rows)
    num_broken = sum(tick is None for tick in before)
    known = {tick for tick in (*rows, *elsewhere) if tick is not None and tick < num_ticks}
    num_missing, first = num_ticks - len(known), next(tick for tick in count() if tick not in known)
    wrong = [f'{num_missing} of {num_ticks} rows are missing, that of tick {first} first' if num_missing
             else '', f'{num_twice} were there twice' if num_twice else '',
             f'{num_broken} lines were no rows' if num_broken else '']
    if not any(wrong):
        return len(kept), None
    return len(kept), f'{path}: {"; ".join(part for part in wrong if part)}. The run goes on with the rows that are sound.'


def progress_bar(total_nimg: int, nimg: int) -> tqdm:
    """A bar with rate and remaining time on a terminal, nothing elsewhere; it stays out of the log file."""
    terminal = sys.__stderr__
    return tqdm(total=total_nimg / 1000, initial=nimg / 1000, unit='kimg', file=terminal, leave=False,
                disable=terminal is None or not terminal.isatty(), dynamic_ncols=True,
                bar_format='{l_bar}{bar}| {n:.2f}/{total:.0f} kimg, {elapsed} gone, {remaining} left')
