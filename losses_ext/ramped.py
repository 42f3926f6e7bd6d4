"""Weights that go from one value to another while a run trains (training/ramp.py)."""
from torch import Tensor

from training.loss import StepContext


def ramped(first: float, last: float | None, ctx: StepContext) -> float | Tensor:
    """The weight in this iteration; without a last value it stays."""
    return first if last is None else first + ctx.ramp * (last - first)
