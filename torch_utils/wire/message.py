"""What a message is: a fixed header, numbers and texts, and tensors in the form of safetensors.

    header      144 bytes: what this is, of which run and stage, which request it answers
    description 8 bytes with its length, then JSON: {name: {dtype, shape, data_offsets}}, and under `__metadata__` one JSON
                object `values` of plain data
    data        of all tensors, one after the other
    digest      32 bytes, SHA-256 of everything before; of header and description alone where the line itself lets no change
                through (TLS does that once more, and for 1 MiB the hash costs as much as the way)

It crosses as frames: header and description, then the data of each tensor in pieces, then the digest. Whoever
receives the first frame compares every tensor with what was agreed, before there is memory for the data.
"""
import hashlib
import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAGIC = b'LZW1'
HEADER = struct.Struct('<4sHHIIQQ16s32s64x')        # 144 bytes.
LENGTH = struct.Struct('<Q')
DIGEST_BYTES = 32
MAX_DESCRIPTION = 2 ** 18       # Bytes.
PIECE_BYTES = 2 ** 20           # Of one frame of data.
MAX_FRAME = max(HEADER.size + LENGTH.size + MAX_DESCRIPTION, PIECE_BYTES)
ALIGNMENT = 16                  # Of data in a parcel of gRPC, where they then may lie as a tensor.
LARGE = 2 ** 17                 # Bytes that take longer to copy than to be made a tensor of where they lie.
MAX_DEPTH = 6                   # Of lists and objects in `values`.
NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))
FEW_BRACKETS = 200
STEPS = bytes.maketrans(b'[{]}', bytes([1, 1, 255, 255]))      # As int8: 1 deeper, or 1 less.

DTYPES = {
    'F64': torch.float64, 'F32': torch.float32,
    'BF16': torch.bfloat16, 'F16': torch.float16, 'I64': torch.int64,
    'U8': torch.uint8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
NO_HASH = bytes(DIGEST_BYTES)


class BadMessage(ValueError):
    """What came is not what was agreed. The text is for people; what others sent stands in it only as numbers and as
    names that are known."""


@dataclass(frozen=True)
class Header:
    """What a message says of itself before anything else."""
    kind: int
    centre: int = 0
    stage: int = 0
    step: int = 0                       # The number of the request in its session; an answer has that of its request.
    iteration: int = 0
    session: int = 0
    run: bytes = bytes(16)
    answers: bytes = NO_HASH            # Digest of the request.

    def packed(self) -> bytes:
        """144 bytes."""
        return HEADER.pack(MAGIC, self.kind, self.centre, self.stage, self.step, self.iteration, self.session, self.run,
                           self.answers)

    @classmethod
    def parse(cls, data: bytes) -> 'Header':
        """Raises BadMessage."""
        magic, kind, centre, stage, step, iteration, session, run, answers = HEADER.unpack(data)
        if magic != MAGIC:
            raise BadMessage('what came is no message of this program, or of another version')
        return cls(kind, centre, stage, step, iteration, session, run, answers)


@dataclass
class Message:
    """A header, plain data, and tensors on the CPU."""
    header: Header
    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    digest: bytes = NO_HASH             # Once it was sent or received.


@dataclass(frozen=True)
class TensorForm:
    """What was agreed about a tensor: its type, and for each dimension its size, or the largest that it may have."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    most: tuple[bool, ...] = ()         # For each dimension: may it be smaller? None given: no.

    def fits(self, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
        """Is this such a tensor?"""
        most = self.most or (False,) * len(self.shape)
        return dtype == self.dtype and len(shape) == len(self.shape) and all(
            size <= agreed if may_be_smaller else size == agreed
            for size, agreed, may_be_smaller in zip(shape, self.shape, most))


# A part of a message. Those of tensors share their memory: they are to be copied or sent before that changes.
Frame = bytes | memoryview

# What a message of a kind may hold, {name: form}; a function of its header. Raises BadMessage for one that may not come.
Forms = Callable[[Header], Mapping[str, TensorForm]]


def frames_of(message: Message, hashes_data: bool = True) -> Iterator[Frame]:
    """The frames of a message; its `digest` is known when all are out."""
    entries: dict[str, Any] = {'__metadata__': {'values': json.dumps(message.values, allow_nan=False)}}
    end, datas = 0, []
    # The first one may lie where it comes.
    for name, tensor in sorted(message.tensors.items(), key=lambda item: -item[1].nbytes):
        datas.append(bytes_of(tensor))
        begin, end = end, end + len(datas[-1])
        entries[name] = {'dtype': NAMES[tensor.dtype], 'shape': list(tensor.shape), 'data_offsets': [begin, end]}
    text = json.dumps(entries, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % ALIGNMENT)
    assert len(text) <= MAX_DESCRIPTION, f'a description of {len(text)} bytes'
    first = message.header.packed() + LENGTH.pack(len(text)) + text
    hasher = hashlib.sha256(first)
    yield first
    for data in datas:
        for piece in pieces_of(data):
            if hashes_data:
                hasher.update(piece)
            yield piece
    message.digest = hasher.digest()
    yield message.digest


def pieces_of(data: Frame) -> Iterator[Frame]:
    """The data of a tensor as they cross."""
    for begin in range(0, len(data), PIECE_BYTES):
        yield data[begin:begin + PIECE_BYTES]


def bytes_of(tensor: Tensor) -> memoryview:
    """The values of a tensor on the CPU, in the order of its dimensions."""
    return memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())


class Assembler:
    """Puts frames together; nothing that was not agreed gets memory."""

    def __init__(self, hashes_data: bool = True):
        self._hashes_data = hashes_data
        self._message: Message | None = None

    def add(self, frame: Frame, forms: Forms) -> Message | None:
        """Takes the next frame of a message of these forms; returns it when it is whole. Raises BadMessage."""
        if self._message is None:
            self._begin(frame, forms)
            return None
        if self._missing:
            self._fill(frame)
            return None
        message, self._message = self._message, None
        if frame != self._hasher.digest():
            raise BadMessage('a message was changed on its way: its digest is another')
        message.digest = bytes(frame)
        message.tensors = {name: self._tensor(name, *where) for name, where in self._places.items()}
        self._arrays = {}
        return message

    def _begin(self, frame: Frame, forms: Forms) -> None:
        start = HEADER.size + LENGTH.size
        if not start <= len(frame) <= start + MAX_DESCRIPTION:
            raise BadMessage(f'a message begins with {len(frame)} bytes')
        header = Header.parse(bytes(frame[:HEADER.size]))
        if LENGTH.unpack_from(frame, HEADER.size)[0] != len(frame) - start:
            raise BadMessage('the description of a message has another length than it says')
        values, self._places = described(bytes(frame[start:]), forms(header))
        self._hasher = hashlib.sha256(frame)
        self._missing = deque((name, size) for name, (_, _, size) in self._places.items() if size)
        self._arrays: dict[str, np.ndarray] = {}
        self._filled = 0                        # Of the first one that is missing.
        self._message = Message(header, values)

    def _fill(self, frame: Frame) -> None:
        name, size = self._missing[0]
        if not 1 <= len(frame) <= min(PIECE_BYTES, size - self._filled):
            raise BadMessage(f'{len(frame)} bytes of {name} came, {size - self._filled} are missing')
        if len(frame) == size:
            self._arrays[name] = array_of(frame)
        else:
            if self._filled == 0:
                self._arrays[name] = np.empty(size, np.uint8)           # Not written before it is filled.
            self._arrays[name][self._filled:self._filled + len(frame)] = memoryview(frame)
        self._filled += len(frame)
        if self._filled == size:
            self._missing.popleft()
            self._filled = 0
        if self._hashes_data:
            self._hasher.update(frame)

    def _tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], size: int) -> Tensor:
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.from_numpy(self._arrays[name]).view(dtype).view(shape)


class Arrived:
    """Bytes that nobody else has, as what numpy makes a writable array of. (That of `np.frombuffer` may not be
    written, of which torch warns.)"""

    def __init__(self, frame: Frame):
        self.frame = frame
        there = np.frombuffer(frame, np.uint8).__array_interface__
        self.address = there['data'][0]
        self.__array_interface__ = {**there, 'data': (self.address, False)}


def array_of(frame: Frame) -> np.ndarray:
    """The bytes of a frame that has come, where they lie if that may be: a copy of what is in no cache takes
    long."""
    if len(frame) >= LARGE and type(frame.obj if isinstance(frame, memoryview) else frame) is bytes:    # No tensor's.
        arrived = Arrived(frame)
        if arrived.address % ALIGNMENT == 0:
            return np.asarray(arrived)
    return np.frombuffer(frame, np.uint8).copy()


def described(text: bytes, forms: Mapping[str, TensorForm]) -> tuple[dict[str, Any], dict[str, tuple]]:
    """(values, {name: (dtype, shape, bytes)}) of a description. Raises BadMessage."""
    entries = parsed(text)
    metadata = entries.pop('__metadata__', None)
    if not isinstance(metadata, dict) or set(metadata) != {'values'} or not isinstance(metadata['values'], str):
        raise BadMessage('the description of a message lacks its values')
    values = parsed(metadata['values'].encode())
    if entries.keys() != forms.keys():
        raise BadMessage(f'{len(entries)} tensors came, or others than {", ".join(forms) or "none"}, which were agreed')
    places, end = {}, 0
    for name, entry in entries.items():
        dtype, shape = entry_form(name, entry)
        if not forms[name].fits(dtype, shape):
            raise BadMessage(f'{name} is {NAMES[dtype]} of shape {list(shape)[:8]}; agreed was {NAMES[forms[name].dtype]} of '
                             f'{list(forms[name].shape)}')
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if entry.get('data_offsets') != [begin, end]:
            raise BadMessage(f'{name} does not lie where it should')
        places[name] = dtype, shape, end - begin
    return values, places


def entry_form(name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    """The type and shape that a description gives a tensor. Raises BadMessage."""
    is_table = isinstance(entry, dict) and set(entry) == {'dtype', 'shape', 'data_offsets'}
    if not is_table or not isinstance(entry['dtype'], str) or entry['dtype'] not in DTYPES:
        raise BadMessage(f'{name} is described in another way than was agreed')
    shape = entry['shape']
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(size) is int and 0 <= size < 2 ** 40 for size in shape):
        raise BadMessage(f'{name} has a shape that no tensor has')
    return DTYPES[entry['dtype']], tuple(shape)


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object of little depth. Raises BadMessage."""
    try:
        if depth_of(text) > MAX_DEPTH:
            raise BadMessage('values are nested too deeply')
        value = json.loads(text.decode(), parse_constant=_no_number)
    except BadMessage:
        raise
    except (ValueError, RecursionError):
        raise BadMessage('the description of a message is no JSON') from None
    if not isinstance(value, dict):
        raise BadMessage('the description of a message is no JSON object')
    return value


def depth_of(text: bytes) -> int:
    """How deep brackets lie in one another at most, those in texts among them."""
    steps = text.translate(STEPS, NO_BRACKETS)
    if len(steps) <= FEW_BRACKETS:              # As in honest messages, each of which waits for this.
        return max(accumulate(step if step == 1 else -1 for step in steps), default=0)
    return int(np.frombuffer(steps, np.int8).cumsum(dtype=np.int64).max(initial=0))


def _no_number(text: str) -> None:
    raise BadMessage(f'{text} is no number that may cross')
