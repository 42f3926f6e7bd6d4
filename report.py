"""A page that shows a run, or compares several: one HTML file that needs no network and no server.

Read from a run directory: training_options.json, stats.jsonl, metric-*.jsonl, log.txt, fakes*.png,
reals*.png. Imports no torch, so that it can be made anywhere, at any time, also while the run goes on.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import base64
import io
import json
import math
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import click

from dnnlib import commands, output, writing
from dnnlib.program import Maker
from drawing import run_table
from drawing.page_template import filled
from metrics.names import higher_is_better
from training.config.options import OPTIONS, argv_of, word_of
from training.config.schema import meanings, meanings_of_methods, option_name
from training.run import copies
from training.run.run_files import RunFileError, find_pictures, lines_of, read_options, read_stats

PAGE = 'report.html'        # In the run directory.
MAX_PICTURES = 100          # On a page, over all runs; spread over time.
PICTURE_BYTES = 30_000      # At most, of one of them: 100 are 4 MB in the page.
PICTURE_TILES = (8, 5)      # Columns and rows of the grid that are shown; its upper left corner.
# The first that fits.
PICTURE_SIZES = [(tile, quality) for tile in (64, 48, 32, 16) for quality in (80, 60, 40)]
MAX_POINTS = 300            # Of one curve; more are averaged.
MAX_WARNINGS = 20
LOOK_SEC = 6 * 3600          # So long an open page of a run that goes on looks for a newer one.
MAX_WARNING = 1000          # Characters.
MAX_CURVES = 200            # Beside the main ones.
MAX_SHARES = 20             # Among the main ones: what each method does.
MAX_OPTIONS = 2000          # Lines in the table of all options.
COLORS = (                  # Of the runs, as text on white, and on the dark page: at least 4.5:1.
    ('#2a6f97', '#6fb3da'), ('#c23b4e', '#f08a96'), ('#2f7a3f', '#7cc98b'), ('#8a6508', '#e0b64a'),
    ('#7b4fa3', '#b99bd8'), ('#0b7072', '#5cc4c6'), ('#a0522d', '#d99a72'), ('#666666', '#a8a8a8'))
WIDTH, HEIGHT = 360, 200    # Of one chart; scaled to the window.
MARGINS = 54, 10, 10, 24     # Left, right, top, bottom.

MAIN_CURVES = ('Loss/G/loss', 'Loss/D/loss', 'Loss/scores/real', 'Loss/scores/fake', 'Loss/signs/real',
               'Progress/augment', 'Overfitting/gap', 'Loss/r1_penalty', 'Loss/pl_penalty',
               'Timing/sec_per_kimg')
SHARES = 'Loss/share/'
# Options that make no other kind of run.
NO_SETTINGS = 'outdir', 'seed', 'resume', 'device', 'gpus', 'workers', 'log', 'metrics', 'snap', 'tick', 'snapshot_format'
NO_CURVES = ('Progress/tick', 'Progress/kimg', 'Timing/total_sec', 'Timing/total_hours', 'Timing/total_days')
TITLES = {
    'Loss/G/loss': "G's loss", 'Loss/D/loss': "D's loss", 'Loss/scores/real': "D's logits on reals",
    'Loss/scores/fake': "D's logits on fakes", 'Loss/signs/real': "Sign of D's logits on reals",
    'Progress/augment': 'Augmentation p', 'Overfitting/gap': 'Overfitting gap',
    'Loss/r1_penalty': 'R1 penalty',
    'Loss/pl_penalty': 'Path length penalty', 'Timing/sec_per_kimg': 'Seconds per kimg',
}

Curve = Sequence[tuple[float, float]]       # Points (kimg, value), by kimg.


class NotARun(Exception):
    """A folder that is no run directory; the text is one sentence for the user."""


@dataclass(frozen=True)
class RunSummary:
    """What the files of a run directory say."""
    name: str
    config: dict[str, Any]
    stats: dict[str, Curve]                 # Of stats.jsonl: means by statistic.
    metrics: dict[str, Curve]
    pictures: Sequence[tuple[float, Path]]  # (kimg, grid of fakes), by kimg; -1: before the run.
    reals: Path | None
    warnings: Sequence[str]
    copied: dict[str, Any] | None = None    # What `copied` found last ...
    pairs: Path | None = None               # ... and its worst pairs.

    @property
    def kimg(self) -> float:
        """How far the run has come."""
        return self.last('Progress/kimg') or 0

    def last(self, statistic: str) -> float | None:
        """The latest value of a statistic, None if there is none."""
        curve = self.stats.get(statistic)
        return curve[-1][1] if curve else None


@click.command(cls=Maker, epilog='Example: python report.py runs/00000-cats runs/00001-cats-ggdr --out=cats.html')
@click.argument('run_dirs', nargs=-1, required=True, metavar='RUN_DIR...')
@click.option('--out', metavar='FILE', help='The page [default: report.html in the first RUN_DIR]')
@click.option('--table', metavar='FILE', help='The metrics, too, as a table: every value as .csv, or means over seeds as .md.')
def main(run_dirs: Sequence[str], out: str | None, table: str | None) -> None:
    """Show a training run, or compare several, as one HTML page to open in a browser.

    The page holds everything: curves, pictures, configuration, warnings. It can be mailed and read on a
    phone.
    """
    path = Path(out or Path(run_dirs[0], PAGE))
    if table is not None and Path(table).suffix not in run_table.FORMATS:
        raise click.BadParameter(f'{table}: a table is {" or ".join(run_table.FORMATS)}', param_hint='--table')
    if table is not None and os.path.realpath(table) == os.path.realpath(path):
        raise click.BadParameter(f'{table} is the page, too; name another file', param_hint='--table')
    try:
        if table is not None:
            writing.require_place(table)
        write_report(run_dirs, path)
        if table is not None:
            write_table(run_dirs, table)
    except NotARun as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f'{error.filename or path}: {error.strerror or error}') from None
    click.echo(f'{path} ({path.stat().st_size / 1e6:.1f} MB)')


def write_report(run_dirs: Sequence[str | os.PathLike], path: str | os.PathLike, going_on: bool = False) -> None:
    """Writes the page about these runs to `path`, complete or not at all. Raises NotARun, OSError.

    going_on: the page will be written anew; while it is open it looks for that.
    """
    path = Path(path)
    in_run = any(path.absolute() == Path(folder, PAGE).absolute() for folder in run_dirs)
    runs = [read_run(folder) for folder in run_dirs]
    writing.require_place(path, 'any' if in_run else 'ours')
    going_on = going_on and any(run.kimg < run.config.get('kimg', 0) for run in runs)
    page = page_of(runs, going_on)
    writing.write_bytes(path, page.encode(errors='backslashreplace'), 'any' if in_run else 'ours')


def write_table(run_dirs: Sequence[str | os.PathLike], path: str | os.PathLike) -> None:
    """Writes the metrics of these runs as a table in the format of the name's ending. Raises NotARun, OSError."""
    runs = [read_run(folder) for folder in run_dirs]
    rows = [run_table.TableRun(run.name, setting, run.config.get('seed'), run.metrics)
            for run, setting in zip(runs, settings(runs))]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    text = (run_table.as_csv(rows) if Path(path).suffix == '.csv' else
            run_table.as_markdown(rows, {name: higher_is_better(name) for name in names}))
    writing.write_text(path, text)


def refresh(run_dir: str | os.PathLike) -> None:
    """Writes the page of one run into its directory, for a run that is going on. Raises as `write_report`."""
    write_report([run_dir], Path(run_dir, PAGE), going_on=True)


# ---------------------------------------------------------------------------------------------------------------------
# Reading.

def read_run(folder: str | os.PathLike) -> RunSummary:
    """What a run directory holds so far. Raises NotARun if it is none."""
    from metrics.plots import read_curves
    folder = Path(folder)
    try:
        config = read_options(folder)
    except RunFileError as error:
        raise NotARun(str(error)) from None
    reals = sorted(path for path in folder.glob('reals*.png') if path.is_file())
    copied = copies.latest(folder)
    pairs = copies.pairs_of(folder, copied['snapshot_pkl']) if copied else None
    return RunSummary(folder.resolve().name, config, read_stats(folder / 'stats.jsonl'),
                      read_curves(str(folder)),
                      list(find_pictures(folder)), reals[0] if reals else None,
                      read_warnings(folder / 'log.txt'), copied, pairs if pairs and pairs.is_file() else None)


def read_warnings(path: Path) -> list[str]:
    """What the log warned of, each sentence once, the latest last."""
    lines = [line.strip() for line in lines_of(path)]
    warnings = [line for line in lines if line.startswith(('Warning: ', 'The run diverges'))]
    warnings = [line.removeprefix('Warning: ')[:MAX_WARNING] for line in warnings]
    return list(dict.fromkeys(warnings[::-1]))[:MAX_WARNINGS][::-1]


def command_line(run: RunSummary) -> str | None:
    """What to type to repeat the run; None if it was not recorded."""
    words = argv_of(run.config)
    return None if words is None else shlex.join([*commands.words_of('train'), *words])


def flat(config: Any, prefix: str = '') -> dict[str, str]:
    """{'a.b': JSON of its value} of nested configurations."""
    if isinstance(config, dict) and config:
        return {name: text for key, value in config.items()
                for name, text in flat(value, f'{prefix}.{key}').items()}
    return {option_name(prefix.lstrip('.')): json.dumps(config)}


def differences(runs: Sequence[RunSummary]) -> dict[str, list[str]]:
    """{option: its value in each run} of the options in which runs differ, but for their folder."""
    configs = [flat({**run.config, 'run_dir': None, 'command': None, 'argv': None}) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    table = {name: [config.get(name, '') for config in configs] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def settings(runs: Sequence[RunSummary]) -> list[str]:
    """What was typed for each run but not for all, as one would type it; without its seed and folder."""
    commands_typed = [run.config.get('command') for run in runs]
    typed = [{word_of(name, value) for name, value in command.items() if name in OPTIONS and name not in NO_SETTINGS}
             if isinstance(command, dict) else set() for command in commands_typed]
    of_all = set.intersection(*typed)
    return [' '.join(sorted(words - of_all)) for words in typed]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.

def thin(items: Sequence, most: int) -> list:
    """At most that many of the items: every one, every second, every fourth, ..., and the last.

    What is left out stays out when items are added, so a page that is written again finds its pictures
    encoded.
    """
    step = 1
    while len(items[:-1:step]) + 1 > most:
        step *= 2
    return [*items[:-1:step], *items[-1:]]


def data_uri(path: Path, tile: int) -> str | None:
    """A grid of images of `tile` pixels as a small WebP inside a URI; None if the file cannot be read."""
    try:
        stat = path.stat()
        return _encode(path, stat.st_mtime_ns, tile)
    except OSError:
        return None


@lru_cache(maxsize=2 * MAX_PICTURES)
def _encode(path, _mtime, tile):
    from PIL import Image

    from dnnlib.picture_files import open_picture
    columns, rows = PICTURE_TILES
    with open_picture(path, formats=['PNG']) as grid:
        part = grid.crop((0, 0, min(columns * tile, grid.width), min(rows * tile, grid.height))).convert('RGB')
    for size, quality in PICTURE_SIZES:
        scale = size / tile
        data = io.BytesIO()
        # Small tiles are enlarged by the browser, without smoothing.
        small = part if scale >= 1 else part.resize((math.ceil(part.width * scale),
                                                     math.ceil(part.height * scale)),
                                                    Image.Resampling.BOX)
        small.save(data, 'webp', quality=quality)
        if data.tell() <= PICTURE_BYTES:
            break
    return f'data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}'


def slides(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Plain data for the slider: labels of its positions, and for
    each run the number of the picture at each."""
    frames = [[(kimg, uri) for kimg, path in thin(run.pictures, max(MAX_PICTURES // len(runs), 2))
               if (uri := data_uri(path, tile_of(run)))] for run in runs]
    times = sorted({kimg for pictures in frames for kimg, _ in pictures})
    return {'labels': [in_words(kimg) for kimg in times],
            'times': [[in_words(kimg) for kimg, _ in pictures] for pictures in frames],     # A run's own.
            'pictures': [[uri for _, uri in pictures] for pictures in frames],
            'shown': [[max(sum(kimg <= time for kimg, _ in pictures) - 1, 0) for time in times]
                      for pictures in frames]}


def in_words(kimg: float) -> str:
    """When a picture was made."""
    return 'before training' if kimg < 0 else f'{kimg:g} kimg'


def tile_of(run: RunSummary) -> int:
    """The size of an image in the run's grids."""
    return (run.config.get('data_shape', {}).get('img_resolution')
            or (run.config.get('training_set_kwargs') or {}).get('resolution') or 64)


# ---------------------------------------------------------------------------------------------------------------------
# Curves.

def chart(title: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """Plain data of one panel with a line per run, in the colour of the run."""
    from metrics.plots import Frame, lay_out
    frame = Frame(WIDTH, HEIGHT, *MARGINS)
    x_ticks, y_ticks, lines = lay_out([shorten(curve) for curve in curves], frame)
    return {'title': title, 'width': WIDTH, 'height': HEIGHT, 'left': frame.left, 'right': WIDTH - frame.right,
            'x_ticks': x_ticks, 'y_ticks': y_ticks,
            'lines': [(color_of(i), line) for i, line in enumerate(lines) if line],
            'latest': [(color_of(i), f'{curve[-1][1]:.4g}') for i, curve in enumerate(curves) if curve]}


def shorten(curve: Curve) -> list[tuple[float, float]]:
    """The curve with at most MAX_POINTS points, means of neighbours if need be."""
    step = math.ceil(len(curve) / MAX_POINTS)
    groups = [curve[i:i + step] for i in range(0, len(curve), step or 1)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
            for group in groups]


def title_of(statistic: str) -> str:
    """What stands over its chart."""
    if statistic.startswith(SHARES):
        method, _, player = statistic.removeprefix(SHARES).partition('/')
        return f"Share of {method} in {player}'s gradient"
    return TITLES.get(statistic, statistic)


def charts(all_curves: Sequence[dict[str, Curve]], names: Iterable[str]) -> list[dict[str, Any]]:
    """The panels of these curves that some run has."""
    found = [name for name in names if any(name in curves for curves in all_curves)]
    return [chart(title_of(name), [curves.get(name, []) for curves in all_curves]) for name in found]


def color_of(number: int) -> int:
    """Which of COLORS a run has; they begin anew."""
    return number % len(COLORS)


# ---------------------------------------------------------------------------------------------------------------------
# The page.

def page_of(runs: Sequence[RunSummary], going_on: bool = False) -> str:
    """The whole HTML document."""
    stats = [run.stats for run in runs]
    metric_names = list(dict.fromkeys(name for run in runs for name in run.metrics))[:MAX_CURVES]
    names = {name for curves in stats for name in curves}
    shares = sorted(name for name in names if name.startswith(SHARES))[:MAX_SHARES]
    others = sorted(names - {*MAIN_CURVES, *NO_CURVES, *shares})[:MAX_CURVES]
    options = [flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in options for name in config))[:MAX_OPTIONS]
    return filled(
        'report.html',
        title=printable(runs[0].name) if len(runs) == 1 else f'{len(runs)} runs', mark=writing.MARK,
        colors=COLORS, runs=[facts(run, i, metric_names) for i, run in enumerate(runs)],
        metric_names=metric_names,
        reals=next((uri for run in runs if run.reals and (uri := data_uri(run.reals, tile_of(run)))), None),
        metrics=charts([run.metrics for run in runs], metric_names), curves=charts(stats, (*MAIN_CURVES, *shares)),
        others=charts(stats, others), slides=slides(runs), written=f'{datetime.now():%Y-%m-%d %H:%M}',
        until=int(time.time() + LOOK_SEC) if going_on else 0, equal=at_equal_kimg(runs, metric_names),
        differences=[[name, *values] for name, values in differences(runs).items()][:MAX_OPTIONS],
        options=[[name, *(config.get(name, '') for config in options)] for name in names],
        meanings=meanings() | meanings_of_methods())


def facts(run: RunSummary, number: int, metric_names: Sequence[str]) -> dict[str, Any]:
    """What the page says of one run."""
    return {'name': printable(run.name), 'color': color_of(number), 'warnings': run.warnings,
            'has_pictures': bool(run.pictures), 'command': command_line(run),
            'progress': f'{run.kimg:g} of {run.config.get("kimg", "?")}',
            'time': duration(run.last('Timing/total_sec')),
            'rate': four_digits(run.last('Timing/sec_per_kimg')),
            'p': four_digits(run.last('Progress/augment')),
            'copied': said_of_copies(run),
            'scores': [latest_and_best(run.metrics.get(name, []), name) for name in metric_names]}


def said_of_copies(run: RunSummary) -> dict[str, Any] | None:
    """Whether training pictures are copied, and a picture of the worst pairs; None if nobody asked."""
    if run.copied is None:
        return None
    pairs = data_uri(run.pairs, tile_of(run)) if run.pairs else None
    return {'answer': copies.answer(run.copied), 'details': copies.in_words(run.copied),
            'snapshot': run.copied['snapshot_pkl'], 'pairs': pairs}


def at_equal_kimg(runs: Sequence[RunSummary], metric_names: Sequence[str]) -> dict[str, Any]:
    """What metrics said of runs up to the kimg that all have come to; no rows for a single run."""
    kimg = min(run.kimg for run in runs)
    rows = []
    for name in metric_names if len(runs) > 1 else []:
        curves = [[point for point in run.metrics.get(name, []) if point[0] <= kimg] for run in runs]
        cells = [latest_and_best(curve, name) for curve in curves]
        ends = [f' at {curve[-1][0]:g}' if curve else '' for curve in curves]
        rows.append([name, *(f'{cell["latest"]}{end}' + (f', best {cell["best"]}' if cell['best'] else '')
                             for cell, end in zip(cells, ends))])
    return {'kimg': f'{kimg:g}', 'rows': rows}


def printable(name: str) -> str:
    """The name of a file, with bytes that are no UTF-8 as \\xNN."""
    return os.fsencode(name).decode(errors='backslashreplace')


def four_digits(value: float | None) -> str:
    """Of a number, or a dash."""
    return '–' if value is None else f'{value:.4g}'


def duration(sec: float | None) -> str:
    """In words, or a dash."""
    from dnnlib.util import format_time
    return '–' if sec is None else format_time(sec)


def latest_and_best(curve: Curve, name: str) -> dict[str, str]:
    """The latest value of a metric and the best, with its kimg."""
    if not curve:
        return {'latest': '–', 'best': ''}
    kimg, value = (max if higher_is_better(name) else min)(curve, key=lambda point: point[1])
    return {'latest': four_digits(curve[-1][1]), 'best': f'{value:.4g} at {kimg:g}'}


if __name__ == '__main__':
    output.prepare()
    main()
