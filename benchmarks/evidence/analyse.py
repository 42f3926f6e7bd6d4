"""Everything that the page says, from a plan and its results.

The same results always give the same answer.
"""
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.evidence import controls, effects
from benchmarks.evidence.effects import Comparison, Effect, Ranks
from benchmarks.evidence.plan import Block, Plan
from benchmarks.evidence.responses import costs, equal_seconds, kimg_to, responses, window_mean
from benchmarks.evidence.results import Result


@dataclass(frozen=True)
class Screen:
    """What a factorial stage says."""
    stage: str
    images: list[Effect]                        # At equal images.
    seconds: list[Effect]                       # At equal seconds; empty as long as the base has not run.
    coverage: list[Effect]                      # Of the metric `coverage` itself, no logarithm.
    memorised: list[Effect]                     # Of the share of fakes.
    interactions: list[Effect]
    num_blocks: int


@dataclass(frozen=True)
class Answer:
    """The analysis."""
    plan: Plan
    results: list[Result]
    controls: list[controls.Control]
    screens: list[Screen]
    comparisons: dict[str, list[Comparison]]            # By stage, of every cell with the base.
    ranks: dict[str, Ranks]
    costs: dict[str, float]                             # Seconds a kimg relative to the base.
    correlations: dict[str, float]                      # Of every metric with the first.
    # Stage: finished, failed, planned.
    progress: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    # Stage: {block: (place of the base by distance, 1 the best; cells that have run there)}.
    places_of_base: dict[str, dict[Block, tuple[int, int]]] = field(default_factory=dict)
    images_to_base: dict[str, tuple[float | None, int, int]] = field(default_factory=dict)
    # Stage/cell: median of the images until the base's distance is first reached, where the base takes 1,
    # None if it never is; runs that got there; runs.


def analyse(plan: Plan, results: Sequence[Result]) -> Answer:
    """Looks at all results of the plan."""
    results = sorted(results, key=lambda r: (r.stage, r.block, r.cell))
    by_stage = {name: [r for r in results if r.stage == name] for name in plan.stages}
    images = {name: _plain(responses(some,
                                     lambda r: window_mean(r, plan['metrics_of_page'][0], plan['window'])))
              for name, some in by_stage.items()}
    screens = [screen for name, stage in plan.stages.items()
               if (screen := _screen(plan, stage, by_stage[name]))]
    base_costs = costs(results)
    base = plan['base_cell']
    planned = Counter(cell.stage for cell in plan.cells())
    return Answer(
        plan, results,
        _controls(plan, by_stage, images, screens),
        screens,
        {name: [c for cell in stage['cells']
                if cell != base and (c := effects.compare(images[name], cell, base))]
         for name, stage in plan.stages.items() if not _levels(stage)},
        {name: found for name, values in images.items()
         if not _levels(plan.stages[name]) and (found := effects.ranks(values))},
        {cell: cost / base_costs[base] for cell, cost in base_costs.items()} if base in base_costs else {},
        _correlations(plan, results),
        {name: (sum(r.status == 'finished' for r in some), sum(r.status != 'finished' for r in some), planned[name])
         for name, some in by_stage.items()},
        {name: places for name, values in images.items() if (places := _places(values, base))},
        _images_to_base(plan, by_stage))


def _places(values: dict, base: str) -> dict[Block, tuple[int, int]]:
    """Where the base stands in each block among all cells that have run there."""
    blocks = sorted({block for cell, block in values if cell == base})
    here = {block: [value for (_, other), value in values.items() if other == block] for block in blocks}
    return {block: (1 + sum(value < values[base, block] for value in here[block]), len(here[block])) for block in blocks}


def _plain(values: dict) -> dict:
    """{(cell, block): response} of one stage."""
    return {(cell, block): value for (_, cell, block), value in values.items()}


def complete_blocks(values: dict, cells: Sequence[str]) -> dict:
    """Only the blocks in which every cell has a response:
    half a block says more about its first cells than about methods."""
    blocks = {block for _, block in values}
    complete = {block for block in blocks if all((cell, block) in values for cell in cells)}
    return {(cell, block): value for (cell, block), value in values.items() if block in complete}


def _levels(stage: dict) -> dict[str, dict[str, int]]:
    """{cell: levels} of a factorial stage, nothing of another."""
    return {name: cell['levels'] for name, cell in stage['cells'].items() if 'levels' in cell}


def _screen(plan: Plan, stage: dict, results: list[Result]) -> Screen | None:
    levels = _levels(stage)
    metric, window = plan['metrics_of_page'][0], plan['window']

    def of(function):
        return complete_blocks(_plain(responses(results, function)), list(levels))

    values = of(lambda r: window_mean(r, metric, window))
    if not levels or not values:
        return None
    timed = complete_blocks(_plain(equal_seconds(results, metric, window, plan['base_cell'])), list(levels))
    # The worst is the smallest.
    coverage = of(lambda r: -window_mean(r, plan['coverage'], window, log=False))
    memorised = of(lambda r: r.memorised)
    return Screen(
        stage['name'],
        effects.factorial_effects(values, levels),
        effects.factorial_effects(timed, levels) if timed else [],
        [_turned(effect) for effect in effects.factorial_effects(coverage, levels)],
        effects.factorial_effects(memorised, levels),
        effects.interactions(values, levels),
        len({block for _, block in values}))


def _turned(effect: Effect) -> Effect:
    """The same effect of the opposite number."""
    return Effect(**{**effect.__dict__, 'value': -effect.value, 'low': -effect.high, 'high': -effect.low})


def _controls(plan: Plan, by_stage: dict, images: dict, screens: list[Screen]) -> list[controls.Control]:
    stage, base = plan['controls']['stage'], plan['base_cell']
    positive = plan['controls']['positive']
    known = next((effect for screen in screens for effect in screen.images if effect.name == positive), None)
    is_complete = all(screen.num_blocks == len(plan.stages[screen.stage]['blocks']) for screen in screens)
    if known is None:           # It is no factor, but a cell of its own.
        alone = effects.compare(images[stage], positive, base)
        known = alone if alone and alone.num_blocks > 1 else None
        is_complete = alone is not None and alone.num_blocks == len(plan.stages[stage]['blocks'])
    return [controls.against_itself(images[stage], base),
            controls.weight_zero([result for some in by_stage.values() for result in some], base,
                                 plan['controls']['weight_zero'], plan['metrics_of_page'][0]),
            controls.known_effect(known, positive, is_complete)]


def _correlations(plan: Plan, results: list[Result]) -> dict[str, float]:
    def of(metric):
        return {(r.stage, r.cell, r.block): window_mean(r, metric, plan['window'], log=False)
                for r in results if r.status == 'finished'}
    first, *others = plan['metrics_of_page']
    return {metric: effects.rank_correlation(of(first), of(metric)) for metric in others}


def _images_to_base(plan: Plan, by_stage: dict) -> dict[str, tuple[float | None, int, int]]:
    """How soon every cell is at the distance that the base of its block has over its last snapshots."""
    metric, base, found = plan['metrics_of_page'][0], plan['base_cell'], {}
    for stage, results in by_stage.items():
        if _levels(plan.stages[stage]):
            continue
        bases = {r.block: r for r in results if r.cell == base and r.curve}
        goal = {block: math.exp(window_mean(r, metric, plan['window'])) for block, r in bases.items()}
        for cell in plan.stages[stage]['cells']:
            runs = [r for r in results if r.cell == cell and r.block in goal]
            if cell == base or not runs:
                continue
            reached = [kimg / kimg_to(bases[r.block], metric, goal[r.block]) for r in runs
                       if (kimg := kimg_to(r, metric, goal[r.block])) is not None]
            found[f'{stage}/{cell}'] = median(reached) if reached else None, len(reached), len(runs)
    return found
