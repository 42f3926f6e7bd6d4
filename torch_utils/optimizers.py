"""Optimizers of torch without what they do for torch.compile.

An optimizer of torch keeps its methods out of compiled graphs. The wrappers that see to it import torch._dynamo when they
are first called, which takes a second; that is a third of the time from the start of `train.py` to the end of the first
iteration (benchmarks/start_up.py). Nothing here compiles an optimizer.
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
