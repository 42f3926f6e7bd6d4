"""Which saved states of a run are kept: the newest ones, the best one, milestones.

What counts for the best is not each score: distances to the data often rank the untrained network first,
rise from there while it learns its first colours and shapes, and fall for the rest of the run.
A state from this early ramp would count as the best for a long time. So, if a run has a score from its first
thousand images, its scores count only from the first one that is better than the one before it.
"""
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dnnlib.numbers import in_words, is_within

UNTRAINED_NIMG = 1000
NEWEST, EVERY_KIMG = '[1, inf)', '(0, inf)'


@dataclass(frozen=True)
class Saved:
    """What decides whether a saved state is kept. `score`: lower is better; None: not known."""
    nimg: int
    score: float | None = None


@dataclass(frozen=True)
class Keep:
    """The newest so many states, the one with the best score,
    the first at or after each multiple of `every_kimg`."""
    newest: int = 2
    best: bool = True
    every_kimg: float | None = None

    @classmethod
    def parse(cls, text: str) -> 'Keep':
        """From '3', '3,best', '3,every=1000', '3,best,every=1000'.

        Raises ValueError with a sentence for people.
        """
        newest, *rest = text.split(',')
        try:
            every = [float(word.removeprefix('every=')) for word in rest if word != 'best']
            keep = cls(int(newest), 'best' in rest, *every)
        except (ValueError, TypeError):
            raise ValueError(f'{text}: not of the form NUMBER[,best][,every=KIMG]') from None
        if not is_within(keep.newest, NEWEST):
            raise ValueError(f'{text}: NUMBER must be {in_words(NEWEST, keep.newest)}')
        if keep.every_kimg is not None and not is_within(keep.every_kimg, EVERY_KIMG):
            raise ValueError(f'{text}: KIMG must be {in_words(EVERY_KIMG, keep.every_kimg)}')
        return keep

    def choose(self, states: Iterable[Saved],
               earlier: Mapping[int, float] = MappingProxyType({})) -> set[int]:
        """The `nimg` of the states to keep, the last always among them.

        `earlier`: scores {nimg: score} of states that are gone.
        """
        states = sorted(states, key=lambda state: state.nimg)
        kept = {state.nimg for state in states[-self.newest:]}
        scores = {state.nimg: state.score for state in states if state.score is not None}
        best = best_of(scores, {**earlier, **scores})
        if self.best and best is not None:
            kept.add(best)
        return kept | self._milestones(states)

    def _milestones(self, states: list[Saved]) -> set[int]:
        if self.every_kimg is None:
            return set()
        firsts: dict[int, int] = {}
        for state in states:
            firsts.setdefault(int(state.nimg / 1000 // self.every_kimg), state.nimg)
        return {nimg for multiple, nimg in firsts.items() if multiple > 0}


def best_of(scores: Mapping[int, float], all_scores: Mapping[int, float]) -> int | None:
    """The `nimg` of the best of some scores {nimg: score}, the earlier of equal ones; of all,
    the ramp does not count."""
    first = end_of_ramp(all_scores)
    counting = [nimg for nimg in scores if first is not None and nimg >= first]
    return min(counting, key=lambda nimg: (scores[nimg], nimg), default=None)


def end_of_ramp(scores: Mapping[int, float]) -> int | None:
    """The `nimg` from which on scores count; None: none does yet."""
    order = sorted(scores)
    if not order or order[0] >= UNTRAINED_NIMG:
        return order[0] if order else None
    return next((now for before, now in zip(order, order[1:]) if scores[now] < scores[before]), None)
