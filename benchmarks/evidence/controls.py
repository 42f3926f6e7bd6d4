"""Three things that must come out as they do if the rest is to be believed, and one that must be seen."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.evidence.effects import Comparison, Effect, compare, per_cent
from benchmarks.evidence.results import Result


@dataclass(frozen=True)
class Control:
    """One control: holds (True, False), or not known yet (None), and a sentence."""
    name: str
    holds: bool | None
    sentence: str


def against_itself(values: dict, base: str) -> Control:
    """A/A: the base against the base with the next seed; the interval of their difference must cover none.

    Seeds are taken in pairs, so that every run counts once.
    """
    groups: dict[tuple, list] = {}
    for (cell, block), value in sorted(values.items()):
        if cell == base:
            groups.setdefault((block.data, block.num_images), []).append((block, value))
    paired = {}
    for runs in groups.values():
        for (block, first), (_, second) in zip(runs[::2], runs[1::2]):
            paired |= {('first', block): first, ('second', block): second}
    comparison = compare(paired, 'second', 'first')
    if comparison is None or comparison.num_blocks < 2:
        return Control('A/A', None, 'the base has not been run against itself twice yet')
    return Control('A/A', comparison.low <= 0 <= comparison.high,
                   'the base with another seed differs from the base by '
                   f'{interval(comparison)} in {comparison.num_blocks} pairs')


def weight_zero(results: Sequence[Result], base: str, prefix: str, metric: str) -> Control:
    """A method with weight 0 is the base, to the last digit of every score of the curve and of the weights."""
    of_base = {(r.stage, r.block): r for r in results if r.cell == base}
    pairs = [(r, of_base[r.stage, r.block]) for r in results if r.cell.startswith(prefix) and (r.stage, r.block) in of_base]
    if not pairs:
        return Control('weight 0', None, 'no method with weight 0 has been run yet')
    wrong = [(run, other) for run, other in pairs if not _are_equal(run, other)]
    if not wrong:
        return Control('weight 0', True, f'{len(pairs)} runs of methods with weight 0 give exactly the scores of the base')
    names = ', '.join(sorted({run.cell for run, _ in wrong}))
    return Control('weight 0', False, f'of {len(pairs)} runs of methods with weight 0 {len(wrong)} '
                   f'{"differs" if len(wrong) == 1 else "differ"} from the base ({names}), '
                   f'by {max(_apart(run, other, metric) for run, other in wrong):.1g} of a distance at most')


def _are_equal(run: Result, other: Result) -> bool:
    """Are all scores the same, and the weights, where both are known?"""
    weights = run.facts.get('weights'), other.facts.get('weights')
    return run.curve == other.curve and (None in weights or weights[0] == weights[1])


def _apart(run: Result, other: Result, metric: str) -> float:
    """The largest difference of a metric of two runs, relative to it; infinite if one of them has fewer scores."""
    mine, theirs = ([(kimg, scores.get(metric, math.nan)) for kimg, scores in result.curve] for result in (run, other))
    if [kimg for kimg, _ in mine] != [kimg for kimg, _ in theirs]:
        return math.inf
    return max((abs(value - reference) / (abs(reference) or 1) for (_, value), (_, reference) in zip(mine, theirs)), default=0.0)


def known_effect(effect: Effect | None, name: str, is_complete: bool) -> Control:
    """A method that is known to help must be seen to help, once all runs are done."""
    if effect is None:
        return Control('positive', None, f'the effect of {name} is not known yet')
    is_seen = effect.high < 0
    text = f'{name} changes the distance by {interval(effect)}'
    if not is_seen and not is_complete:
        return Control('positive', None, f'{text}, which is not seen to help yet')
    return Control('positive', is_seen, text)


def interval(effect: Effect | Comparison) -> str:
    """'-12 % (-20 to -3)', of a logarithm."""
    return f'{per_cent(effect.value):+.0f} % ({per_cent(effect.low):+.0f} to {per_cent(effect.high):+.0f})'
