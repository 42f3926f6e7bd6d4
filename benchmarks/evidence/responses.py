"""From curves to one number a run: the mean log distance of its last snapshots,
at equal images or at equal seconds.

The mean over a window, never the best snapshot: the best of many noisy values is better the more
of them there are. A run that failed counts as the worst of its block.
"""
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, median

import numpy as np

from benchmarks.evidence.plan import Block
from benchmarks.evidence.results import Result

Response = dict[tuple[str, str, Block], float]      # {(stage, cell, block): response}.


def responses(results: Sequence[Result], of_run: Callable[[Result], float]) -> Response:
    """{(stage, cell, block): response}; what failed gets the worst, that is largest, of its block."""
    found = {(r.stage, r.cell, r.block): of_run(r) for r in results if r.status == 'finished'}
    worst: dict[tuple[str, Block], float] = defaultdict(lambda: math.nan)
    for (stage, _, block), value in found.items():
        worst[stage, block] = max(value, worst[stage, block]) if (stage, block) in worst else value
    failed = {(r.stage, r.cell, r.block): worst[r.stage, r.block] for r in results if r.status != 'finished'}
    return found | failed


def window_mean(result: Result, metric: str, window: int, log: bool = True) -> float:
    """Mean of the (log) metric over the last snapshots of a run."""
    values = [scores[metric] for _, scores in result.curve[-window:]]
    return fmean(math.log(value) if log else value for value in values)


def at_seconds(result: Result, metric: str, window: int, sec_per_kimg: float, seconds: float) -> float:
    """The same window, ending where a run of this cost is after so many seconds.

    Between snapshots the logarithm is interpolated linearly.
    A run that has more time than images ends where it ends:
    a cheaper method gets no credit for images that nobody trained on.
    """
    kimg, logs = zip(*((kimg, math.log(scores[metric])) for kimg, scores in result.curve))
    spacing = kimg[1] - kimg[0] if len(kimg) > 1 else 0
    end = min(seconds / sec_per_kimg, kimg[-1])
    return float(np.mean(np.interp([end - i * spacing for i in range(window)], kimg, logs)))


def costs(results: Sequence[Result]) -> dict[str, float]:
    """{cell: median seconds of processor time a kimg}."""
    seconds = defaultdict(list)
    for result in results:
        if result.sec_per_kimg:
            seconds[result.cell].append(result.sec_per_kimg)
    return {cell: median(values) for cell, values in seconds.items()}


def equal_seconds(results: Sequence[Result], metric: str, window: int, base: str) -> Response:
    """Responses at the number of seconds that the base's runs took to their end; nothing without a base."""
    cost = costs(results)
    ends = [result.curve[-1][0] for result in results if result.cell == base and result.curve]
    if base not in cost or not ends:
        return {}
    known = [result for result in results if result.cell in cost or result.status != 'finished']
    seconds = max(ends) * cost[base]
    return responses(known, lambda r: at_seconds(r, metric, window, cost[r.cell], seconds))


def kimg_to(result: Result, metric: str, value: float) -> float | None:
    """Thousands of images until the curve first reaches a value, None if it never does."""
    before = None
    for kimg, scores in result.curve:
        if scores[metric] <= value:
            if before is None:
                return kimg
            share = (math.log(before[1]) - math.log(value)) / (math.log(before[1]) - math.log(scores[metric]))
            return before[0] + share * (kimg - before[0])
        before = kimg, scores[metric]
    return None
