"""Counts the arithmetic of a training iteration, and measures how fast this machine could do it at best.

Counted are dense convolutions and matrix products, two operations per multiplication (as
`torch.utils.flop_counter` counts, but right for weight gradients of several groups); filters, which have one
group per channel, and elementwise arithmetic are overhead.
The attainable time of that is what the same operations take

    convolutions    at the rate of plain 3x3 convolutions of the network's own sizes, each layer with its input and weight
                    gradient, in the faster of the two memory formats
    matrices        at the rate of one large square product

per type of number, on the same threads, measured with the same clock in the same run.
Convolutions with a stride and transposed ones stand there as the plain one that multiplies as often.
"""
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
KINDS = {'forward': None, 'input gradient': (True, False, False), 'weight gradient': (False, True, False)}
Size = tuple[int, int, int, int]            # Batch, input channels, output channels, pixels along a side.


class FlopCount(TorchDispatchMode):
    """Within, counts operations by ('convolution' or 'matrix', dtype)
    and calls of tensor operations other than views, and notes the sizes of 3x3 convolutions.
    """

    def __init__(self):
        super().__init__()
        self.flops: Counter[tuple[str, torch.dtype]] = Counter()
        self.calls = 0                          # On a GPU each is a launch, or a few.
        self.sizes: dict[Size, None] = {}       # In order of appearance.

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        self.calls += not any(result.alias_info and not result.alias_info.is_write
                              for result in func._schema.returns)
        if op in CONVOLUTIONS:
            self._count_convolution(op, args, out)
        elif op in flop_registry:
            self.flops['matrix', args[0].dtype] += flop_registry[op](*args, **(kwargs or {}), out_val=out)
        return out

    def _count_convolution(self, op, args, out):
        is_backward = op is aten.convolution_backward
        x, w = args[1:3] if is_backward else args[:2]
        y = args[0] if is_backward else out
        transposed, groups = (args[7], args[9]) if is_backward else (args[6], args[8])
        if groups == x.shape[1] and groups > 1:         # A filter.
            return
        pixels = (x if transposed else y).shape[2:]
        num_results = sum(args[10][:2]) if is_backward else 1
        self.flops['convolution', x.dtype] += num_results * 2 * len(x) * pixels.numel() * w.numel()
        if not is_backward and w.shape[2:] == (3, 3):
            channels = (w.shape[0], w.shape[1]) if transposed else (w.shape[1], w.shape[0])
            self.sizes[(len(x), *channels, pixels[0])] = None


class AttainableRate:
    """Operations per second of convolutions of given sizes, and of matrix products, for one dtype.

    `measure` may be called several times, at different moments of a run;
    rates follow from the medians of all samples.
    """

    def __init__(self, sizes: list[Size], dtype: torch.dtype, clock: Callable[[], float],
                 device: torch.device = torch.device('cpu')):  # noqa: B008 (a constant)
        self._sizes = sizes
        self._dtype = dtype
        self._device = device
        self._calls = 1 if device.type == 'cpu' else CALLS_ON_GPU
        self._matrix_size = MATRIX_SIZE if device.type == 'cpu' else MATRIX_SIZE_ON_GPU
        self._clock = clock
        self._samples: dict = {}

    def measure(self, repeats: int = 3) -> None:
        """Adds samples."""
        for key in itertools.product(self._sizes, KINDS, LAYOUTS):
            self._sample(key, _convolution(*key, self._dtype, self._device), repeats)
        self._sample('matrix', _matrix(self._matrix_size, self._dtype, self._device), repeats)

    def _sample(self, key, run, repeats):
        run()
        for _ in range(repeats):
            begin = self._clock()
            for _ in range(self._calls):
                run()
            self._samples.setdefault(key, []).append((self._clock() - begin) / self._calls)

    def seconds(self, size: Size, kind: str, layout: torch.memory_format) -> float:
        """Of one convolution."""
        return statistics.median(self._samples[size, kind, layout])

    @property
    def convolution(self) -> float:
        """Of all sizes and kinds together, every one in its faster memory format."""
        best = [min(self.seconds(size, kind, layout) for layout in LAYOUTS)
                for size, kind in itertools.product(self._sizes, KINDS)]
        return len(KINDS) * sum(map(_flops, self._sizes)) / sum(best)

    @property
    def fastest(self) -> float:
        """Of the one convolution that is fastest."""
        return max(_flops(key[0]) / self.seconds(*key)
                   for key in itertools.product(self._sizes, KINDS, LAYOUTS))

    @property
    def matrix(self) -> float:
        """Of the product of two large square matrices."""
        return 2 * self._matrix_size ** 3 / statistics.median(self._samples['matrix'])


MATRIX_SIZE, MATRIX_SIZE_ON_GPU = 1024, 8192
CALLS_ON_GPU = 20           # Between two looks at the clock: a look waits, and a call takes microseconds.


def attainable_seconds(flops: Counter, rates: dict[torch.dtype, AttainableRate]) -> float:
    """What counted operations take at the attainable rates."""
    return sum(num / getattr(rates[dtype], kind) for (kind, dtype), num in flops.items())


def clock_of(threads: int, device: torch.device) -> Callable[[], float]:
    """Processor time for one thread, steady on a shared machine; else the time on the wall,
    on a GPU when all is done."""
    if device.type == 'cpu':
        return time.process_time if threads == 1 else time.perf_counter

    def when_done():
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return when_done


def _flops(size: Size) -> int:
    batch, in_channels, out_channels, res = size
    return 2 * batch * in_channels * out_channels * res ** 2 * 9


def _convolution(size, kind, layout, dtype, device) -> Callable[[], Tensor]:
    batch, in_channels, out_channels, res = size

    def tensor(*shape):
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
    x, y = tensor(batch, in_channels, res, res), tensor(batch, out_channels, res, res)
    w = tensor(out_channels, in_channels, 3, 3) / math.sqrt(in_channels * 9)
    form = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    if kind == 'forward':
        return lambda: aten.convolution(x, w, None, *form)
    return lambda: aten.convolution_backward(y, x, w, None, *form, KINDS[kind])


def _matrix(size, dtype, device) -> Callable[[], Tensor]:
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return lambda: a @ b
