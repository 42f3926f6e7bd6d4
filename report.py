"""A page that shows a run, or compares several: one HTML file that needs no network and no server.

Read from a run directory: training_options.json, stats.jsonl, metric-*.jsonl, log.txt, fakes*.png, reals*.png. Imports
no torch, so that it can be made anywhere, at any time, also while the run goes on.
"""
import base64
import io
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import click

from dnnlib import output, writing

PAGE = 'report.html'        # In the run directory.
MAX_PICTURES = 100          # On a page, over all runs; spread over time.
PICTURE_BYTES = 30_000      # At most, of one of them: 100 are 4 MB in the page.
PICTURE_TILES = (8, 5)      # Columns and rows of the grid that are shown; its upper left corner.
PICTURE_SIZES = [(tile, quality) for tile in (64, 48, 32, 16) for quality in (80, 60, 40)]      # The first that fits.
MAX_POINTS = 300            # Of one curve; more are averaged.
MAX_WARNINGS = 20
COLORS = ('#2a6f97', '#d1495b', '#3f8f4f', '#b8860b', '#7b4fa3', '#0f8b8d', '#a0522d', '#666666')      # Of the runs.
WIDTH, HEIGHT = 360, 200    # Of one chart; scaled to the window.
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 24

MAIN_CURVES = ('Loss/G/loss', 'Loss/D/loss', 'Loss/scores/real', 'Loss/scores/fake', 'Loss/signs/real',
               'Progress/augment', 'Overfitting/gap', 'Loss/r1_penalty', 'Loss/pl_penalty', 'Timing/sec_per_kimg')
NO_CURVES = ('Progress/tick', 'Progress/kimg', 'Timing/total_sec', 'Timing/total_hours', 'Timing/total_days')
TITLES = {
    'Loss/G/loss': "G's loss", 'Loss/D/loss': "D's loss", 'Loss/scores/real': "D's logits on reals",
    'Loss/scores/fake': "D's logits on fakes", 'Loss/signs/real': "Sign of D's logits on reals",
    'Progress/augment': 'Augmentation p', 'Overfitting/gap': 'Overfitting gap', 'Loss/r1_penalty': 'R1 penalty',
    'Loss/pl_penalty': 'Path length penalty', 'Timing/sec_per_kimg': 'Seconds per kimg',
}

Curve = Sequence[tuple[float, float]]       # Points (kimg, value), by kimg.


class NotARun(Exception):
    """A folder that is no run directory; the text is one sentence for the user."""


@dataclass(frozen=True)
class Run:
    """What the files of a run directory say."""
    name: str
    config: dict[str, Any]
    stats: dict[str, Curve]                 # Of stats.jsonl: means by statistic.
    metrics: dict[str, Curve]
    pictures: Sequence[tuple[float, Path]]  # (kimg, grid of fakes), by kimg; -1: before the run.
    reals: Path | None
    warnings: Sequence[str]

    @property
    def kimg(self) -> float:
        """How far the run has come."""
        return self.last('Progress/kimg') or 0

    def last(self, statistic: str) -> float | None:
        """The latest value of a statistic, None if there is none."""
        curve = self.stats.get(statistic)
        return curve[-1][1] if curve else None


@click.command(epilog='Example: python report.py runs/00000-cats runs/00001-cats-ggdr --out=cats.html')
@click.argument('run_dirs', nargs=-1, required=True, metavar='RUN_DIR...')
@click.option('--out', metavar='FILE', help='The page [default: report.html in the first RUN_DIR]')
def main(run_dirs: Sequence[str], out: str | None) -> None:
    """Show a training run, or compare several, as one HTML page to open in a browser.

    The page holds everything: curves, pictures, configuration, warnings. It can be mailed and read on a phone.
    """
    path = Path(out or Path(run_dirs[0], PAGE))
    try:
        write_report(run_dirs, path)
    except NotARun as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f'{error.filename or path}: {error.strerror or error}') from None
    click.echo(f'{path} ({path.stat().st_size / 1e6:.1f} MB)')


def write_report(run_dirs: Sequence[str | os.PathLike], path: str | os.PathLike) -> None:
    """Writes the page about these runs to `path`, complete or not at all. Raises NotARun, OSError."""
    path = Path(path)
    in_run = any(path.absolute() == Path(folder, PAGE).absolute() for folder in run_dirs)
    writing.require_free(path, 'any' if in_run else 'ours')
    page = page_of([read_run(folder) for folder in run_dirs])
    writing.write_text(path, page, 'any' if in_run else 'ours')


def refresh(run_dir: str | os.PathLike) -> None:
    """Writes the page of one run into its directory, for a run that is going on. Raises as `write_report`."""
    write_report([run_dir], Path(run_dir, PAGE))


# ---------------------------------------------------------------------------------------------------------------------
# Reading.

def read_run(folder: str | os.PathLike) -> Run:
    """What a run directory holds so far. Raises NotARun if it is none."""
    from metrics.plots import read_curves
    folder = Path(folder)
    try:
        config = json.loads((folder / 'training_options.json').read_text(encoding='utf-8'))
    except OSError as error:
        raise NotARun(f'{folder} is not a run directory: training_options.json: {error.strerror}') from None
    except ValueError as error:
        raise NotARun(f'{folder}: training_options.json is damaged: {error}') from None
    reals = sorted(folder.glob('reals*.png'))
    return Run(folder.resolve().name, config, read_stats(folder / 'stats.jsonl'), read_curves(str(folder)),
               list(find_pictures(folder)), reals[0] if reals else None, read_warnings(folder / 'log.txt'))


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; none if it does not exist."""
    return path.read_text(encoding='utf-8', errors='replace').splitlines() if path.exists() else []


def read_stats(path: Path) -> dict[str, Curve]:
    """{statistic: curve of its means}. Passes over values that are not finite and a line that is not complete yet."""
    curves: dict[str, list] = {}
    for line in lines_of(path):
        try:
            row = json.loads(line)
            kimg = row['Progress/kimg']['mean']
        except (ValueError, KeyError, TypeError):
            continue
        for name, value in row.items():
            if isinstance(value, dict) and math.isfinite(value.get('mean', math.nan)):
                curves.setdefault(name, []).append((kimg, value['mean']))
    return {name: sorted(points) for name, points in curves.items()}


def find_pictures(folder: Path) -> Iterator[tuple[float, Path]]:
    """(kimg, path) of the grids of fakes, by kimg."""
    if (folder / 'fakes_init.png').exists():
        yield -1, folder / 'fakes_init.png'
    for path in sorted(folder.glob('fakes*.png')):
        if match := re.fullmatch(r'fakes(\d+)\.png', path.name):
            yield int(match[1]), path


def read_warnings(path: Path) -> list[str]:
    """What the log warned of, each sentence once, the latest last."""
    lines = [line.strip() for line in lines_of(path)]
    warnings = [line for line in lines if line.startswith(('Warning: ', 'The run diverges'))]
    warnings = [line.removeprefix('Warning: ') for line in warnings]
    return list(dict.fromkeys(warnings[::-1]))[:MAX_WARNINGS][::-1]


def command_line(run: Run) -> str | None:
    """What to type to repeat the run; None if it was not recorded."""
    import train
    if 'command' not in run.config:
        return None
    params = {param.name: param for param in train.main.params}
    words = ['python', 'train.py', f'--outdir={Path(run.config["run_dir"]).parent}']
    for name, value in run.config['command'].items():
        value = int(value) if isinstance(value, bool) else value
        words.append(params[name].opts[0] if params[name].is_flag else f'{params[name].opts[0]}={value}')
    return shlex.join(words)


def flat(config: Any, prefix: str = '') -> dict[str, str]:
    """{'a.b': JSON of its value} of nested configurations."""
    if isinstance(config, dict) and config:
        return {name: text for key, value in config.items() for name, text in flat(value, f'{prefix}.{key}').items()}
    return {prefix.lstrip('.'): json.dumps(config)}


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """{option: its value in each run} of the options in which runs differ, but for their folder."""
    configs = [flat({**run.config, 'run_dir': None, 'command': None}) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    table = {name: [config.get(name, '') for config in configs] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.

def thin(items: Sequence, most: int) -> list:
    """At most that many of the items: every one, every second, every fourth, ..., and the last.

    What is left out stays out when items are added, so a page that is written again finds its pictures encoded.
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

    from dnnlib.pictures import open_picture
    columns, rows = PICTURE_TILES
    with open_picture(path, formats=['PNG']) as grid:
        part = grid.crop((0, 0, min(columns * tile, grid.width), min(rows * tile, grid.height))).convert('RGB')
    for size, quality in PICTURE_SIZES:
        scale = size / tile
        data = io.BytesIO()
        # Small tiles are enlarged by the browser, without smoothing.
        small = part if scale >= 1 else part.resize((round(part.width * scale), round(part.height * scale)),
                                                    Image.Resampling.BOX)
        small.save(data, 'webp', quality=quality)
        if data.tell() <= PICTURE_BYTES:
            break
    return f'data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}'


def slides(runs: Sequence[Run]) -> dict[str, Any]:
    """Plain data for the slider: labels of its positions, and for each run the number of the picture at each."""
    frames = [[(kimg, uri) for kimg, path in thin(run.pictures, max(MAX_PICTURES // len(runs), 2))
               if (uri := data_uri(path, tile_of(run)))] for run in runs]
    times = sorted({kimg for pictures in frames for kimg, _ in pictures})
    return {'labels': ['before training' if kimg < 0 else f'{kimg:g} kimg' for kimg in times],
            'pictures': [[uri for _, uri in pictures] for pictures in frames],
            'shown': [[max(sum(kimg <= time for kimg, _ in pictures) - 1, 0) for time in times] for pictures in frames]}


def tile_of(run: Run) -> int:
    """The size of an image in the run's grids."""
    return run.config.get('data_shape', run.config.get('training_set_kwargs') or {}).get(
        'img_resolution', (run.config.get('training_set_kwargs') or {}).get('resolution') or 64)


# ---------------------------------------------------------------------------------------------------------------------
# Curves.

def chart(title: str, curves: Sequence[Curve]) -> str:
    """One panel with a line per run, in the colour of the run."""
    from metrics.plots import ticks
    lines = [shorten(curve) for curve in curves]
    points = [point for line in lines for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(min(ys), max(ys))

    def place(x, y):
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        height = place(0, y)[1]
        parts += [f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>',
                  f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:.4g}</text>']
    parts += [f'<text x="{place(x, 0)[0]:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{x:g}</text>' for x in x_ticks]
    for line, color in zip(lines, colors()):
        places = ' '.join('{:.1f},{:.1f}'.format(*place(*point)) for point in line)
        parts.append(f'<polyline points="{places}" stroke="{color}"/>')
        if len(line) == 1:
            parts.append('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="{}"/>'.format(*place(*line[0]), color))
    latest = ' '.join(f'<b style="color:{color}">{curve[-1][1]:.4g}</b>'
                      for curve, color in zip(curves, colors()) if curve)
    return (f'<figure><figcaption>{escape(title)} <span>{latest}</span></figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over kimg">'
            f'{"".join(parts)}</svg></figure>')


def shorten(curve: Curve) -> list[tuple[float, float]]:
    """The curve with at most MAX_POINTS points, means of neighbours if need be."""
    step = math.ceil(len(curve) / MAX_POINTS)
    groups = [curve[i:i + step] for i in range(0, len(curve), step or 1)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def charts(all_curves: Sequence[dict[str, Curve]], names: Iterable[str]) -> str:
    """The panels of these curves that some run has."""
    found = [name for name in names if any(name in curves for curves in all_curves)]
    panels = [chart(TITLES.get(name, name), [curves.get(name, []) for curves in all_curves]) for name in found]
    return f'<div class="charts">{"".join(panels)}</div>' if panels else ''


def colors() -> Iterator[str]:
    """Of the first run, the second, and so on without end."""
    while True:
        yield from COLORS


# ---------------------------------------------------------------------------------------------------------------------
# The page.

def page_of(runs: Sequence[Run]) -> str:
    """The whole HTML document."""
    title = runs[0].name if len(runs) == 1 else f'{len(runs)} runs'
    body = ''.join([
        f'<h1>{escape(title)}</h1>', summary(runs), warnings_of(runs), pictures_of(runs), curves_of(runs),
        configuration(runs), f'<footer>Written {datetime.now():%Y-%m-%d %H:%M}. Curves over kimg, thousands of images '
        'shown to D; the number beside a title is the latest.</footer>'])
    data = json.dumps(slides(runs)).replace('<', '\\u003c')
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="{writing.MARK}">\n'
            f'<style>{STYLE}</style></head>\n<body>{body}\n'
            f'<script>const slides = {data};{SCRIPT}</script></body></html>\n')


def section(title: str, content: str) -> str:
    """A part of the page; nothing if it is empty."""
    return f'<section><h2>{escape(title)}</h2>{content}</section>\n' if content else ''


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    lines = [''.join(f'<td>{cell}</td>' for cell in row) for row in rows]
    head_line = ''.join(f'<th>{cell}</th>' for cell in head)
    return f'<div class="wide"><table><tr>{head_line}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def tags(runs: Sequence[Run]) -> list[str]:
    """The names of the runs with their colours."""
    return [f'<i style="background:{color}"></i>{escape(run.name)}' for run, color in zip(runs, colors())]


def summary(runs: Sequence[Run]) -> str:
    """How far the runs have come, in numbers."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    rows = []
    for tag, run in zip(tags(runs), runs):
        scores = [latest_and_best(run.metrics.get(name, []), name) for name in names]
        progress = f'{run.kimg:g} of {run.config.get("total_kimg", "?")}'
        rows.append([tag, progress, duration(run.last('Timing/total_sec')), number(run.last('Timing/sec_per_kimg')),
                     number(run.last('Progress/augment')), *scores])
    return section('Progress', table(['Run', 'kimg', 'Time', 's/kimg', 'p', *map(escape, names)], rows))


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return '–' if value is None else f'{value:.4g}'


def duration(sec: float | None) -> str:
    """In words, or a dash."""
    from dnnlib.util import format_time
    return '–' if sec is None else format_time(sec)


def latest_and_best(curve: Curve, name: str) -> str:
    """The latest value of a metric and the best, with its kimg."""
    if not curve:
        return '–'
    higher_is_better = name.startswith(('is', 'pr'))
    kimg, value = (max if higher_is_better else min)(curve, key=lambda point: point[1])
    return f'{curve[-1][1]:.4g} <small>best {value:.4g} at {kimg:g}</small>'


def warnings_of(runs: Sequence[Run]) -> str:
    """What the runs warned of."""
    items = [f'<li>{tag}: {escape(warning)}</li>' for tag, run in zip(tags(runs), runs) for warning in run.warnings]
    return section('Warnings', f'<ul class="warnings">{"".join(items)}</ul>' if items else '')


def pictures_of(runs: Sequence[Run]) -> str:
    """The viewer of fakes over time, and reals."""
    if not any(run.pictures for run in runs):
        return ''
    boxes = [f'<figure><figcaption>{tag}</figcaption><img class="fakes" alt="Fakes of {escape(run.name)}"></figure>'
             for tag, run in zip(tags(runs), runs) if run.pictures]
    reals = next((uri for run in runs if run.reals and (uri := data_uri(run.reals, tile_of(run)))), None)
    if reals:
        boxes.append(f'<figure><figcaption>Training images</figcaption><img src="{reals}" alt="Reals"></figure>')
    return section('Fakes over time', '<div class="slider"><input id="time" type="range" min="0" value="0" step="1" '
                   'aria-label="Time"><output id="when"></output></div>'
                   f'<div class="pictures">{"".join(boxes)}</div>')


def curves_of(runs: Sequence[Run]) -> str:
    """Metrics, the main curves, and all others folded away."""
    stats = [run.stats for run in runs]
    metric_names = dict.fromkeys(name for run in runs for name in run.metrics)
    others = sorted({name for curves in stats for name in curves} - {*MAIN_CURVES, *NO_CURVES})
    rest = charts(stats, others)
    folded = f'<details><summary>All other statistics ({len(others)})</summary>{rest}</details>' if rest else ''
    return (section('Metrics', charts([run.metrics for run in runs], metric_names))
            + section('Curves', charts(stats, MAIN_CURVES) + folded or '<p>No statistics yet.</p>'))


def configuration(runs: Sequence[Run]) -> str:
    """Differences between the runs, how to repeat them, all options."""
    changed = differences(runs)
    head = ['Option', *tags(runs)]
    parts = []
    if len(runs) > 1:
        parts.append(table(head, [[escape(name), *map(escape, values)] for name, values in changed.items()])
                     if changed else '<p>The runs have the same configuration.</p>')
    for tag, run in zip(tags(runs), runs):
        command = command_line(run)
        parts.append(f'<p>{tag}</p>' + (f'<pre>{escape(command)}</pre>' if command else
                                        '<p>Its command line was not recorded.</p>'))
    options = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for config in options for name in config)
    rows = [[escape(name), *(escape(config.get(name, '')) for config in options)] for name in names]
    parts.append(f'<details><summary>All options</summary>{table(head, rows)}</details>')
    return section('Configuration', ''.join(parts))


STYLE = '''
:root { color-scheme: light dark; --ink: #222; --faint: #ddd; --back: #fff; --soft: #f5f5f3 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #444; --back: #181818; --soft: #242424 } }
body { margin: 0 auto; padding: 12px; max-width: 1400px; font: 15px/1.4 system-ui, sans-serif; color: var(--ink);
       background: var(--back) }
h1 { font-size: 1.4em; overflow-wrap: anywhere } h2 { font-size: 1.1em; margin: 1.6em 0 .5em }
section:first-of-type td + td { white-space: nowrap } section:first-of-type td:first-child { overflow-wrap: anywhere;
       min-width: 8em } table { border-collapse: collapse }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top;
       border-bottom: 1px solid var(--faint); font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } small, footer { opacity: .7 } footer { margin-top: 2em }
i { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 50% }
pre { padding: 8px; overflow-x: auto; background: var(--soft) } .warnings { color: #c0392b; padding-left: 1.2em }
figure { margin: 0; min-width: 0 } figcaption { display: flex; gap: .5em; flex-wrap: wrap; font-weight: 600;
       align-items: baseline; overflow-wrap: anywhere } figcaption span { margin-left: auto }
.charts { display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)) }
.pictures { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
.pictures img { width: 100%; image-rendering: pixelated; background: var(--soft) }
.slider { display: flex; gap: 12px; align-items: center; position: sticky; top: 0; padding: 8px 0;
       background: var(--back) } .slider input { flex: 1; min-height: 32px } .slider output { min-width: 8em }
svg { width: 100%; height: auto; font-size: 11px } svg text { fill: var(--ink) }
svg .grid { stroke: var(--faint) } polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round }
details { margin: 1em 0 } summary { cursor: pointer; padding: 6px 0 }
'''

SCRIPT = '''
const time = document.getElementById('time');
if (time && slides.labels.length) {
  const rows = slides.pictures.map((uris, run) => [uris, slides.shown[run]]).filter(([uris]) => uris.length);
  const images = document.querySelectorAll('img.fakes');
  const show = () => {
    document.getElementById('when').textContent = slides.labels[time.value];
    rows.forEach(([uris, shown], i) => { images[i].src = uris[shown[time.value]]; });
  };
  time.max = slides.labels.length - 1;
  time.value = time.max;
  time.addEventListener('input', show);
  show();
}
'''


if __name__ == '__main__':
    output.prepare()
    main()
