"""A stand-in for a CUDA device on machines that have none:
the numbers are computed on the CPU, the rules are CUDA's.

A `CudaTensor` is a CPU tensor that says it lies on `cuda:0`. Within
`FakeCuda` an operation raises `Violation` that a GPU would refuse:

- tensors of the CPU and of the GPU meet, but for single numbers in elementwise operations;
- a random number of one device comes from a generator of the other;
- Adam's moments are not laid out in memory as their parameters are.

What is copied to the CPU with `non_blocking` is not a number
until an event that was recorded later has been waited for.

`strict()` is for the steps of training. There it also raises for what would be slow, or not what was meant:

- the host waits for the GPU: it reads a number or an array, or asks for something whose size depends on values;
- a copy to the GPU that is not `non_blocking`, or not from pinned memory;
- a random number from the default generator, which no resumed run would draw again;
- different floating-point types meet (but for a lone number), or there is float64 (but for the three sums of a statistic).

torch's own FakeTensorMode does not serve: a torch without CUDA cannot differentiate what says it lies there.
"""
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from benchmarks.meta_cuda import CPU, CUDA, Generator, SeemsOnGPU, Stream, by_device, forget_constants, tensors_in

READS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__float__, Tensor.__int__,
         Tensor.__index__, Tensor.__contains__}
MOVES = {Tensor.cpu: CPU, Tensor.cuda: CUDA}
RANDOM = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.normal,
          torch.multinomial, torch.bernoulli, Tensor.random_, Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_}
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
ROUNDING = {*COPIES, aten.mul.out}           # Copies, and products that are written in another type.
INDEXING = {aten.index, aten.index_put, aten.index_put_}
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

_strict = False
_under_way = []     # (copy on the CPU, its numbers when it has arrived)


class Violation(Exception):
    """What a GPU would not do, or should not have to."""


@contextmanager
def strict(value=True):
    """Within, the rules for steps of training hold; `strict(False)` lifts them again."""
    global _strict
    before, _strict = _strict, value
    try:
        yield
    finally:
        _strict = before


class Event:
    """Until it is waited for, copies to the CPU that began before it are under way."""

    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        self._under_way = list(_under_way)
        _under_way.clear()

    def synchronize(self):
        for copy, numbers in self._under_way:
            copy.copy_(numbers)

    def elapsed_time(self, end):
        return 1.0


class CudaTensor(SeemsOnGPU):
    """One whose `inner`, a tensor of the CPU, has the numbers."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = list(tensors_in([args, kwargs]))
        check(func, args, tensors)
        known = {id(inner(x)): x for x in tensors}      # What is written in place stays the same object.
        result = func(*mapped(inner, args), **mapped(inner, kwargs))
        return mapped(lambda x: known[id(x)] if id(x) in known else CudaTensor(x), result)


def mapped(function, value):
    """A nested value with all its tensors replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(function, item) for key, item in value.items()}
    return [mapped(function, item) for item in value] if isinstance(value, list | tuple) else value


def inner(x):
    """The numbers of a tensor."""
    return x.inner if isinstance(x, CudaTensor) else x


def check(func, args, tensors):
    """Raises Violation for an operation on CudaTensors that breaks a rule."""
    for x in [x for x in tensors if not isinstance(x, CudaTensor)]:
        lone_number = x.ndim == 0 and torch.Tag.pointwise in func.tags
        carried_over = func in COPIES or (func.overloadpacket in INDEXING and not x.is_floating_point())
        if not (lone_number or (carried_over and not _strict) or is_of_autograd(x)):
            raise Violation(f'{func}: a tensor {list(x.shape)} of the CPU among those of the GPU')
    if func is aten._fused_adam_.default:
        for parameter, *state in zip(*args[:4]):
            if any(x.stride() != parameter.stride() for x in state):
                raise Violation(f'{func}: a parameter {list(parameter.shape)} and its moments differ in memory format')
    if _strict:
        check_strictly(func, args, tensors)


def is_of_autograd(x):
    """Is it one of the zeros that autograd makes for gradients
    that there are not? On a GPU they are made there."""
    return torch._C._current_graph_task_id() != -1 and (x._is_zerotensor() or x.is_meta or not x.any())


def check_strictly(func, args, tensors):
    """The rules for steps of training."""
    waits = WAITING & set(func.tags)
    if func.overloadpacket in INDEXING:         # By mask, or by positions.
        waits = any(index is not None and index.dtype == torch.bool for index in args[1])
    if waits:
        raise Violation(f'{func}: the host waits for the GPU')
    dtypes = {x.dtype for x in tensors if x.is_floating_point() and x.numel() > 1}
    if len(dtypes) > 1 and func not in ROUNDING and func.namespace == 'aten':
        raise Violation(f'{func}: {" and ".join(sorted(map(str, dtypes)))} meet')
    if any(x.dtype == torch.float64 and x.numel() > 3 for x in tensors):
        raise Violation(f'{func}: float64')


class FakeCuda(TorchFunctionMode):
    """Within, this machine seems to have one GPU."""

    def __enter__(self):
        self._stack = ExitStack()
        for name, value in dict(is_available=lambda: True, device_count=lambda: 1, set_device=lambda device: None,
                                current_stream=lambda device=None: None, Event=Event, empty_cache=lambda: None,
                                is_current_stream_capturing=lambda: False,
                                get_device_capability=lambda device=None: (8, 0), get_device_name=lambda device=None: 'GPU',
                                max_memory_allocated=lambda device=None: 2**30, reset_peak_memory_stats=lambda device: None,
                                get_rng_state=lambda device: None, set_rng_state=lambda state, device: None).items():
            self._stack.enter_context(mock.patch(f'torch.cuda.{name}', value))
        self._stack.enter_context(mock.patch('torch.accelerator.current_stream', lambda device=None: Stream()))
        self._stack.enter_context(mock.patch('torch.optim.Optimizer._group_tensors_by_device_and_dtype', by_device))
        self._stack.enter_context(mock.patch('torch.Generator', Generator))
        self._stack.enter_context(mock.patch('training.data.stages.DataLoader', PinningLoader))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()
        forget_constants()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in READS and isinstance(args[0], CudaTensor):
            if _strict:
                raise Violation(f'{func.__name__}: the host waits for the GPU')
            return func(args[0].inner, *args[1:], **kwargs)
        if func in MOVES:
            return move(args[0], MOVES[func], False)
        if func is Tensor.pin_memory:
            return pin_memory(args[0])
        if func is Tensor.to:
            return to(*args, **kwargs)
        where = kwargs.get('device')
        makes_cuda = where is not None and torch.device(where).type == 'cuda'
        if makes_cuda:
            kwargs['device'] = CPU
            if _strict and func in (torch.tensor, torch.as_tensor):
                raise Violation(f'{func.__name__} copies numbers to the GPU')
        if func in RANDOM:
            check_generator(func, kwargs.get('generator'), makes_cuda or any(isinstance(x, CudaTensor) for x in args))
        result = func(*args, **kwargs)
        return mapped(CudaTensor, result) if makes_cuda else result




def check_generator(func, generator, on_cuda):
    """Raises Violation unless a random number is drawn where it is wanted."""
    if generator is not None and (generator.device.type == 'cuda') != on_cuda:
        raise Violation(f'{func.__name__} on the {"GPU" if on_cuda else "CPU"} with a generator of {generator.device}')
    if _strict and generator is None and on_cuda:
        raise Violation(f'{func.__name__} from the default generator')


def to(x, *args, **kwargs):
    """`Tensor.to`, in all its forms."""
    if args and isinstance(args[0], Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    device = args[0] if args and isinstance(args[0], str | torch.device) else kwargs.get('device')
    target = x.device if device is None else torch.device(device)
    if args and args[0] is device:
        args = CPU, *args[1:]
    elif device is not None:
        kwargs['device'] = CPU
    if target.type == x.device.type:
        return Tensor.to(x, *args, **kwargs)
    non_blocking = kwargs.pop('non_blocking', False)
    return move(x, target, non_blocking, lambda numbers: Tensor.to(numbers, *args, **kwargs))


def move(x, target, non_blocking, convert=lambda numbers: numbers):
    """A copy of a tensor's numbers on another device."""
    if x.device.type == target.type:
        return x
    pinned = target.type == 'cpu' or hasattr(x, 'is_in_pinned_memory')
    if _strict and not (non_blocking and pinned):
        raise Violation(f'a copy to the {"GPU" if target.type == "cuda" else "CPU"} that the host waits for')
    copy = convert(inner(x).detach()).clone()
    if target.type == 'cuda':
        return CudaTensor(copy)
    if non_blocking:
        _under_way.append((copy, copy.clone()))
        copy.fill_(float('nan'))
    return copy


def pin_memory(x):
    """The same tensor as if in pinned memory; itself if it is there."""
    if not hasattr(x, 'is_in_pinned_memory'):
        x = x.clone()
        x.is_in_pinned_memory = True
    return x


class PinningLoader(DataLoader):
    """A loader that pins what it loads if it is asked to, although there is no GPU."""

    def __init__(self, *args, pin_memory=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.pins = pin_memory

    def __iter__(self):
        for batch in super().__iter__():
            yield [pin_memory(x) for x in batch] if self.pins else batch
