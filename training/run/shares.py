"""How much each method does: the gradient of its term beside that of the main step of the same player.

    share = |g_method| / max(|g_main|, |g_method|)      from the first micro-batch of an iteration, on every rank its own

g_method is what the method adds per iteration: a term that acts on every k-th one counts without its factor k, and of a
method with terms at several sites of a step the lengths are added. At 1 it is at least as strong as all that the player
learns from; below 1e-3 it does next to nothing.

On every `INTERVAL`-th iteration each term is differentiated once more, alone, but those that are all that their phase has,
as usually path length and R1; that is all it costs, and no number of the training changes. A step that is measured must
be run as it is written, not replayed from a recording.
"""
from collections.abc import Iterable

import torch
from torch import Tensor

from torch_utils import training_stats
from training.context import StepContext
from training.regularizer import LAZY_SITES, Regularizer

INTERVAL = 64       # Iterations: a multiple of the usual intervals of lazy steps, so that all are due.
PREFIX = 'Loss/share/'


class Shares:
    """Measures the methods of one run; `watched` are the names of those whose share should not be negligible."""

    def __init__(self, watched: Iterable[str] = ()):
        self.watched = tuple(watched)
        self._has_room = True                                       # Was there always memory for it?
        self._terms: dict[tuple[str, str, str], Tensor] = {}        # (method, player, site) -> |g_method| [].
        self._main: dict[str, Tensor] = {}                          # Player -> |g_main| [].
        self._alone: tuple[str, str, str] | None = None             # The term whose gradient is all that the phase leaves.

    def measures(self, ctx: StepContext) -> bool:
        """Is this micro-batch one that is measured?"""
        is_first = ctx.round == 0 and (ctx.phase.critic is not None or ctx.source == 0)
        return is_first and ctx.batch_idx % INTERVAL == 0 and self._has_room

    def note_term(self, ctx: StepContext, regularizer: Regularizer, site: str, term: Tensor | float) -> None:
        """Takes what a method adds at a site, [N] or a scalar, while its graph is there."""
        if not (self.measures(ctx) and isinstance(term, Tensor) and term.requires_grad):
            return
        player = ctx.game.G if site.startswith('g') else ctx.critic
        key = name_of(regularizer), player.name, site
        if is_alone(ctx):
            self._alone = key
            return
        parameters = [parameter for parameter in player.module.parameters() if parameter.requires_grad]
        try:
            grads = torch.autograd.grad(term.mean() * ctx.share, parameters, retain_graph=True, allow_unused=True)
        except torch.OutOfMemoryError:                              # Training has its memory; it is only a measurement.
            self._has_room = False
            return
        self._terms[key] = _length(grads)

    def note_step(self, ctx: StepContext) -> None:
        """Looks at the gradients that a micro-batch of a main step, or of a step with one term, has left."""
        if not self.measures(ctx) or (self._alone is None and ctx.phase.interval > 1):
            return
        grads = {player.name: [parameter.grad for parameter in player.module.parameters()] for player in ctx.phase.players}
        lengths = {name: _length(of) for name, of in grads.items() if any(grad is not None for grad in of)}
        if self._alone is None:
            self._main.update(lengths)
        elif self._alone[1] in lengths:
            self._terms[self._alone] = lengths[self._alone[1]] / ctx.phase.interval
        self._alone = None

    def end_iteration(self) -> None:
        """Reports what was measured in this iteration."""
        methods = {(method, player): [] for method, player, _ in self._terms}
        for (method, player, _), length in self._terms.items():
            methods[method, player].append(length)
        for (method, player), lengths in methods.items():
            if player in self._main:
                length = sum(lengths)
                whole = torch.maximum(self._main[player], length).clamp(min=1e-30)
                training_stats.report(f'{PREFIX}{method}/{player}', length / whole)
        self._terms, self._main = {}, {}


def is_alone(ctx: StepContext) -> bool:
    """Does the step of this micro-batch back-propagate one term of one method, and nothing else?"""
    sites = ctx.phase.step.sites
    return sites <= set(LAZY_SITES) and sum(len(r.sites & sites) for r in ctx.game.acting_in(ctx.phase)) == 1


def name_of(regularizer: Regularizer) -> str:
    """What a method is called: as its file is."""
    return type(regularizer).__module__.rpartition('.')[2]


def _length(grads: Iterable[Tensor | None]) -> Tensor:
    """Norm [] of a gradient that is given in parts."""
    grads = [grad.detach() for grad in grads if grad is not None]
    return torch.nn.utils.get_total_norm(grads)
