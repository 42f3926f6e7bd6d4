"""A record of everything that leaves: message by message, and each piece is written before it leaves."""
import errno
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from io import FileIO
from pathlib import Path

from dnnlib.reading import read_file
from torch_utils.wire.channel import Channel
from torch_utils.wire.message import (
    DIGEST_BYTES,
    HEADER,
    LENGTH,
    Assembler,
    BadMessage,
    Message,
    TensorForm,
    entry_form,
    parsed,
    pieces_of,
)

NAME = re.compile(r'message-([0-9]{9,18})\.bin')
MAX_BYTES = 2 ** 32         # Of a recorded message.


class RecordError(Exception):
    """What leaves cannot be recorded, so nothing more may leave; the text is for users."""


class Recorder:
    """Writes the frames of messages into files, one for each message."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [int(match[1]) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name))]
        self._next = max(found, default=-1) + 1

    def record(self, channel: Channel) -> Channel:
        """The same channel, whose messages are kept from now on."""
        inner = channel.send

        def send(message: Message, timeout: float | None = None) -> None:
            path = self.folder / f'message-{self._next:09d}.bin'
            self._next += 1
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(open(path, 'xb', buffering=0))
                except OSError as error:
                    raise RecordError(f'--record-wire: {path}: {error.strerror}') from error
                channel.record = partial(_write, file)
                inner(message, timeout)

        channel.send = send
        return channel


def _write(file: FileIO, frame: bytes) -> None:
    """Raises RecordError."""
    try:
        if file.write(frame) < len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise RecordError(f'--record-wire: {file.name}: {error.strerror}') from error


def recorded(connect: Callable[[], Channel], folder: str | None) -> Callable[[], Channel]:
    """The same way to connect, with a record if a folder for it is given."""
    if not folder:
        return connect
    recorder = Recorder(folder)
    return lambda: recorder.record(connect())


def read(folder: str | os.PathLike,
         on_part: Callable[[Path], None] = lambda path: None) -> Iterator[tuple[Message, int]]:
    """(message, its bytes) in the order in which they left. One that did not leave completely is given to
    `on_part` instead.

    Raises OSError, and ValueError for a file that is no record.
    """
    found = {int(match[1]): path for path in Path(folder).iterdir() if (match := NAME.fullmatch(path.name))}
    for _, path in sorted(found.items()):
        data = read_file(path, MAX_BYTES)
        try:
            message = parse(data)
        except BadMessage as error:
            raise ValueError(f'{path}: {error}') from error
        if message is None:
            on_part(path)
        else:
            yield message, len(data)


def parse(data: bytes) -> Message | None:
    """A message from all its bytes, whatever tensors it has; None if some are missing. Raises BadMessage."""
    start = HEADER.size + LENGTH.size
    if len(data) < start or len(data) < (begin := start + LENGTH.unpack_from(data, HEADER.size)[0]):
        return None
    entries = parsed(data[start:begin])
    entries.pop('__metadata__', None)
    forms = {name: TensorForm(*entry_form(name, entry)) for name, entry in entries.items()}
    sizes = [form.dtype.itemsize * math.prod(form.shape) for form in forms.values()]
    if sum(sizes) > len(data):
        return None                     # No memory for what a file only says it has.
    of_all = hashlib.sha256(data[:-DIGEST_BYTES]).digest() == data[-DIGEST_BYTES:]
    assembler, frames, body = Assembler(of_all), [data[:begin]], memoryview(data)[begin:-DIGEST_BYTES]
    for size in sizes:
        frames += pieces_of(body[:size])
        body = body[size:]
    for frame in (*frames, *pieces_of(body), data[-DIGEST_BYTES:]):
        message = assembler.add(frame, lambda header: forms)
    return message
