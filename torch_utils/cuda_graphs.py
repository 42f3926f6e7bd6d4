"""Functions that are captured as CUDA graphs and replayed: one launch in place of thousands.

A graph repeats what a function had the device do, with the same memory. What Python does in it happens when it is captured and
never again, so everything that changes from call to call is given to it and taken from it by name:

    inputs      tensors; before a replay their numbers are copied into those of the capture
    random      generators that `Tape` makes; before a replay they are seeded as the function would have seeded them
    results     tensors; after a replay they are copied, since the next graph may use their memory
    reports     for statistics (`training_stats.held`), the same
    `Kept`      dictionaries in which the function keeps tensors for later, the same

What it changes in place (weights, moments, running means) must be the same tensors in every call.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torch_utils import training_stats
from torch_utils.nested import map_tensors
from torch_utils.randomness import Streams

_notes: list[tuple[dict, Any, Any]] | None = None       # What is being kept in a function that is captured.


class Uncapturable(RuntimeError):
    """What a function does cannot be part of a graph; the text says why."""


class Kept(dict):
    """A dictionary in which steps keep tensors for later, by `kept[key] = value`; a replayed step keeps its new ones."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if _notes is not None:
            _notes.append((self, key, value))


@contextmanager
def _noted() -> Iterator[list[tuple[dict, Any, Any]]]:
    """Within, what is put into a `Kept` is also put on this list."""
    global _notes
    _notes = notes = []
    try:
        yield notes
    finally:
        _notes = None


class Tape:
    """Random streams for a function that is captured: what it asks for the first time is what it gets in every replay.

    In place of `Streams`. The first call of the function is given fresh generators, which are noted. After `rewind` those of
    one more call are the same objects each time, seeded for the number of images.
    """

    def __init__(self, streams: Streams):
        self._streams = streams
        self._consumers: list[str] = []
        self.generators: list[torch.Generator] | None = None
        self._position = 0

    def generator(self, nimg: int, consumer: str) -> torch.Generator:
        """The generator for a use of random numbers."""
        if self.generators is None:
            self._consumers.append(consumer)
            return self._streams.generator(nimg, consumer)
        expected = self._consumers[self._position:self._position + 1]
        if expected != [consumer]:
            raise Uncapturable(f'it draws random numbers for {consumer}, which it did not when it was recorded')
        self._position += 1
        return self.generators[self._position - 1]

    def numpy(self, nimg: int, consumer: str) -> Any:
        """There are none on a device."""
        raise Uncapturable(f'it draws random numbers on the host ({consumer})')

    def rewind(self, nimg: int) -> None:
        """Seeds all generators anew, for a capture or a replay."""
        if self.generators is None:
            self.generators = [torch.Generator(self._streams.device) for _ in self._consumers]
        for generator, consumer in zip(self.generators, self._consumers):
            generator.manual_seed(self._streams.seed_of(nimg, consumer))
        self._position = 0


class Inputs:
    """Memory for what functions of nested tensors and numbers are given, `values`; as large as those of the first time."""

    def __init__(self, like: Any, device: torch.device):
        self.values = map_tensors(partial(_static, device=device), like, numbers=True)
        self.refill(like)

    def refill(self, values: Any) -> None:
        """Copies the numbers of others."""
        for target, source in zip(_leaves(self.values), _leaves(values), strict=True):
            _refill(target, source)


class Graph:
    """A function of nested tensors, captured; calling it replays it.

    Args:
        function: Of what has the structure of `inputs`.
        inputs: What the function is given: the same `Inputs` may serve several graphs, one after the other.
        tape: Of the random numbers that the function draws; the function was called once with it.
        recorder: What captures: `CudaRecorder`.
        nimg: Of which the tape is seeded.
        copies: Copy what comes out? Else it has its numbers until the next replay in the recorder's memory.
    """

    def __init__(self, function: Callable[[Any], Any], inputs: Inputs, tape: Tape, recorder: Any, nimg: int, copies: bool = True):
        self._tape, self._copies = tape, copies
        self._inputs = inputs
        tape.rewind(nimg)
        self._outputs, self._replay = recorder.capture(lambda: self._run(function), tape.generators)

    def _run(self, function):
        """What leaves the function, as nested tensors: result, numbers for statistics, what is kept."""
        with training_stats.held() as reports, _noted() as notes:
            result = function(self._inputs.values)
            values = reports.values()
        self._reports, self._places = reports, [(place, key) for place, key, _ in notes]
        return [result, values, [value for _, _, value in notes]]

    def __call__(self, inputs: Any, nimg: int) -> Any:
        """The function's result for new inputs of the same sizes, its random numbers seeded for `nimg`."""
        self._inputs.refill(inputs)
        self._tape.rewind(nimg)
        self._replay()
        result, values, kept = map_tensors(torch.clone, self._outputs) if self._copies else self._outputs
        self._reports.deliver(values)
        for (place, key), value in zip(self._places, kept):
            place[key] = value
        return result


class CudaRecorder:
    """Captures functions on a CUDA device, all on one stream and in one pool of memory.

    In one pool a graph may use the memory of what another has returned, so a result is good until the next replay.
    """

    _failed: list[Any] = []         # Graphs that were not: torch's allocator of pinned memory may go on to ask them.

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.renew()

    def apart(self) -> CudaRecorder:
        """One with memory of its own."""
        return CudaRecorder(self.device)

    def wait(self) -> None:
        """Until no graph runs any more, and they may be thrown away."""
        torch.cuda.synchronize(self.device)

    def renew(self) -> None:
        """From now on graphs have other memory: torch takes none of a pool whose graphs are all gone."""
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Any]) -> Any:
        """Calls a function as it will be captured, on the stream of captures."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def capture(self, function: Callable[[], Any], generators: list[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        """What a function returns while it is captured, and how to replay it.

        Only then the tensors have their numbers. Raises what the function raises.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        with torch.cuda.stream(self.stream):
            try:                                        # Other threads, which pin memory, may go on.
                graph.capture_begin(pool=self._pool, capture_error_mode='thread_local')
                result = function()
            except BaseException:
                with suppress(RuntimeError):            # What CUDA says of it is no news.
                    self._end(graph)
                    graph.reset()
                raise
            self._end(graph)
        return result, graph.replay

    def _end(self, graph):
        """Ends a capture. After one that CUDA does not accept torch believes that it goes on, until it is told otherwise."""
        try:
            graph.capture_end()
        except RuntimeError:
            self._failed.append(graph)
            give_back(self.device, self._pool)
            graph.reset()
            self.renew()
            with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
                torch.zeros([], device=self.device).add_(1)     # Another capture ends it for torch's default generator.
            raise


def give_back(device: torch.device, pool: tuple[int, int]) -> None:
    """Ends a capture for torch's allocator, which frees nothing for anyone as long as one goes on, and gives the memory back.

    A graph does both, but only if its capture was accepted. There is no public way; a torch without these names keeps the memory.
    """
    end, release = (getattr(torch._C, name, None) for name in ('_cuda_endAllocateToPool', '_cuda_releasePool'))
    if end is not None and release is not None:
        index = torch.cuda.current_device() if device.index is None else device.index
        with suppress(RuntimeError):                    # It had ended: what failed came later.
            end(index, pool)
            release(index, pool)


@contextmanager
def capturable(optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """Within, steps of fused optimizers may be captured: they keep everything on the device. Raises Uncapturable for others."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if not all(group.get('fused') for group in groups):
        raise Uncapturable('its optimizer is not fused')
    before = [group['capturable'] for group in groups]
    for group in groups:            # Only now: it would be saved with the run.
        group['capturable'] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before):
            group['capturable'] = value


def _leaves(value: Any) -> list[Tensor | float]:
    """The tensors and floating-point numbers of a nested value, in order."""
    found: list[Tensor | float] = []
    map_tensors(found.append, value, numbers=True)
    return found


def _static(value: Tensor | float, device: torch.device) -> Tensor:
    """Memory for an input; also for a number."""
    return torch.empty_like(value) if isinstance(value, Tensor) else torch.empty([], device=device)


def _refill(target: Tensor, source: Tensor | float) -> None:
    """Gives an input its numbers."""
    if isinstance(source, Tensor):
        target.copy_(source)
    else:
        target.fill_(source)
