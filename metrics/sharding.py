"""Work on numbered things, shared out among processes and put together again in order.

The numbers 0 ... num-1 are cut into batches; process r of R does batches r, r + R, ...
Since batches are whole, each is computed from the same numbers whatever R is, and results come back in the
order of the numbers: for every R the same bits. They come to process 0, which alone needs them.
"""
from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from tqdm import tqdm

from metrics.names import MetricError
from torch_utils import distributed

_wants_stop: ContextVar[Callable[[], bool]] = ContextVar('wants_stop', default=lambda: False)


class StopAsked(Exception):
    """The work is not wanted any more: `wants_stop`, as
    given to `stoppable`, is true on at least one process."""


@contextmanager
def stoppable(wants_stop: Callable[[], bool]) -> Iterator[None]:
    """Work in this block ends by StopAsked, on all processes at
    the same place, soon after `wants_stop` is true on any."""
    token = _wants_stop.set(wants_stop)
    try:
        yield
    finally:
        _wants_stop.reset(token)


def check_stop() -> None:
    """Raises StopAsked if this process is asked to stop. Long computations inside `together` call this now
    and then.
    """
    if _wants_stop.get()():
        raise StopAsked


def in_order(
    num: int, batch_size: int, compute: Callable[[Sequence[range]], Iterable[torch.Tensor]], title: str = '',
    progress: bool = False,
) -> Iterator[torch.Tensor]:
    """Yields the results for all batches in order, as CPU tensors, on process 0; on the others nothing.

    Args:
        num: How many things there are.
        batch_size: Things per batch; the last one may be smaller.
        compute: Takes the batches of this process (ranges of numbers) and yields one tensor for each.
        title, progress: Of the progress bar, shown by process 0.

    Raises:
        MetricError: On all processes, if `compute` raises it on any, or breaks in another way on another one.
    """
    batches = [range(i, min(i + batch_size, num)) for i in range(0, num, batch_size)]
    rank, num_ranks = distributed.rank(), distributed.world_size()
    mine = iter(compute(batches[rank::num_ranks]))
    is_shown = progress and rank == 0                   # With None, tqdm shows the bar on terminals only.
    with tqdm(total=num, desc=title, leave=False, disable=None if is_shown else True) as bar:
        for i in range(0, len(batches), num_ranks):
            is_due = i + rank < len(batches)
            for result in _together(lambda due=is_due: next(mine).cpu() if due else None, distributed.gather_on_main) or ():
                if result is not None:
                    bar.update(len(result))
                    yield result


def together(function: Callable[[], Any]) -> list[Any]:
    """Calls `function` on every process; returns, on all of them, the list of what it returned, by rank.

    If it raises on one process, it raises on all. If any process is asked to stop, before or meanwhile, all
    raise StopAsked; errors that are raised then are not shown, as they come from the same request to stop.
    """
    return _together(function, distributed.gather_objects)


def _together(function, gather):
    """`together`, with the results as `gather` gives them."""
    outcome, error = None, None
    try:
        check_stop()
        outcome = function()
    # The other processes wait for this one's answer: every error becomes one.
    except Exception as caught:
        error = caught
    is_stopped = error is not None and _wants_stop.get()()
    answers = distributed.gather_objects((None if error is None else _sentence(error), is_stopped))
    if any(is_stopped for _, is_stopped in answers):
        raise StopAsked
    if error is not None:
        raise error
    for rank, (problem, _) in enumerate(answers):
        if problem is not None:
            raise MetricError(f'process {rank}: {problem}')
    return gather(outcome)


def on_main(function: Callable[[], Any]) -> Any:
    """Runs `function` on process 0 alone; returns what it returned there on all processes.

    If it raises, it raises on all.
    """
    return together(lambda: function() if distributed.rank() == 0 else None)[0]


def ahead(items: Iterable) -> Iterator:
    """The same items, the next one being made in a thread while this one is in use."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, iterator, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, iterator, end)
            yield item


def _sentence(error):
    return str(error) if isinstance(error, MetricError) else ''.join(traceback.format_exception_only(error)).strip()
