"""Phases as CUDA graphs: what a phase has the device do, from the first gradient to the optimizer's step, is one launch.

The first time a phase runs as usual, and what it draws is noted; the second time it is captured; from then on it is replayed.
What the host decides goes before: reals, latents and labels of the micro-batches, and the draws of the augmentation, whose
margins decide how much memory a step needs. They are rounded up to `MARGINS`, so that sizes come again; for every combination
that comes there is a graph. All graphs share their memory, that of the largest phase.

A method whose step uses numbers of the host that change says so: its `interval`, `variant()`, or `no_graphs`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.cuda_graphs import Graph, Inputs, Tape, Uncapturable, capturable
from torch_utils.out_of_memory import is_out_of_memory
from torch_utils.randomness import Streams
from training.context import Phase, StepContext

if TYPE_CHECKING:
    from training.loss import Game
    from training.setup import Run

MARGINS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)      # Of augmented images, shares of their size.
MAX_GRAPHS = 32             # Of one phase; of more, those that were not used for longest go.
NOT_DONE = object()         # The phase has to run as usual.

Learn = Callable[[Any, Phase, list[StepContext]], Tensor | None]


def why_not(game: Game, device: torch.device) -> str | None:
    """Why a run has no CUDA graphs, as the end of a sentence; None if it can have them."""
    if device.type != 'cuda':
        return f'it computes on {device.type}, which has none'
    if distributed.world_size() > 1:
        return 'it has several processes, which exchange gradients between the kernels of a step'
    if not all(group.get('fused') for player in game.players for group in player.optimizer.param_groups):
        return 'its optimizers are not fused'
    return next((f'{type(r).__name__}: {r.no_graphs}' for r in game.regularizers if r.no_graphs), None)


class Draws:
    """The draws of the augmentation of one phase: noted the first time, made beforehand from then on."""

    def __init__(self, streams: Streams, recorder: Any):
        self._tape, self.recorder = Tape(streams), recorder
        self._wanted: list[tuple[Any, tuple, str]] = []
        self._draws: list[Any] = []
        self._graph: Graph | None = None
        self._position: int | None = None               # None: they are being noted.

    def take(self, augment: Any, shape: tuple, consumer: str, nimg: int) -> Any:
        """The draw for one use of random numbers, for images of a shape."""
        wanted = augment, shape, consumer
        if self._position is None:
            self._wanted.append(wanted)
            self._draws.append(self._draw(*wanted, nimg))
            return self._draws[-1]
        if self._wanted[self._position:self._position + 1] != [wanted]:
            raise Uncapturable(f'it augments images for {consumer}, which it did not when it was recorded')
        self._position += 1
        return self._draws[self._position - 1]

    def rewind(self) -> None:
        """The next draw that is taken is the first again; no more are noted."""
        self._position = 0

    def make(self, nimg: int) -> None:
        """Makes all of them; the next that is taken is the first."""
        self.rewind()
        if self._wanted:
            if self._graph is None:
                nothing = Inputs([], self.recorder.device)
                with _as_reasons():
                    self._graph = Graph(self._all, nothing, self._tape, self.recorder, nimg, copies=False)
            self._draws = self._graph([], nimg)
            for warp in self._warps():
                warp.fetch_margins()

    def margins(self) -> tuple:
        """Of the draws that move images, in pixels."""
        return tuple(tuple(warp.padding()) for warp in self._warps())

    def _all(self, _):
        return [self._draw(*wanted, 0) for wanted in self._wanted]

    def _draw(self, augment, shape, consumer, nimg):
        return augment.draw(shape, generator=self._tape.generator(nimg, consumer))

    def _warps(self):
        return [draw.warp for draw in self._draws if getattr(draw, 'warp', None) is not None]


@dataclass
class _Case:
    """A phase as long as the host decides the same."""
    draws: Draws
    variants: dict[tuple, Tape | Graph] = field(default_factory=dict)       # By margins: seen once, captured; oldest first.
    inputs: Inputs | None = None                        # Of all its graphs, once there is one.


class PhaseGraphs:
    """The graphs of a run. `recorder` captures: a `CudaRecorder`."""

    def __init__(self, streams: Streams, recorder: Any):
        self._streams, self.recorder = streams, recorder
        self._cases: dict[tuple, _Case] = {}
        self.refused: dict[str, str] = {}               # Phases that could not be captured, and why.

    def __len__(self) -> int:
        return sum(isinstance(graph, Graph) for case in self._cases.values() for graph in case.variants.values())

    def forget(self) -> None:
        """Lets go of all graphs: some tensors that they use are no longer those of the run."""
        if self._cases:
            self.recorder.wait()
        self._cases.clear()
        self.recorder.renew()

    def give_up(self, phases: list[Phase]) -> bool:
        """Lets go of all graphs for good, for want of memory; False if there are none."""
        if not self._cases:
            return False
        self.forget()
        for phase in phases:
            for player in phase.players:                # Gradients lie in the memory of graphs, and hold it.
                player.optimizer.zero_grad(set_to_none=True)
        self.refused.update((phase.name, 'memory ran out') for phase in phases)
        print('Out of memory with CUDA graphs, which keep their own: going on without.', flush=True)
        return True

    def run(self, run: Run, phase: Phase, contexts: list[StepContext], learn: Learn) -> Any:
        """What `learn` returns for a phase and its micro-batches, replayed if it can be; `NOT_DONE` if it must run as usual."""
        if phase.name in self.refused or any(map(_is_measured, contexts)):
            return NOT_DONE
        try:
            return self._run(run, phase, contexts, learn)
        except Uncapturable as error:
            reason = str(error)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = None
        # Here, where nothing of the failed step is left.
        if reason is None:
            self.give_up(run.phases)
        else:
            self.forget()
            self.refused[phase.name] = reason
            print(f'{phase.name} runs without a CUDA graph: {reason}.', flush=True)
        return NOT_DONE

    def _run(self, run, phase, contexts, learn):
        key = _key(run, phase, contexts)
        if key not in self._cases:
            draws = Draws(self._streams, self.recorder.apart())
            result, tape = self._record(run, phase, contexts, learn, draws)
            self._cases[key] = _Case(draws, {draws.margins(): tape})
            return result
        case, nimg = self._cases[key], contexts[0].nimg
        case.draws.make(nimg)
        margins = case.draws.margins()
        found = case.variants.pop(margins, None)
        if found is None:
            result, found = self._record(run, phase, contexts, learn, case.draws)
            if len(case.variants) >= MAX_GRAPHS:
                self.recorder.wait()
                del case.variants[next(iter(case.variants))]
        else:
            if isinstance(found, Tape):
                found = self._capture(run, phase, contexts, learn, case, found)
            result, shared = found(_inputs(contexts), nimg)
            contexts[0].iteration.update(shared)
        case.variants[margins] = found          # The youngest.
        return result

    def _record(self, run, phase, contexts, learn, draws):
        """Runs a phase as usual; returns its result and what it drew."""
        tape = Tape(self._streams)
        contexts = [replace(ctx, streams=tape, draws=draws) for ctx in contexts]
        result = self.recorder.run(lambda: learn(run, phase, contexts))
        draws.rewind()
        return result, tape

    def _capture(self, run, phase, contexts, learn, case, tape):
        """The graph of a phase. Raises Uncapturable."""
        def function(inputs):
            values, before = inputs
            shared = dict(before)
            result = learn(run, phase, [replace(ctx, streams=tape, draws=case.draws, iteration=shared, **dict(zip(INPUTS, each)))
                                        for ctx, each in zip(contexts, values)])
            return [result, {key: shared[key] for key in shared if key not in before}]
        case.draws.rewind()
        case.inputs = case.inputs or Inputs(_inputs(contexts), self.recorder.device)
        with capturable([player.optimizer for player in phase.players]), _as_reasons():
            return Graph(function, case.inputs, tape, self.recorder, contexts[0].nimg)


# Of a context, what changes from step to step.
INPUTS = 'real_img', 'real_c', 'gen_z', 'gen_c', 'fake_c', 'remaining', 'ramp'


def _inputs(contexts: list[StepContext]) -> list:
    """All that a phase is given: fields of its contexts, and what earlier phases of the iteration share."""
    return [[[getattr(ctx, name) for name in INPUTS] for ctx in contexts], dict(contexts[0].iteration)]


def _key(run: Run, phase: Phase, contexts: list[StepContext]) -> tuple:
    """What of the host decides what a phase does, but for the margins of its augmentation."""
    acting = run.game.acting_in(phase)
    return (phase.name, tuple(ctx.real_img.shape for ctx in contexts), tuple(contexts[0].iteration),
            tuple((contexts[0].batch_idx % r.interval == 0, r.variant()) for r in acting))


def _is_measured(ctx: StepContext) -> bool:
    """Will a step differentiate its terms once more, to know how much each does?"""
    return ctx.game.shares is not None and ctx.game.shares.measures(ctx)


@contextmanager
def _as_reasons() -> Iterator[None]:
    """Errors of a capture become reasons why there can be none, but for want of memory."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, Uncapturable) or is_out_of_memory(error):
            raise
        raise Uncapturable(_first_cause(error)) from error


def _first_cause(error: BaseException) -> str:
    """The first line of the error that the others came from."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0]}'
