"""Three things that must come out as they do if the rest is to be believed, and one that must be seen."""
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
    if comparison is None:
        return Control('A/A', None, 'the base has not been run against itself twice yet')
    return Control('A/A', comparison.low <= 0 <= comparison.high,
                   'the base with another seed differs from the base by '
                   f'{interval(comparison)} in {comparison.num_blocks} pairs')


def weight_zero(results: Sequence[Result], base: str, prefix: str) -> Control:
    """A method with weight 0 is the base, to the last digit of every score of the curve."""
    curves = {(r.stage, r.block, r.cell): r.curve for r in results}
    pairs = [(cell, curve, curves.get((stage, block, base))) for (stage, block, cell), curve in curves.items()
             if cell.startswith(prefix)]
    compared = [(cell, curve == other) for cell, curve, other in pairs if other is not None]
    if not compared:
        return Control('weight 0', None, 'no method with weight 0 has been run yet')
    wrong = sorted({cell for cell, same in compared if not same})
    num = sum(not same for _, same in compared)
    return Control('weight 0', not wrong, f'of {len(compared)} runs of methods with weight 0 {num} '
                   f'{"differs" if num == 1 else "differ"} from the base ({", ".join(wrong)})' if wrong
                   else f'{len(compared)} runs of methods with weight 0 give exactly the scores of the base')


def known_effect(effect: Effect | None, name: str) -> Control:
    """A method that is known to help must be seen to help."""
    if effect is None:
        return Control('positive', None, f'the effect of {name} is not known yet')
    return Control('positive', effect.high < 0, f'{name} changes the distance by {interval(effect)}')


def interval(effect: Effect | Comparison) -> str:
    """'-12 % (-20 to -3)', of a logarithm."""
    return f'{per_cent(effect.value):+.0f} % ({per_cent(effect.low):+.0f} to {per_cent(effect.high):+.0f})'
