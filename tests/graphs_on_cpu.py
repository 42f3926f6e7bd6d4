"""CUDA graphs where there is no GPU: what is captured are the
operations that reach the device, and a replay repeats them.

As on a GPU a replay runs no Python of the captured function: operations get the same tensors,
generators and numbers as when they were captured, and write their results into the same memory. What
a function reads on the host it cannot repeat, and raises `Uncapturable` for, as CUDA would.
"""
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torch_utils.cuda_graphs import Uncapturable

WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


class Operations(TorchDispatchMode):
    """Notes operations with all their arguments and results; at
    the end nothing has been written to what was there before."""

    def __init__(self):
        super().__init__()
        self.noted, self.before = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        waits = WAITING & set(func.tags)
        if func.overloadpacket in INDEXING:         # By mask, or by positions.
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        if waits:
            raise Uncapturable(f'{func}: the host waits for the device')
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.keep(args[position] if position < len(args) else kwargs.get(argument.name))
        result = func(*args, **kwargs)
        self.noted.append((func, args, kwargs, result))
        return result

    def keep(self, written):
        for tensor in tensors(written):
            storage = tensor.untyped_storage()
            self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def __exit__(self, *error):
        super().__exit__(*error)
        for storage, former in self.before.values():
            if storage.nbytes() == former.nbytes():
                storage.copy_(former)


class CpuRecorder:
    """In place of `CudaRecorder`."""
    device = torch.device('cpu')

    def __init__(self):
        self.num_captured, self.num_replayed, self.num_waits = 0, 0, 0

    def apart(self):
        return self

    def wait(self):
        self.num_waits += 1

    def renew(self):
        pass

    def run(self, function):
        return function()

    def capture(self, function, generators):
        """The function is run, but what it changes is as
        before then: a graph that is captured does nothing."""
        with Operations() as operations:
            result = function()
        self.num_captured += 1
        return result, lambda: self.replay(operations.noted)

    def replay(self, noted):
        self.num_replayed += 1
        with torch.no_grad():
            for func, args, kwargs, result in noted:
                again = func(*args, **kwargs)
                for old, new in zip(tensors(result), tensors(again), strict=True):
                    if not is_same_memory(old, new):
                        old.detach().copy_(new)


def is_same_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def tensors(value):
    """All tensors of a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors(item)] if isinstance(value, list | tuple) else []
