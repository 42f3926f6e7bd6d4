"""What a run tells people while it goes: the status line, the progress bar, statistics as JSONL."""
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

import dnnlib
from torch_utils import training_stats

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
    """One line for people from values by statistic name; reports every value as a statistic of rank 0."""
    parts = []
    for label, form, name in FIELDS:
        value = training_stats.report0(name, values[name])
        text = dnnlib.util.format_time(value) if name == 'Timing/total_sec' else value
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
    """Milliseconds of the latest execution of each phase, measured on the device without making the host wait."""

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
    """Appends statistics to `stats.jsonl`.

    Args:
        run_dir: Where to.
        num_rows: How many rows of an earlier process hold; whatever it wrote after them is cut off.
    """

    def __init__(self, run_dir: str | os.PathLike, num_rows: int = 0):
        self._path = Path(run_dir) / 'stats.jsonl'
        self._unwritten: list[str] = []
        self._end = cut_lines(self._path, num_rows)
        self.num_rows = num_rows

    def add(self, stats: dict[str, Any]) -> None:
        """One more row of statistics {name: {num, mean, std}}, for `write`."""
        self._unwritten.append(json.dumps({**stats, 'timestamp': time.time()}) + '\n')
        self.num_rows += 1

    def write(self) -> None:
        """Writes all rows that are not yet written. After an OSError they still are not; the next call overwrites."""
        data = ''.join(self._unwritten).encode()
        with open(self._path, 'r+b') as file:
            file.seek(self._end)
            file.write(data)
        self._end += len(data)
        self._unwritten.clear()


def cut_lines(path: Path, num_lines: int) -> int:
    """Makes a file, new if need be, end after its first lines; returns its length in bytes."""
    with open(path, 'a+b') as file:
        file.seek(0)
        for _ in range(num_lines):
            if not file.readline():
                break
        return file.truncate(file.tell())


def progress_bar(total_nimg: int, nimg: int) -> tqdm:
    """A bar with rate and remaining time on a terminal, nothing elsewhere; it stays out of the log file."""
    terminal = sys.__stderr__
    return tqdm(total=total_nimg / 1000, initial=nimg / 1000, unit='kimg', file=terminal, leave=False,
                disable=terminal is None or not terminal.isatty(), dynamic_ncols=True,
                bar_format='{l_bar}{bar}| {n:.2f}/{total:.0f} kimg, {elapsed} gone, {remaining} left')
