"""What the metrics said of the saved states of a run: `scores.json` in its directory.

A state is saved before it is scored, so that nothing is lost while metrics run. Its score is written here
afterwards, or never if a signal interrupts the metrics. Older runs have the score in the state itself.
"""
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib import writing
from dnnlib.reading import read_file

SCORES_FILE = 'scores.json'
MAX_BYTES = 2 ** 26


class Scores:
    """The scores of one run, read when it starts; `set` writes them. All of it on its first process.

    Attributes:
        scores: {images shown: score, lower is better}.
    """

    def __init__(self, run_dir: Path, nimg: int | None = None):
        """`nimg`: where the run continues. Scores of later states are ignored: they belong to what was lost.
        None: all count."""
        self._path = Path(run_dir) / SCORES_FILE
        entries = _read(self._path)
        self._entries = {key: entry for key, entry in entries.items() if nimg is None or key <= nimg}

    @property
    def scores(self) -> dict[int, float]:
        """{images shown: score} of all that have one."""
        return {nimg: entry['score'] for nimg, entry in self._entries.items()
                if entry.get('score') is not None}

    def metrics(self, nimg: int) -> dict[str, float]:
        """The values of all metrics of the state after `nimg` images; empty if there are none."""
        return self._entries.get(nimg, {}).get('metrics', {})

    def set(self, nimg: int, score: float | None, metrics: dict[str, float]) -> None:
        """Adds those of a state, and writes the file. Raises OSError."""
        self._entries[nimg] = dict(score=score, metrics=metrics)
        writing.write_text(self._path, json.dumps(self._entries, indent=1), replace='any', sync=True)


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """The valid entries of the file, which may be damaged, or a stranger's."""
    try:
        content = json.loads(read_file(path, MAX_BYTES).decode('utf-8'))
        items = [(int(nimg), entry) for nimg, entry in content.items() if _is_entry(entry)]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        print(f'Warning: {path} cannot be read ({error}): the scores of earlier states are not known.',
              flush=True)
        return {}
    return dict(items)


def _is_entry(entry):
    if not isinstance(entry, dict) or not isinstance(entry.get('metrics'), dict):
        return False
    score, values = entry.get('score'), entry['metrics'].values()
    return (score is None or _is_number(score) and math.isfinite(score)) and all(map(_is_number, values))


def _is_number(value):
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


def scored_set(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of the data set that metrics compare with: all of --metricdata, or that of the run."""
    train = config['training_set_kwargs']
    return {**train, 'path': config['metricdata'], 'max_size': None} if config.get('metricdata') else train
