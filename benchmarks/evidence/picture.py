"""The picture of the page: effects with their intervals, and the curve of every run."""
from pathlib import Path

import matplotlib

matplotlib.use('svg')
from matplotlib import pyplot as plt  # noqa: E402 (the back end must be chosen first)

from benchmarks.evidence.analyse import Answer  # noqa: E402
from benchmarks.evidence.effects import per_cent  # noqa: E402

BASE_COLOUR, OTHER_COLOUR, CLEAR_COLOUR = '#222222', '#9db4c0', '#b23a48'


def save_picture(answer: Answer, path: Path) -> None:
    """Writes an SVG; the same answer gives the same bytes."""
    screens = answer.screens[:1]
    stages = [name for name in answer.plan.stages if any(r.stage == name and r.curve for r in answer.results)]
    columns = max(1, len(screens) + len(stages))
    with plt.rc_context({'svg.hashsalt': answer.plan.sha256, 'svg.fonttype': 'none', 'font.size': 9}):
        figure, axes = plt.subplots(1, columns, figsize=(4.2 * columns, 3.6), squeeze=False,
                                    layout='constrained')
        for axis, screen in zip(axes[0], screens):
            _effects(axis, screen)
        for axis, stage in zip(axes[0][len(screens):], stages):
            _curves(axis, answer, stage)
        figure.savefig(path, format='svg', metadata={'Date': None, 'Creator': None})
        plt.close(figure)


def _effects(axis, screen) -> None:
    effects = sorted(screen.images, key=lambda e: -e.value)
    for i, effect in enumerate(effects):
        colour = CLEAR_COLOUR if effect.is_clear else OTHER_COLOUR
        axis.plot([per_cent(effect.low), per_cent(effect.high)], [i, i], color=colour, linewidth=2)
        axis.plot(per_cent(effect.value), i, 'o', color=colour)
    axis.axvline(0, color=BASE_COLOUR, linewidth=0.8)
    axis.set_yticks(range(len(effects)), [effect.name for effect in effects])
    axis.set_xlabel('change of the distance, per cent (95 % interval)')
    axis.set_title(f'effects ({screen.stage})')


def _curves(axis, answer: Answer, stage: str) -> None:
    metric, base = answer.plan['metrics_of_page'][0], answer.plan['base_cell']
    for result in answer.results:
        if result.stage == stage and result.curve:
            kimg, values = zip(*((kimg, scores[metric]) for kimg, scores in result.curve))
            is_base = result.cell == base
            axis.plot(kimg, values, color=BASE_COLOUR if is_base else OTHER_COLOUR,
                      linewidth=1.2 if is_base else 0.6, zorder=2 + is_base)
    axis.set_yscale('log')
    axis.set_xlabel('thousand images')
    axis.set_title(f'{metric}, every run ({stage}; base dark)')
