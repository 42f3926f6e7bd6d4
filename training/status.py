"""What a run tells people while it goes: the status line, the progress bar, statistics as JSONL and for TensorBoard."""
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
    """Appends statistics to `stats.jsonl`, and to TensorBoard events if TensorBoard is installed."""

    def __init__(self, run_dir: str | os.PathLike, append: bool):
        self._file = open(Path(run_dir) / 'stats.jsonl', 'a' if append else 'w', encoding='utf-8')  # noqa: SIM115
        self._start = time.time()
        try:
            from torch.utils.tensorboard import SummaryWriter
            self._tensorboard = SummaryWriter(os.fspath(run_dir))
        except ImportError:
            print('No TensorBoard events: install the extra "tensorboard" to get them. stats.jsonl is written.')
            self._tensorboard = None

    def write(self, stats: dict[str, Any], metrics: dict[str, float], nimg: int) -> None:
        """Statistics {name: {num, mean, std}} and the latest metrics {name: value}, after `nimg` images."""
        self._file.write(json.dumps({**stats, 'timestamp': time.time()}) + '\n')
        self._file.flush()
        if self._tensorboard is None:
            return
        scalars = {**{name: value['mean'] for name, value in stats.items()},
                   **{f'Metrics/{name}': value for name, value in metrics.items()}}
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, int(nimg / 1000), walltime=time.time() - self._start)
        self._tensorboard.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def progress_bar(total_nimg: int, nimg: int) -> tqdm:
    """A bar with rate and remaining time on a terminal, nothing elsewhere; it stays out of the log file."""
    terminal = sys.__stderr__
    return tqdm(total=total_nimg / 1000, initial=nimg / 1000, unit='kimg', file=terminal, leave=False,
                disable=terminal is None or not terminal.isatty(), dynamic_ncols=True,
                bar_format='{l_bar}{bar}| {n:.2f}/{total:.0f} kimg, {elapsed} gone, {remaining} left')
