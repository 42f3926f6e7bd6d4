"""Tensors and arrays inside pickles: substitutes for the functions that torch
and NumPy would be asked to call.

A tensor is a view (offset, size, stride) of a storage. A storage is bytes that must be in the file:
a declared size is compared with the bytes at hand before any memory is taken, and all storages together with
the size of the file.

Layout of a `.pt` file before the zip archives, also that of each storage inside a reference pickle:
pickles of a magic number, of the format's version, of a dict on the machine, of the content (with references
to storages), of the list of storage keys; then per storage the number of elements (int64) and the elements.
"""
import io
import math
import re
import struct
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
import torch

from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import inert_pickle
from torch_utils.foreign.inert_pickle import Buildable, Call, Global, Reference, Substitutes, Table, size_of

MAGIC = 0x1950a86a20f9469cfc6c
VERSION = 1001
MAX_NDIM = 8

STORAGES = {
    'FloatStorage': torch.float32, 'DoubleStorage': torch.float64, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}


def _never(*_: Any) -> None:
    raise CheckpointError('refused: the file calls a type that network files only name')


STORAGE_TYPES: Substitutes = {('torch', name): _never for name in STORAGES}


NO_HOOKS = Call(Global('collections', 'OrderedDict'))


class Budget:
    """Bytes that may still be declared: those of the file at first."""

    def __init__(self, num_bytes: int):
        self.left = num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises CheckpointError once more has been declared than the file can hold."""
        self.left -= num_bytes
        if num_bytes < 0 or self.left < 0:
            raise CheckpointError('refused: the file declares more data than it holds')


# ---------------------------------------------------------------------------------------------------------------------
# torch.

def substitutes(num_bytes: int) -> Substitutes:
    """For tensors, their storages as byte strings, NumPy arrays and scalars, and containers,
    in `num_bytes` of file."""
    storages, arrays, texts = Budget(num_bytes), Budget(num_bytes), Budget(num_bytes)
    return {
        ('torch._utils', '_rebuild_tensor_v2'): rebuild_tensor,
        ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
        ('torch._utils', '_rebuild_parameter_with_state'): lambda tensor, *_: tensor,
        ('torch.storage', '_load_from_bytes'): lambda data: load_storage(data, storages),
        ('collections', 'OrderedDict'): Table,
        ('builtins', 'set'): lambda _: (),
        ('__builtin__', 'set'): lambda _: (),
        ('__builtin__', 'bytes'): lambda: b'',
        ('_codecs', 'encode'): lambda text, encoding: _encode(text, encoding, texts),
        ('numpy', 'dtype'): DType,
        ('numpy', 'ndarray'): _never,
        **{(f'numpy.{core}.multiarray', name): substitute for core in ('core', '_core')
           for name, substitute in (('scalar', scalar), ('_reconstruct', lambda *_: Array(arrays)))},
    }


def rebuild_tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
    """The view of a storage (a tensor [elements]) that the file describes, strides as they are."""
    if not (isinstance(storage, torch.Tensor) and type(offset) is int and type(size) is type(stride) is tuple
            and len(size) == len(stride) <= MAX_NDIM
            and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))):
        raise CheckpointError('damaged: the description of a tensor makes no sense')
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) and (last >= len(storage) or math.prod(size) > len(storage)):
        raise CheckpointError(f'refused: a tensor of size {list(size)} in a storage of {len(storage)} elements')
    if not math.prod(size):
        return storage.new_empty(size)
    return storage.as_strided(size, stride, offset)


def load_storage(data: bytes, budget: Budget) -> torch.Tensor:
    """The storage, a tensor [elements], of a byte string as torch writes it."""
    if not isinstance(data, bytes):
        raise CheckpointError('damaged: a storage that is not bytes')
    storage = load_stream(io.BytesIO(data), STORAGE_TYPES, budget)
    if not isinstance(storage, torch.Tensor):
        raise CheckpointError('damaged: a byte string that is not a storage')
    return storage


def load_stream(file: BinaryIO, known: Substitutes, budget: Budget) -> Any:
    """The content of a file in the older layout of torch (see the top of this file)."""
    if inert_pickle.load(file, {}) != MAGIC or inert_pickle.load(file, {}) != VERSION:
        raise CheckpointError('not written by torch')
    machine = inert_pickle.load(file, {})
    if not isinstance(machine, dict) or machine.get('little_endian') is not True:
        raise CheckpointError('refused: written by a big-endian machine')
    storages: dict[str, torch.Tensor] = {}

    def declare(id: Any) -> torch.Tensor:
        dtype, key, count = _check_id(id)
        if key not in storages:
            budget.take(count * dtype.itemsize)
            storages[key] = torch.empty([count], dtype=dtype)
        return storages[key]

    content = inert_pickle.load(file, known, declare)
    keys = inert_pickle.load(file, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise CheckpointError('damaged: the list of storages does not fit the content')
    for key in keys:
        storage = storages[key]
        if file.read(8) != struct.pack('<q', len(storage)) or file.readinto(_memory(storage)) != storage.nbytes:
            raise CheckpointError(f'truncated or damaged: storage {key!r:.20}')
    return content


PROGRAMS = {'constants.pkl': 'TorchScript', 'archive_format': 'made by torch.export'}     # {member: what the archive is}.


def _require_weights(members: Collection[str]) -> None:
    """Refuses archives, by the names of their members, that are something else."""
    for member, program in PROGRAMS.items():
        if member in members:
            raise CheckpointError(f'not a network file: it is a program ({program}), from which nothing can be taken')
    if 'data.pkl' not in members:
        raise CheckpointError('not a network file: it is a .zip archive that torch has not written')


def load_archive(file: BinaryIO, known: Substitutes) -> Any:
    """The content of a `.pt` file as torch writes it today:
    a zip archive of one pickle and a member per storage."""
    budget = Budget(size_of(file))
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename.partition('/')[2]: info for info in archive.infolist()}
        _require_weights(members)
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise CheckpointError('refused: an archive with compressed members, which torch does not write')
        if 'byteorder' in members and archive.read(members['byteorder']) != b'little':
            raise CheckpointError('refused: written by a big-endian machine')
        storages: dict[str, torch.Tensor] = {}

        def read(id: Any) -> torch.Tensor:
            dtype, key, count = _check_id(id)
            if key not in storages:
                budget.take(members[f'data/{key}'].file_size)
                data = bytearray(archive.read(members[f'data/{key}']))
                if len(data) != count * dtype.itemsize:
                    raise CheckpointError(f'damaged: {count} elements declared, {len(data)} bytes found')
                storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty([0], dtype=dtype)
            return storages[key]

        with archive.open(members['data.pkl']) as pickle_file:
            return inert_pickle.load(pickle_file, known, read)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f'damaged, or not written by torch: {error}') from None


def storage_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a contiguous tensor as a byte string that torch's own `_load_from_bytes` reads."""
    name = next(name for name, dtype in STORAGES.items() if dtype == tensor.dtype)
    id = ('storage', Global('torch', name), '0', 'cpu', tensor.numel(), None)
    machine = {'protocol_version': VERSION, 'little_endian': True,
               'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
    pickles = [inert_pickle.dumps(value, 2) for value in (MAGIC, VERSION, machine, Reference(id), ['0'])]
    return b''.join([*pickles, struct.pack('<q', tensor.numel()), _memory(tensor)])


def tensor_call(tensor: torch.Tensor) -> Call:
    """What to write into a pickle for a tensor."""
    tensor = tensor.detach().cpu().contiguous()
    storage = Call(Global('torch.storage', '_load_from_bytes'), storage_bytes(tensor))
    return Call(Global('torch._utils', '_rebuild_tensor_v2'), storage, 0, tuple(tensor.shape),
                tuple(tensor.stride()), False, NO_HOOKS)


def _check_id(id: Any) -> tuple[torch.dtype, str, int]:
    """(dtype, key, number of elements) from the reference to a storage."""
    if not isinstance(id, tuple) or len(id) not in (5, 6) or id[0] != 'storage':
        raise CheckpointError('damaged: a reference that is not to a storage')
    _, kind, key, _, count = id[:5]
    dtype = next((dtype for name, dtype in STORAGES.items() if kind == Global('torch', name)), None)
    if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise CheckpointError('damaged: the description of a storage makes no sense')
    return dtype, key, count


def _memory(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.flatten().view(torch.uint8).numpy())


# ---------------------------------------------------------------------------------------------------------------------
# NumPy.

class DType(Buildable):
    """An element type: one letter and a number of bytes; little endian unless `build` says otherwise."""

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str) or not re.fullmatch(r'[<>|=]?[fiub][1248]', name):
            raise CheckpointError('refused: an array of something other than numbers')
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """state: (version, byte order, ...)."""
        self.dtype = self.dtype.newbyteorder('>' if state[1] == '>' else '<')


class Array(Buildable):
    """An array, empty until `build` brings its content."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.array = np.zeros(0)

    def build(self, state: Any) -> None:
        """state: (version, shape, DType, column-major?, bytes)."""
        _, shape, kind, column_major, data = state
        if not isinstance(kind, DType) or not isinstance(data, bytes) or type(shape) is not tuple \
                or len(shape) > MAX_NDIM or not all(type(n) is int and n >= 0 for n in shape) \
                or math.prod(shape) * kind.dtype.itemsize != len(data):
            raise CheckpointError('damaged: the description of an array makes no sense')
        self.budget.take(len(data))
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order='F' if column_major else 'C')


def scalar(kind: DType, data: bytes) -> int | float | bool:
    """The number that a NumPy scalar holds."""
    if not isinstance(kind, DType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise CheckpointError('damaged: the description of a number makes no sense')
    return np.frombuffer(data, kind.dtype)[0].item()


def _encode(text: str, encoding: str, budget: Budget) -> bytes:
    """How protocol 2 spells byte strings."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise CheckpointError('refused: text in an unknown encoding')
    budget.take(len(text))
    return text.encode('latin1')
