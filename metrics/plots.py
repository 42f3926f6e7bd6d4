"""Metrics over training time: `metrics.svg` in the run directory, written with the standard library alone."""
from __future__ import annotations

import glob
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from dnnlib import writing
from training.run.run_files import read_metric

Curve = Sequence[tuple[float, float]]                       # Points (kimg, value).


class Frame(NamedTuple):
    """The size of a chart, and the margins inside it, in pixels."""
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


class Layout(NamedTuple):
    """Where the parts of a chart lie, in pixels from its upper left corner."""
    x_ticks: list[tuple[str, float]]        # (text, how far across)
    y_ticks: list[tuple[str, float]]        # (text, how far down)
    lines: list[list[tuple[float, float]]]


_FRAME = Frame(360, 220, left=64, right=16, top=32, bottom=34)
_COLUMNS = 3
_INK, _FAINT, _LINE = '#333333', '#dddddd', '#2a6f97'


def plot_run(run_dir: str):
    """Plots every value in the `metric-*.jsonl` files of a run, a panel each;
    makes no picture if there are none."""
    curves = read_curves(run_dir)
    if curves:
        writing.write_bytes(os.path.join(run_dir, 'metrics.svg'),
                            svg(curves).encode(errors='backslashreplace'), 'any')


def read_curves(run_dir: str) -> dict[str, Curve]:
    """{result name: points (kimg, value)}, by kimg; of several results for a snapshot the last counts.

    Lines that are no results, and results for no snapshot, are passed over.
    """
    curves: dict[str, dict[float, float]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), 'metric-*.jsonl'))):
        for kimg, results in read_metric(Path(path)):
            for name, value in results.items():
                curves.setdefault(name, {})[kimg] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def svg(curves: Mapping[str, Curve]) -> str:
    """An SVG document with one panel per curve."""
    columns = min(len(curves), _COLUMNS)
    width, height = columns * _FRAME.width, math.ceil(len(curves) / columns) * _FRAME.height
    panels = [f'<g transform="translate({i % columns * _FRAME.width},{i // columns * _FRAME.height})">'
              f'{_panel(name, curve)}</g>'
              for i, (name, curve) in enumerate(curves.items())]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="11" fill="{_INK}">')
    return '\n'.join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *panels, '</svg>', ''])


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers, at least two, that span [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # Equal but for rounding: no axis fits between them.
        high = low + (abs(low) or 1)
    power = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 5)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def lay_out(curves: Sequence[Curve], frame: Frame) -> Layout:
    """Where the ticks and the points of curves lie, of which at least one has points."""
    xs, ys = zip(*[point for curve in curves for point in curve])
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(min(ys), max(ys))
    width, height = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom

    def across(x):
        return round(frame.left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * width, 1)

    def down(y):
        return round(frame.top + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * height, 1)

    return Layout([(f'{x:g}', across(x)) for x in x_ticks], [(f'{y:.4g}', down(y)) for y in y_ticks],
                  [[(across(x), down(y)) for x, y in curve] for curve in curves])


def _panel(name: str, curve: Curve) -> str:
    x_ticks, y_ticks, (points,) = lay_out([curve], _FRAME)
    left, right, bottom = _FRAME.left, _FRAME.width - _FRAME.right, _FRAME.height - _FRAME.bottom
    parts = [f'<text x="{left}" y="20" font-weight="bold">{escape(name)}</text>',
             f'<text x="{right}" y="20" text-anchor="end">{curve[-1][1]:.4g}</text>']
    for text, y in y_ticks:
        parts += [f'<path d="M{left} {y:.1f}H{right}" stroke="{_FAINT}"/>',
                  f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>']
    parts += [f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>' for text, x in x_ticks]
    parts.append(f'<text x="{right}" y="{_FRAME.height - 6}" text-anchor="end">kimg</text>')
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{_LINE}"/>' for x, y in points]
    return ''.join(parts)
