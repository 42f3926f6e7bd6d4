"""Optimizers of torch: without what they do for torch.compile, and with steps that the device may leave out.

An optimizer of torch keeps its methods out of compiled graphs.
The wrappers that see to it import torch._dynamo when they are first called, which takes a second; that is a
third of the time from the start of `train.py` to the end of the first iteration (benchmarks/start_up.py).
Nothing here compiles an optimizer.
"""
import inspect
from functools import cache

import torch

UNCHANGED = ('add_param_group', 'zero_grad', 'state_dict', 'load_state_dict')


@cache
def untraced(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same class of optimizer with the methods that lie within the wrappers: it computes the same."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in UNCHANGED}
    step = torch.no_grad()(inspect.unwrap(kind.step))       # Its wrapper switches gradients off, too.
    return type(kind.__name__, (kind,), {**methods, 'step': step})


@torch.no_grad()
def step_unless(is_broken: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimizer; none if `is_broken` (a boolean on the device, which the host does not read).

    Fused optimizers leave the step out themselves, as they do for gradient scalers:
    weights and moments stay as they are. For others the gradient counts as zero.
    """
    if all(group.get('fused') for group in optimizer.param_groups):
        optimizer.found_inf = is_broken.float()
    else:
        for group in optimizer.param_groups:
            for parameter in group['params']:
                parameter.grad.masked_fill_(is_broken, 0)
    optimizer.step()
