"""Whether a run is well: steps that cannot be taken, and early signs of what goes wrong in such runs.

A phase whose gradient holds anything that is not finite leaves the weights
where they are (`finish_phase`). The counts stay on the device until the end of a tick, so that nothing waits
for them. `Diverged` is raised if a phase fails again and again, or if anything in a state about to be saved
is not finite. The run then returns to its last saved state, once.
"""
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from torch_utils import distributed
from training.run.shares import PREFIX

MAX_STREAK = 8              # Steps of one phase, one after the other, without a finite gradient.
OVERFIT_SIGN = 0.95         # Mean sign of the critic's logits on reals, above which it has memorised them.
SATURATED_P = 0.85          # Strength of the augmentation, above which fakes begin to look augmented.
DEAD_SPREAD = 1e-4          # Spread of a critic's logits, below which it rates all images alike.
POOR_DIVERSITY = 0.1        # Spread among the fakes of the grid, as a share of that among its reals.
MIN_SHARE = 1e-3            # Share of a player's gradient, below which a method does next to nothing.
PATIENCE = 3                # Ticks in a row for which one must hold before it is reported.


class Diverged(Exception):
    """The run cannot go on from here; the text is a diagnosis for people."""


class GoBack(Exception):
    """Somebody who takes part elsewhere has lost what the run has done since a saved state; the text is for people."""


class CannotGoOn(Exception):
    """Somebody who takes part elsewhere cannot go on, or is away; the text is for people."""


class Health:
    """Watches one run, on every rank alike."""

    def __init__(self):
        self._steps: dict[str, int] = {}                # Phase -> steps in this tick.
        self._skipped: dict[str, torch.Tensor] = {}  # Phase -> how many of them were skipped; on the device.
        self._streak: dict[str, torch.Tensor] = {}      # Phase -> how many in a row, up to now.
        self._longest: dict[str, torch.Tensor] = {}     # Phase -> how many in a row, at most in this tick.
        self._signs: dict[str, int] = {}                # Warning -> for how many ticks in a row it has held.

    def note_step(self, phase: str, is_broken: torch.Tensor | None) -> None:
        """Counts a step of a phase by whether its gradient was not finite (None: there was no step)."""
        if is_broken is None:
            return
        bad = is_broken.to(torch.int64)
        self._steps[phase] = self._steps.get(phase, 0) + 1
        self._skipped[phase] = self._skipped.get(phase, 0) + bad
        self._streak[phase] = streak = (self._streak.get(phase, 0) + 1) * bad
        self._longest[phase] = torch.maximum(self._longest.get(phase, streak), streak)

    def end_tick(self, stats: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        """Sentences about the steps skipped since the last call; `stats` as from `Collector.as_dict`.

        Raises Diverged if a phase was skipped MAX_STREAK times in a row.
        """
        skipped = {phase: int(count) for phase, count in self._skipped.items()}
        streaks = {phase: int(count) for phase, count in self._longest.items()}
        for phase, count in skipped.items():
            if count:
                yield (f'{phase}: {count} of {self._steps[phase]} steps were skipped, their gradients were not finite'
                       + _suspects(stats))
        stuck = {phase: count for phase, count in streaks.items() if count >= MAX_STREAK}
        self._steps.clear()
        self._skipped.clear()
        self._longest.clear()
        if stuck:
            phase, count = max(stuck.items(), key=lambda item: item[1])
            raise Diverged(f'{count} steps of {phase} in a row had no finite gradient' + _suspects(stats))

    def warnings(self, stats: Mapping[str, Mapping[str, float]], p: float, diversity: float | None,
                 zero_decides: bool = True, methods: Collection[str] = ()) -> Iterator[str]:
        """Early signs of trouble. Each is reported once it has held for PATIENCE ticks, and again only after
        it has ceased.

        `p` is the strength of the augmentation, `diversity` the spread among fakes relative
        to reals if it was measured, `zero_decides` whether the sign of a logit means anything in this game, `methods`
        what should do something (shares.py).
        """
        signs = {**self._all_signs(stats, p, diversity, zero_decides), **_idle_methods(stats, methods)}
        for name, (holds, sentence) in signs.items():
            if holds is None:                           # Nothing was measured in this tick.
                continue
            self._signs[name] = self._signs.get(name, 0) + 1 if holds else 0
            if self._signs[name] == PATIENCE:
                yield sentence

    def _all_signs(self, stats, p, diversity, zero_decides):
        """{name: (does it hold? None: not measured, sentence)}"""
        def mean(name):
            return stats.get(name, {}).get('mean', math.nan)

        sign = mean('Loss/signs/real') if zero_decides else math.nan
        signs = {
            'overfitting': (_above(sign, OVERFIT_SIGN),
                f'the critic takes {50 + 50 * sign:.0f} % of the training images for real: it learns them by heart; '
                'more data, --mirror=1, a stronger --aug or a larger --gamma help'),
            'saturated p': (_above(p, SATURATED_P),
                f'the augmentation strength is {p:.2f}: the data set is too small for these settings, and '
                'augmentations may leak into the fakes; --mirror=1, a larger --gamma or a --reg_type for little data help'),
            'collapse': (None if diversity is None else diversity < POOR_DIVERSITY,
                f'the fakes of the grid differ by {diversity or 0:.0%} of what reals differ by: the generator repeats '
                'itself; an earlier snapshot may be better, a larger --gamma helps')}
        for name in [name for name in stats if name.startswith('Loss/scores/real')]:
            fake = name.replace('/real', '/fake')
            spread = max(stats[name]['std'], stats.get(fake, stats[name])['std'],
                         abs(mean(name) - mean(fake)))
            critic = 'D' + name.removeprefix('Loss/scores/real')
            signs[f'dead {critic}'] = (
                None if math.isnan(spread) else spread < DEAD_SPREAD,
                f'critic {critic} says the same of every image, so the generator learns nothing from it; a smaller '
                '--gamma helps')
        return signs


def _idle_methods(stats, methods):
    """The same for methods whose share of the gradient is negligible."""
    signs = {}
    for name in [name for name in stats if name.startswith(PREFIX)]:
        method, player = name.removeprefix(PREFIX).split('/')
        share = stats[name]['mean']
        if method in methods:
            signs[f'idle {method}/{player}'] = (
                None if math.isnan(share) else share < MIN_SHARE,
                f'the term of {method} is {share:.0e} of the gradient that {player} learns from: at this weight it does next to '
                'nothing')
    return signs


def _above(value, limit):
    """None if there is no value."""
    return None if math.isnan(value) else value > limit


def _suspects(stats):
    """The losses that were not finite themselves, in brackets."""
    names = [name for name, value in stats.items()
             if name.startswith('Loss/') and value['num'] and not math.isfinite(value['mean'])]
    return f' (not finite either: {", ".join(names)})' if names else ''


def require_finite(state: Any) -> None:
    """Raises Diverged on all ranks, naming the first value, unless all of a nested state is finite on all."""
    found = [names for names in distributed.gather_objects(not_finite(state)) if names]
    if found:
        raise Diverged(f'{len(found[0])} {"values are" if len(found[0]) > 1 else "value is"} not finite any more, '
                       f'{found[0][0]}' + ' among them' * (len(found[0]) > 1))


def not_finite(state: Any) -> list[str]:
    """The names, like 'players/D/module/b4.out.bias', of what is not finite in a nested state."""
    leaves = dict(_numbers(state))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, torch.Tensor)}
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        by_device.setdefault(tensor.device, []).append(name)
    finite = {name: math.isfinite(leaf) for name, leaf in leaves.items() if name not in tensors}
    for names in by_device.values():            # One transfer for all.
        finite.update(zip(names, torch.stack([tensors[name].isfinite().all() for name in names]).tolist()))
    return [name for name in leaves if not finite[name]]


def _numbers(state: Any, name: str = '') -> Iterator[tuple[str, float | torch.Tensor]]:
    if isinstance(state, np.ndarray):
        state = torch.from_numpy(state)
    if isinstance(state, float) or (isinstance(state, torch.Tensor) and state.is_floating_point()):
        yield name, state
    items = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    for key, value in items:
        yield from _numbers(value, f'{name}/{key}' if name else str(key))


def diversity(fakes: np.ndarray, reals: np.ndarray) -> float:
    """Standard deviation among fakes [N,C,H,W], averaged over pixels,
    divided by that among reals [N,C,H,W]."""
    return float(fakes.std(0).mean() / max(reals.std(0).mean(), 1e-8))
