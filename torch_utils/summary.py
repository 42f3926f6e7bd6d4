"""A table of what a module is made of: parameters, buffers and output of each of its parts."""
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from torch_utils.nested import tensors_in


class _Call(NamedTuple):
    """One finished call of one submodule; `name` is '' for the module itself."""
    name: str
    module: torch.nn.Module
    outputs: list[torch.Tensor]


def print_module_summary(
    module: torch.nn.Module,
    inputs: Sequence,
    max_nesting: int = 3,
    skip_redundant: bool = True,
) -> Any:
    """Runs the module once and prints one line per submodule, in the order in which they finish.

    Leaves everything as it was: the pass is in evaluation mode and without gradients,
    and the random generators of the CPU and of the module's CUDA devices are put back.

    Args:
        module: Any module.
        inputs: Positional arguments of its forward.
        max_nesting: Submodules deeper than this have no line;
            what they hold is counted in the line above them.
        skip_redundant: Leave out submodules that hold nothing of their own
            and return what another line shows.

    Returns:
        The output of the module.
    """
    calls, outputs = _trace(module, inputs, max_nesting)
    print(_table(type(module).__name__, _rows(calls, skip_redundant)))
    return outputs


def _trace(module, inputs, max_nesting):
    """The calls of all submodules down to `max_nesting`, and the module's output."""
    calls = []

    def record(name, submodule, _inputs, outputs):
        calls.append(_Call(name, submodule, list(tensors_in(outputs))))

    hooks = [
        submodule.register_forward_hook(partial(record, name))
        for name, submodule in module.named_modules() if _depth(name) <= max_nesting
    ]
    try:
        with torch.no_grad(), _evaluation_mode(module), _same_random_state(module):
            outputs = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, outputs


def _depth(name):
    return len(name.split('.')) if name else 0


@contextmanager
def _evaluation_mode(module):
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


def _same_random_state(module):
    tensors = [*module.parameters(), *module.buffers()]
    return torch.random.fork_rng(devices={t.device for t in tensors if t.device.type == 'cuda'})


def _rows(calls, skip_redundant):
    """One row of strings per line; a tensor is counted in the first line that holds it."""
    counted, returned = set(), set()
    total_params = total_buffers = 0
    for name, module, outputs in calls:
        params = [t for t in module.parameters() if id(t) not in counted]
        buffers = [t for t in module.buffers() if id(t) not in counted]
        fresh = [t for t in outputs if id(t) not in returned]
        counted.update(map(id, params + buffers))
        returned.update(map(id, outputs))
        if skip_redundant and name and not (params or buffers or fresh):
            continue
        num_params, num_buffers = (sum(t.numel() for t in tensors) for tensors in (params, buffers))
        total_params += num_params
        total_buffers += num_buffers
        yield [name or '<top level>', _count(num_params), _count(num_buffers),
               ' '.join(str(list(t.shape)) for t in outputs) or '-',
               ' '.join(dict.fromkeys(str(t.dtype).removeprefix('torch.') for t in outputs)) or '-']
    yield ['Total', str(total_params), str(total_buffers), '-', '-']


def _count(number):
    return str(number) if number else '-'


def _table(title, rows):
    rows = [[title, 'Parameters', 'Buffers', 'Output shape', 'Datatype'], *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ['-' * width for width in widths]
    rows = [rows[0], rule, *rows[1:-1], rule, rows[-1]]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows) + '\n'
