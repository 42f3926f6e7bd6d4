"""What a run directory may say: its files read, bounded, and their types checked. Imports no torch.

A run directory may come from a stranger, be incomplete, or have been edited. Programs that show one read it
through this file: `read_options` raises an error of one sentence; the readers of rows and pictures skip
whatever is not a row or a picture.
"""
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dnnlib.kinds_of_file import not_a_run
from training.config.schema import problem_of, with_names_of_now

OPTIONS_FILE = 'training_options.json'

MAX_OPTIONS_BYTES = 2 ** 24
MAX_ROWS_BYTES = 2 ** 28            # Longer files of rows, and longer logs, are read up to there.
MAX_NUMBER, MIN_NUMBER = 1e100, 1e-100      # Charts can show these; what is smaller is 0.

Rule = tuple[Callable[[Any], bool], str]


def finite(value: Any) -> float | None:
    """A number that a curve can go through; None for all else."""
    # NaN neither.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        return None
    return float(value) if abs(value) >= MIN_NUMBER else 0.0


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _is_moments(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_of(int, float), value))


NUMBER: Rule = (lambda value: finite(value) is not None, 'a finite number')
COUNT: Rule = (lambda value: _of(int)(value) and 0 <= value <= 2 ** 63, 'a whole number of at least 0')
FLAG: Rule = (lambda value: isinstance(value, bool), 'true or false')
TABLE: Rule = (_of(dict), 'an object')

# Of a saved state: what it says of itself, how far the run is, and what its periodic part goes on with.
TEXTS: Rule = (lambda value: _of(list)(value) and all(map(_of(str), value)), 'a list of texts')
MOMENTS: Rule = (lambda value: _of(dict)(value) and all(map(_is_moments, value.values())),
                 'an object of three numbers each')
NUMBERS: Rule = (lambda value: _of(dict)(value) and all(map(_of(int, float), value.values())),
                 'an object of numbers')
META: dict[str, Rule] = {'nimg': COUNT, 'finished': FLAG}
PROGRESS: dict[str, Rule] = {'nimg': COUNT, 'batch_idx': COUNT, 'stage_idx': COUNT, 'stage_begun': FLAG,
                             'rollbacks': COUNT}
TICKS: dict[str, Rule] = {'tick': COUNT, 'metrics': NUMBERS, 'total_sec': NUMBER, 'num_rows': COUNT,
                          'collector': TABLE}
REPORTED: Rule = (lambda value: _of(list)(value) and all(map(MOMENTS[0], value)),
                  'a list of objects of three numbers each')
LATER_TICKS: dict[str, Rule] = {        # Entries that older states lack.
    'unwritten': TEXTS, 'tick_nimg': COUNT, 'tick_sec': NUMBER, 'reported': REPORTED}


class RunFileError(ValueError):
    """A file of a run directory that is not what it should be; the text is one sentence for users."""


def read_options(folder: str | os.PathLike) -> dict[str, Any]:
    """The configuration of a run, for display: entries may be missing, but none has a wrong type.

    Raises RunFileError.
    """
    config = read_options_file(folder)
    problem = problem_of(config, complete=False)
    if problem:
        raise RunFileError(f'{Path(folder, OPTIONS_FILE)} was not written by this program: {problem}')
    return with_names_of_now(config)


def read_options_file(folder: str | os.PathLike) -> Any:
    """What the JSON of a run's configuration says, whatever that is. Raises RunFileError."""
    path = Path(folder, OPTIONS_FILE)
    try:
        if path.exists() and not path.is_file():
            raise RunFileError(f'{folder} is not a run directory: {OPTIONS_FILE} is no regular file')
        with open(path, 'rb') as file:
            data = file.read(MAX_OPTIONS_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, RunFileError):
            raise
        reason = getattr(error, 'strerror', None) or error
        raise RunFileError(not_a_run(folder) or f'{folder} is not a run directory: {OPTIONS_FILE}: {reason}') from None
    if len(data) > MAX_OPTIONS_BYTES:
        raise RunFileError(f'{path} has more than {MAX_OPTIONS_BYTES} bytes, which no configuration has')
    try:
        return json.loads(data.decode('utf-8'))
    except (ValueError, RecursionError) as error:
        raise RunFileError(f'{folder}: {OPTIONS_FILE} is damaged: {error}') from None


def problem_of_entries(table: Any, rules: dict[str, Rule]) -> str | None:
    """The first entry that is missing or not as its rule says; None if there is none."""
    if not isinstance(table, dict):
        return f'{short(table)} stands where an object must'
    for name, (fits, kind) in rules.items():
        if name not in table:
            return f'{name} is missing'
        if not fits(table[name]):
            return f'{name} is {short(table[name])}, not {kind}'
    return None


def problem_of_state(state: Any, meta: dict[str, Any], num_stages: int) -> str | None:
    """Which number of a saved state is impossible; None if all are possible."""
    if not isinstance(state, dict) or not isinstance(state.get('ranks'), list) or not state['ranks']:
        return 'it does not hold the state of every process'
    run, ticks = state.get('run'), state.get('ticks')
    problem = (problem_of_entries(meta, META) or problem_of_entries(run, PROGRESS)
               or problem_of_entries(ticks, TICKS))
    if problem is None and run['stage_idx'] >= num_stages:
        return f'stage_idx is {run["stage_idx"]}, this run has {num_stages} stages, counted from 0'
    if problem is None:
        problem = problem_of_entries(ticks,
                                     {name: rule for name, rule in LATER_TICKS.items() if name in ticks})
    for name in ('num_rows', 'tick', 'tick_nimg'):
        if problem is None and ticks.get(name, 0) > max(run['nimg'], 1):
            return f'{name} is {ticks[name]}, more than the images that were shown'
    return problem or problem_of_entries(ticks['collector'], {'unread': MOMENTS, 'visible': MOMENTS})


def short(value: Any, most: int = 60) -> str:
    """A value as part of a sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10 ** most:
        return 'a number of many digits'
    text = type(value).__name__ if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= most else f'{text[:most]}...'


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; none if there is no such regular file."""
    if not path.is_file():
        return []
    with open(path, 'rb') as file:
        return file.read(MAX_ROWS_BYTES).decode('utf-8', errors='replace').splitlines()


def objects_of(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file that has one in each line; other lines are skipped."""
    for line in lines_of(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def read_stats(path: Path) -> dict[str, list[tuple[float, float]]]:
    """{statistic: [(kimg, mean)], by kimg} of stats.jsonl. Skips values that are not finite and rows that are
    not complete."""
    curves: dict[str, list] = {}
    for row in objects_of(path):
        kimg = _mean(row.get('Progress/kimg'))
        if kimg is None:
            continue
        for name, value in row.items():
            if (mean := _mean(value)) is not None:
                curves.setdefault(name, []).append((kimg, mean))
    return {name: sorted(points) for name, points in curves.items()}


def _mean(value: Any) -> float | None:
    return finite(value.get('mean')) if isinstance(value, dict) else None


def read_metric(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(kimg, {result: value}) of the rows of a metric-*.jsonl that are about a snapshot."""
    for row in objects_of(path):
        snapshot, results = row.get('snapshot_pkl'), row.get('results')
        match = re.search(r'network-snapshot-([0-9]{1,12})\b', snapshot) if isinstance(snapshot, str) else None
        if match and isinstance(results, dict):
            yield int(match[1]), {name: number for name, value in results.items()
                                  if (number := finite(value)) is not None}


def find_pictures(folder: Path) -> Iterator[tuple[float, Path]]:
    """(kimg, path) of the grids of fakes, by kimg; -1: before the run."""
    if (folder / 'fakes_init.png').is_file():
        yield -1, folder / 'fakes_init.png'
    found = [(int(match[1]), path) for path in folder.glob('fakes*.png')
             if (match := re.fullmatch(r'fakes([0-9]{1,12})\.png', path.name)) and path.is_file()]
    yield from sorted(found)
