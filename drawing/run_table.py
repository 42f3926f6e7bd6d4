"""Metrics of runs as a table: every value for other programs (.csv), means over seeds for a text (.md).

Runs with the same setting differ in their seed alone, and are one row of the text.
"""
import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from dnnlib import writing
from dnnlib.output import printable

Curve = Sequence[tuple[float, float]]       # Points (kimg, value), by kimg.
FORMATS = '.csv', '.md'


@dataclass(frozen=True)
class TableRun:
    """What a table says of one run."""
    name: str
    setting: str                            # In which options it differs from the others.
    seed: int | None
    metrics: Mapping[str, Curve]


def as_csv(runs: Sequence[TableRun]) -> str:
    """A line for every value that was measured. The last column's title lets a later call replace the file."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    lines.writerow(['run', 'setting', 'seed', 'metric', 'kimg', 'value', writing.MARK])
    for run in runs:
        for metric, curve in run.metrics.items():
            for kimg, value in curve:
                words = [harmless(word) for word in (run.name, run.setting, str(run.seed), metric)]
                lines.writerow([*words, f'{kimg:g}', repr(value), date.today()])
    return text.getvalue()


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, which could start a program: a run may be a stranger's."""
    text = printable(text, '')
    return f' {text}' if text.startswith(tuple('=+-@')) else text


def as_markdown(runs: Sequence[TableRun], is_better_high: Mapping[str, bool]) -> str:
    """A row for every setting: mean and standard deviation over its seeds, where all runs were last measured."""
    measured = {name: last_common([run.metrics.get(name, []) for run in runs]) for name in is_better_high}
    columns = {name: kimg for name, kimg in measured.items() if kimg is not None}
    groups: dict[str, list[TableRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    head = ['setting', 'seeds', *(f'{name} {"↑" if is_better_high[name] else "↓"} at {kimg:g} kimg'
                                  for name, kimg in columns.items())]
    rows = [[setting or '–', ', '.join(str(run.seed) for run in group),
             *(mean_and_deviation([dict(run.metrics[name])[kimg] for run in group]) for name, kimg in columns.items())]
            for setting, group in groups.items()]
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join([*('| ' + ' | '.join(cell(text) for text in line) + ' |' for line in lines), '',
                      f'Mean ± standard deviation over seeds, where there are several; {writing.MARK}.', ''])


def last_common(curves: Sequence[Curve]) -> float | None:
    """The latest kimg at which all curves have a point; None if there is none."""
    return max(set.intersection(*({kimg for kimg, _ in curve} for curve in curves)), default=None)


def mean_and_deviation(values: Sequence[float]) -> str:
    """'12.34 ± 0.56', or the one value."""
    spread = f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.4g}{spread}'


def cell(text: str) -> str:
    """Text that cannot end a cell."""
    return printable(text, '').replace('|', '\\|')
