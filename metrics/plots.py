"""Metrics over training time: `metrics.svg` in the run directory, written with the standard library alone."""
from __future__ import annotations

import glob
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dnnlib import writing
from training.run.files import read_metric

_WIDTH, _HEIGHT = 360, 220                                  # Of one panel, in pixels.
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 32, 34               # Margins inside it.
_COLUMNS = 3
_INK, _FAINT, _LINE = '#333333', '#dddddd', '#2a6f97'

Curve = Sequence[tuple[float, float]]                       # Points (kimg, value).


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
    width, height = columns * _WIDTH, math.ceil(len(curves) / columns) * _HEIGHT
    panels = [f'<g transform="translate({i % columns * _WIDTH},{i // columns * _HEIGHT})">{_panel(name, curve)}</g>'
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


def _panel(name: str, curve: Curve) -> str:
    xs, ys = zip(*curve)
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(min(ys), max(ys))

    def x_of(x):
        return _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y):
        return _HEIGHT - _BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(name)}</text>',
             f'<text x="{_WIDTH - _RIGHT}" y="20" text-anchor="end">{curve[-1][1]:.4g}</text>']
    for y in y_ticks:
        parts += [f'<path d="M{_LEFT} {y_of(y):.1f}H{_WIDTH - _RIGHT}" stroke="{_FAINT}"/>',
                  f'<text x="{_LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>']
    for x in x_ticks:
        parts.append(f'<text x="{x_of(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">kimg</text>')
    points = ' '.join(f'{x_of(x):.1f},{y_of(y):.1f}' for x, y in curve)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2" fill="{_LINE}"/>' for x, y in curve]
    return ''.join(parts)
