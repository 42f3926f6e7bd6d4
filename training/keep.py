"""Which saved states of a run are kept: the newest ones, the best one, milestones."""
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Saved:
    """What counts of a saved state when it is decided whether to keep it. `score`: lower is better; None: not known."""
    nimg: int
    score: float | None = None


@dataclass(frozen=True)
class Keep:
    """The newest so many states, the one with the best score, the first at or after each multiple of `every_kimg`."""
    newest: int = 2
    best: bool = True
    every_kimg: float | None = None

    @classmethod
    def parse(cls, text: str) -> 'Keep':
        """From '3', '3,best', '3,every=1000', '3,best,every=1000'. Raises ValueError with a sentence for people."""
        newest, *rest = text.split(',')
        try:
            every = [float(word.removeprefix('every=')) for word in rest if word != 'best']
            keep = cls(int(newest), 'best' in rest, *every)
        except (ValueError, TypeError):
            raise ValueError(f'{text}: not of the form NUMBER[,best][,every=KIMG]') from None
        if keep.newest < 1 or (keep.every_kimg is not None and not keep.every_kimg > 0):
            raise ValueError(f'{text}: the numbers must be at least 1 and more than 0')
        return keep

    def choose(self, states: Iterable[Saved]) -> set[int]:
        """The `nimg` of those to keep; never without the last."""
        states = sorted(states, key=lambda state: state.nimg)
        kept = {state.nimg for state in states[-self.newest:]}
        scored = [state for state in states if state.score is not None]
        if self.best and scored:
            kept.add(min(scored, key=lambda state: (state.score, state.nimg)).nimg)
        return kept | self._milestones(states)

    def _milestones(self, states: list[Saved]) -> set[int]:
        if self.every_kimg is None:
            return set()
        firsts: dict[int, int] = {}
        for state in states:
            firsts.setdefault(int(state.nimg / 1000 // self.every_kimg), state.nimg)
        return {nimg for multiple, nimg in firsts.items() if multiple > 0}
