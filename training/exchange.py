"""Gradients averaged over the processes while the backward pass still computes others.

Gradients go in buckets of a fixed order, the network's last layers first, since their gradients are ready first. A bucket is
sent when all its gradients have been added to as often as in the former phase of the same kind; what is left, and all of a kind
that was not seen before, is sent at the end. So every process sends the same buckets in the same order, also one that ran out of
memory and repeats the phase. What comes back is the gradient, without a copy.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torch_utils import distributed
from training.player import in_layout_of

BUCKET_BYTES = 2 ** 24          # Fewer, larger ones leave more to wait for in the end; smaller ones are mostly latency.


@dataclass
class _Bucket:
    """Parameters whose gradients travel together."""
    parameters: list[Tensor] = field(default_factory=list)
    num_bytes: int = 0
    waits_for: int = 0                          # So many of them are not ready.
    mean: distributed.Mean | None = None        # On its way.


class GradientExchange:
    """The exchange of a run. `num_early` counts the buckets that were sent before the backward pass was through."""

    def __init__(self, bucket_bytes: int | None = None, travels_as: torch.dtype | None = None):
        self.travels_as = travels_as        # The type of what is sent, if it is not that of the gradients.
        self._bucket_bytes = BUCKET_BYTES if bucket_bytes is None else bucket_bytes
        self._known: dict[Any, dict[Tensor, int]] = {}     # By kind of phase: how often each gradient is added to.
        self._counts: Counter = Counter()
        self._buckets: list[_Bucket] = []           # Of the present phase.
        self._bucket_of: dict[Tensor, _Bucket] = {}
        self.num_early = 0

    @contextmanager
    def watching(self, kind: Any, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Within, gradients of these parameters are sent when they are ready. Phases of one `kind` add up alike; None: there is
        more to come after the block.
        """
        if not any(bucket.mean for bucket in self._buckets):        # Else the phase is repeated, and what is sent is right.
            self._buckets = _cut(parameters, self._bucket_bytes)
        self._counts, expected = Counter(), self._known.get(kind)
        if expected is not None and not all(p in expected for p in parameters):     # A player has got new ones.
            expected = None
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        for bucket in self._buckets:
            bucket.waits_for = sum(expected is None or expected[p] > 0 for p in bucket.parameters)
        hooks = [p.register_post_accumulate_grad_hook(partial(self._added, expected)) for p in parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if kind is not None and all(self._counts[p] or p.grad is None for p in parameters):
            self._known[kind] = {p: self._counts[p] for p in parameters}

    def finish(self) -> None:
        """Sends what is left, and puts the means in the place of the gradients."""
        for bucket in self._buckets:
            bucket.mean = bucket.mean or _send(bucket, self.travels_as)
        for bucket in self._buckets:
            for parameter, grad in zip(bucket.parameters, bucket.mean.tensors()):
                parameter.grad = grad
        self._buckets = []

    def _added(self, expected, parameter):
        """A gradient has been added to."""
        self._counts[parameter] += 1
        if expected is None:
            return
        mine = self._bucket_of[parameter]
        assert mine.mean is None or self._counts[parameter] <= expected[parameter], (
            f'a gradient of {list(parameter.shape)} was added to once more than in the phase before, when it had been sent')
        if self._counts[parameter] != expected[parameter]:
            return
        mine.waits_for -= 1
        for bucket in self._buckets:                # All processes send in the same order.
            if bucket.waits_for:
                break
            if bucket.mean is None:
                bucket.mean = _send(bucket, self.travels_as)
                self.num_early += 1


def _cut(parameters, bucket_bytes):
    """Buckets of all parameters, the last ones first."""
    buckets: list[_Bucket] = []
    for parameter in reversed(parameters):
        fits = buckets and buckets[-1].num_bytes < bucket_bytes and buckets[-1].parameters[0].dtype == parameter.dtype
        if not fits:
            buckets.append(_Bucket())
        buckets[-1].parameters.append(parameter)
        buckets[-1].num_bytes += parameter.numel() * parameter.element_size()
    return buckets


@torch.no_grad()
def _send(bucket, travels_as):
    """Starts the exchange of a bucket."""
    grads = [torch.zeros_like(p) if p.grad is None else in_layout_of(p, p.grad) for p in bucket.parameters]
    return distributed.Mean(grads, travels_as)
