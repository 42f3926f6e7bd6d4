"""Which implementation an operator runs on: plain tensor operations, or the compiled ones of csrc/.

Every operator that has a compiled implementation takes `impl`:

    auto      what `set_default` says; at first: compiled where possible, else plain tensor operations, said once with
              the reason
    ref       plain tensor operations
    native    compiled, or an error with the reason ('cuda' is another word for it)

Nothing is built or loaded before an operator is called.
"""
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from torch_utils.launcher import ask
from torch_utils.ops import build, nvrtc
from torch_utils.ops.trial import try_layers, try_operators

IMPLS = ('auto', 'ref', 'native', 'cuda')
DEFAULTS = {'auto': 'auto', 'native': 'native', 'reference': 'ref'}
COMPILED_DTYPES = {
    'cpu': (torch.float32, torch.float64, torch.bfloat16),
    'cuda': (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}
WAY = 'DNNLIB_OPS_CUDA'                 # The environment's name for how operators for GPUs are to be compiled.
WAYS = 'any', 'nvcc', 'nvrtc'

T = TypeVar('T')

_default = 'auto'


def set_default(name: str) -> None:
    """Says what `impl='auto'` means from now on: 'auto', 'native' or 'reference'."""
    global _default
    assert name in DEFAULTS, f'{name!r}: must be one of {", ".join(DEFAULTS)}'
    _default = DEFAULTS[name]


def check_default(device: str, dtypes: Iterable[torch.dtype] = (torch.float32,), num_processes: int = 1) -> None:
    """Raises ValueError, with the reason, if the default is 'native' and there is none for a device and its dtypes.

    On a GPU they are built and tried. Where several processes will compute, one that ends then does so: this one would
    hold memory of the first GPU as long as they run.
    """
    if _default == 'native':
        reason = ask(why_none, device, list(dtypes), num_processes=num_processes if device == 'cuda' else 1)
        if reason is not None:
            raise ValueError(f'no compiled operators: {reason}')


def why_none(device: str, dtypes: Iterable[torch.dtype]) -> str | None:
    """The first reason, of all dtypes, why there are no compiled operators."""
    return next(filter(None, (why_not(device, dtype) for dtype in dtypes)), None)


@contextmanager
def default(name: str) -> Iterator[None]:
    """`set_default` for the length of a `with` block."""
    global _default
    before = _default
    set_default(name)
    try:
        yield
    finally:
        _default = before


def use_native(impl: str, x: Tensor) -> bool:
    """True if an operator called with this `impl` on this tensor is to run its compiled implementation, which is then
    loaded. Raises RuntimeError if it is asked for by name and cannot be had.
    """
    assert impl in IMPLS, f'impl={impl!r}: must be one of {", ".join(IMPLS)}'
    return _is_native(_default if impl == 'auto' else impl, x.device.type, x.dtype)


def _is_native(impl, device, dtype):
    if impl == 'ref':
        return False
    reason = why_not(device, dtype)
    if reason is None:
        return True
    if impl != 'auto':
        raise RuntimeError(f'no compiled operator: {reason}')
    say_once(reason)
    return False


# torch.compile is to call this, while it traces, instead of tracing how a library is built and loaded. The public way to say
# so, torch.compiler.assume_constant_result, sets the same attribute, but imports the compiler, which takes a second.
_is_native._dynamo_marked_constant = True


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """The reason why there are no compiled operators for tensors like this, or None if there are (and are loaded)."""
    if device not in COMPILED_DTYPES:
        return f'there are none for the device {device}'
    if dtype not in COMPILED_DTYPES[device]:
        return f'there are none for {str(dtype).removeprefix("torch.")} on {device}'
    return load(device)


@cache
def load(device: str) -> str | None:
    """Loads the libraries for a device, once; returns why that is impossible, or None."""
    try:
        if device == 'cuda':
            load_for_cuda()
            try_operators(device, COMPILED_DTYPES[device])
        else:
            load_library('cpu')
    except build.Unavailable as reason:
        return str(reason)
    return None


@cache
def has_layer_act(device: str) -> bool:
    """Does the operator for whole layers, which others can stand in for, compute what it should? Says so if not."""
    try:
        try_layers(device, COMPILED_DTYPES[device])
    except build.Unavailable as reason:
        warnings.warn(f'layers are activated by several kernels instead of one: {reason}', RuntimeWarning, stacklevel=2)
        return False
    return True


has_layer_act._dynamo_marked_constant = True


def load_for_cuda() -> None:
    """Loads what nvcc and a C++ compiler have built or, where they cannot, what NVRTC has, and says so.

    Raises build.Unavailable.
    """
    def by_nvcc():
        load_library('cpu')                         # Schemas and derivatives.
        load_library('cuda')

    def by_nvrtc():
        with suppress(build.Unavailable):           # It has its own.
            load_library('cpu')
        nvrtc.load()
    _, why = first_way(by_nvcc, by_nvrtc)
    if why is not None:
        warnings.warn(f'compiled operators are those of NVRTC, started from Python: {why}', RuntimeWarning, stacklevel=2)


def first_way(by_nvcc: Callable[[], T], by_nvrtc: Callable[[], T]) -> tuple[T, str | None]:
    """What the first of both ways to operators for GPUs returns that $DNNLIB_OPS_CUDA allows and that is not `Unavailable`,
    and why it is not the other.
    """
    way = os.environ.get(WAY) or WAYS[0]
    if way not in WAYS:
        raise build.Unavailable(f'{WAY}={way}: must be one of {", ".join(WAYS)}')
    try:
        if way == 'nvrtc':
            raise build.Unavailable(f'{WAY}=nvrtc')
        return by_nvcc(), None
    except build.Unavailable as reason:
        if way == 'nvcc':
            raise
        try:
            return by_nvrtc(), str(reason)
        except build.Unavailable as other:
            raise build.Unavailable(f'{reason}; and not by NVRTC: {other}') from other


@cache
def load_library(library: str) -> None:
    """Builds a library if need be, and loads it, once. Raises build.Unavailable."""
    if nvrtc.is_declared_here():
        raise build.Unavailable('this process has declared the operators in Python')
    path = build.build(library)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise build.Unavailable(f'{path} cannot be loaded: {error}') from error


@cache
def say_once(reason: str) -> None:
    """Warns that plain tensor operations are used, the first time for each reason."""
    warnings.warn(f'plain tensor operations instead of compiled operators: {reason}', RuntimeWarning, stacklevel=5)
