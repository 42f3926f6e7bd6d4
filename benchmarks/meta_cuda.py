"""A CUDA device without numbers: counts the kernels that a GPU would be asked to run,
and the bytes that they move.

Within `MetaCuda` this machine seems to have one GPU. A `MetaTensor` says that it lies there and has a shape,
a type and a memory format, but no numbers, so that a training step at full size takes seconds. Every
operation that reaches the device is noted with the line of this project that called for it:

    launches    one for most operations; `LAUNCHES` has those that take more, as read in torch's sources
    bytes       every tensor that is read or written, once; places that a broadcast repeats count once

What a library does inside of one call (workspaces of convolutions, a second kernel that adds up parts)
is not seen.
"""
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torch_utils.nested import tensors_in

ROOT = Path(__file__).parent.parent
CUDA, CPU, META = torch.device('cuda', 0), torch.device('cpu'), torch.device('meta')
READS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__float__, Tensor.__int__,
         Tensor.__index__}
VALUES = {torch.int64: 7, torch.int32: 7, torch.bool: True, torch.float16: 0.5, torch.bfloat16: 0.5, torch.float32: 0.5,
          torch.float64: 0.5}                           # What a read number is.
FREE = {'empty', 'empty_like', 'new_empty', 'empty_strided', 'new_empty_strided', 'detach', 'alias', 'lift_fresh',
        '_unsafe_view', '_reshape_alias', 'set_', 'resize_', 'is_pinned', 'is_same_size'}
DRAWS = {'random_', 'normal_', 'uniform_', 'bernoulli_'}
# Of kernels for lists of tensors: elements of a block's share, shares of a launch.
CHUNK, CHUNKS = 2 ** 16, 320


def of_list(tensors, most):
    """Launches for a list of tensors, at most so many of them in each."""
    shares = sum(-(-x.numel() // CHUNK) for x in tensors)
    return max(1, -(-shares // CHUNKS), -(-len(tensors) // most))


LAUNCHES = {                        # {operation: (arguments) -> kernels}
    'convolution_backward': lambda args: sum(map(bool, args[10])),
    'grid_sampler_2d_backward': lambda args: 2,         # Zeros first, then sums.
    'reflection_pad2d_backward': lambda args: 2,
    'affine_grid_generator': lambda args: 9,
    '_fused_adam_': lambda args: of_list(args[0], 36),
    '_foreach_norm': lambda args: 2 * of_list(args[0], 110),
    'sort': lambda args: 4, 'argsort': lambda args: 4, 'topk': lambda args: 4,
    '_fft_r2c': lambda args: 2, '_fft_c2r': lambda args: 2, '_fft_c2c': lambda args: 2,
    'layer_act_grad': lambda args: 2, 'layer_act_grad2': lambda args: 2,        # And sums over tiles.
    'act_filter_grad': lambda args: 2,
    'diag_embed': lambda args: 2, 'cosine_similarity': lambda args: 8,
}


class Meter:
    """What has been counted."""

    def __init__(self):
        self.launches, self.bytes, self.waits = Counter(), Counter(), Counter()     # By (operation, place).

    def note(self, name, launches, size):
        """Counts one operation."""
        key = name, _place()
        self.launches[key] += launches
        self.bytes[key] += size

    def note_wait(self):
        """The host waits for the device."""
        self.waits[_place()] += 1

    def total(self):
        """(launches, bytes, waits)."""
        return sum(self.launches.values()), sum(self.bytes.values()), sum(self.waits.values())


meter = Meter()


def restart():
    """Begins to count anew; returns the meter."""
    global meter
    meter = Meter()
    return meter


def _place():
    """The line of this project that asked for the operation."""
    frame = sys._getframe(2)
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and 'site-packages' not in path.parts and path != Path(__file__):
            return f'{path.relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}'
        frame = frame.f_back
    return '?'


def size_of(x):
    """Bytes of the places of a tensor that lie apart."""
    places = 1
    for size, stride in zip(x.shape, x.stride()):
        places *= size if stride else min(size, 1)
    return places * x.element_size()


def mapped(function, value):
    """A nested value with all its tensors replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(function, item) for item in value) if type(value) in (list, tuple) else value
    return value


def inner(x):
    """The meta tensor inside."""
    return x.inner if isinstance(x, MetaTensor) else x


def on_meta(x):
    """A tensor among the arguments of an operation on the device; a lone number of the CPU may stay."""
    return x.inner if isinstance(x, MetaTensor) else x if x.ndim == 0 or x.is_meta else x.to(META)


class SeemsOnGPU(torch.Tensor):
    """Base of tensors that say they lie on the GPU; `inner` is the one that they stand for."""
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        with torch.inference_mode(inner.is_inference()):
            tensor = torch.Tensor._make_wrapper_subclass(
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        tensor.inner = inner
        return tensor

    def __tensor_flatten__(self):
        return ['inner'], None

    @classmethod
    def __tensor_unflatten__(cls, tensors, _context, _size, _stride):
        return cls(tensors['inner'])

    def __repr__(self):
        return f'{type(self).__name__}({list(self.shape)}, {self.dtype})'


class MetaTensor(SeemsOnGPU):
    """One without numbers."""
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        args = tuple(None if isinstance(a, torch.Generator) else a for a in args)
        kwargs = {key: value for key, value in (kwargs or {}).items() if not isinstance(value, torch.Generator)}
        tensors = list(tensors_in([args, kwargs]))
        known = {id(inner(x)): x for x in tensors}      # What is written in place stays the same object.
        if name == '_local_scalar_dense':
            meter.note_wait()
            return VALUES[tensors[0].dtype]
        if kwargs.get('device') is not None:
            target = torch.device(kwargs['device']).type
            if target == 'cpu' and torch._C._current_graph_task_id() == -1:
                return torch.full(tensors[0].shape, VALUES[tensors[0].dtype], dtype=tensors[0].dtype)
            kwargs['device'] = META
        in_place_on_lists = name.startswith(('_foreach', '_fused')) and name.endswith('_')
        if in_place_on_lists:
            result = None
        elif name in DRAWS:
            result = inner(args[0])
        else:
            result = func(*mapped(on_meta, args), **mapped(on_meta, kwargs))
        if name not in FREE and not func.is_view:
            launches = LAUNCHES[name](args) if name in LAUNCHES else \
                of_list(args[0], 110 if name.endswith('_') else 48) if name.startswith('_foreach') else 1
            meter.note(name, launches, moved(name, args, tensors, result, launches))
        return mapped(lambda x: known[id(x)] if id(x) in known else MetaTensor(x) if x.is_meta else x, result)


def moved(name, args, tensors, result, launches):
    """Bytes that an operation reads and writes."""
    read = tensors[1:] if name == 'copy_' else tensors
    size = sum(map(size_of, {id(x): x for x in read}.values())) + sum(map(size_of, tensors_in(result)))
    if result is None:  # Lists, in place: Adam writes three of them, others one.
        size += sum(map(size_of, args[0])) * (3 if name == '_fused_adam_' else 1)
    if name == 'convolution_backward':  # The output's gradient is read by each of the kernels.
        size += (launches - 1) * size_of(args[0])
    return size


class Generator(torch.Generator):
    """A generator that says it belongs to the device."""

    def __new__(cls, device='cpu'):
        return super().__new__(cls)

    def __init__(self, device='cpu'):
        self.device_type = torch.device(device).type

    @property
    def device(self):
        """Where it draws."""
        return CUDA if self.device_type == 'cuda' else CPU


class Event:
    """Waiting for it is noted."""

    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        """Nothing happens."""

    def synchronize(self):
        """The host waits."""
        meter.note_wait()


class Stream:
    """Optimizers ask whether it records a graph."""

    def is_capturing(self):
        """It does not."""
        return False


class MetaCuda(TorchFunctionMode):
    """Within, this machine seems to have one GPU."""

    def __enter__(self):
        self._stack = ExitStack()
        for name, value in dict(
                is_available=lambda: True, device_count=lambda: 1, set_device=lambda device: None, Event=Event,
                current_stream=lambda device=None: None, empty_cache=lambda: None, current_device=lambda: 0,
                get_device_capability=lambda device=None: (9, 0), get_device_name=lambda device=None: 'none',
                is_current_stream_capturing=lambda: False).items():
            self._stack.enter_context(mock.patch(f'torch.cuda.{name}', value))
        self._stack.enter_context(mock.patch('torch.accelerator.current_stream', lambda device=None: Stream()))
        self._stack.enter_context(mock.patch('torch.optim.Optimizer._group_tensors_by_device_and_dtype', by_device))
        self._stack.enter_context(mock.patch('torch.Generator', Generator))
        self._stack.enter_context(mock.patch('torch.nn.utils.get_total_norm', total_norm))
        return super().__enter__()

    def __exit__(self, *error):
        from torch_utils import training_stats
        super().__exit__(*error)
        self._stack.close()
        forget_constants()
        training_stats.reset()                          # Nobody could read them any more.

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in READS and isinstance(args[0], MetaTensor):
            meter.note_wait()
            value = VALUES[args[0].dtype]
            return torch.full(args[0].shape, value).tolist() if func is Tensor.tolist else value
        if func is Tensor.pin_memory:
            return args[0]
        if func in (Tensor.cpu, Tensor.cuda):
            return move(args[0], 'cuda' if func is Tensor.cuda else 'cpu', False)
        if func is Tensor.to:
            return to(*args, **kwargs)
        where = kwargs.get('device')
        if where is None or torch.device(where).type != 'cuda':
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor):
            return args[0] if isinstance(args[0], MetaTensor) else move(func(*args, **{**kwargs, 'device': CPU}), 'cuda', False)
        result = func(*args, **{**kwargs, 'device': META, **({'generator': None} if 'generator' in kwargs else {})})
        if func not in (torch.empty, torch.empty_like, torch.empty_strided):
            meter.note(func.__name__, 1, sum(map(size_of, tensors_in(result))))
        return mapped(MetaTensor, result)


def forget_constants():
    """Constants that are kept by the device that they lie on must not outlive a stand-in for it."""
    import losses_ext
    from torch_utils import misc
    daco = sys.modules[losses_ext.load(losses_ext.REG_TYPES['daco']).__module__]
    for constants in (misc._constant, daco.band_map):
        constants.cache_clear()


_by_device = torch.optim.Optimizer._group_tensors_by_device_and_dtype


def by_device(*args, **kwargs):
    """How optimizers sort their tensors: by the devices that these say they lie on,
    which is more than C++ knows."""
    return {(group[0][0][0].device, dtype): group for (_, dtype), group in _by_device(*args, **kwargs).items()}


def total_norm(tensors, *args, **kwargs):
    """`torch.nn.utils.get_total_norm`, which puts its list in order by tables of devices
    that know no such one."""
    tensors = list(tensors)
    meter.note('get_total_norm', 2 * of_list(tensors, 110) + 2, sum(map(size_of, tensors)))
    return torch.zeros([], device=CUDA)


def to(x, *args, **kwargs):
    """`Tensor.to`, in all its forms."""
    if args and isinstance(args[0], Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    device = args[0] if args and isinstance(args[0], str | torch.device) else kwargs.get('device')
    target = (x.device if device is None else torch.device(device)).type
    if device is not None and args and args[0] is device:
        args = args[1:]
    kwargs.pop('device', None)
    non_blocking = kwargs.pop('non_blocking', False) or any(arg is True for arg in args)
    args = [arg for arg in args if isinstance(arg, torch.dtype)]
    x = Tensor.to(x, *args, **kwargs) if args or kwargs else x
    return move(x, target, non_blocking)


def move(x, target, non_blocking):
    """A copy on another device."""
    if x.device.type == target:
        return x
    meter.note('copy between devices', 1, size_of(x))
    if target == 'cuda':
        return MetaTensor(x.detach().to(META))
    if not non_blocking:
        meter.note_wait()
    return torch.full(x.shape, VALUES[x.dtype], dtype=x.dtype)
