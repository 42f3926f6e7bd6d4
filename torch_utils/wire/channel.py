"""What carries messages: an interface, and the simplest thing that has it.

A channel has two ends. `send` hands a message over, `receive` waits for one, `close` ends it for both. Whatever goes wrong
with the channel itself is `Closed`; what comes through and is not what was agreed is `BadMessage`, after which the end that
found it closes the channel. Frames travel in parcels: handing one from thread to thread costs time
whatever is in it.
"""
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch_utils.wire.message import MAX_FRAME, Assembler, BadMessage, Forms, Frame, Message, frames_of

WAITING_PARCELS = 8         # That one end may be ahead of the other.
PARCEL_BYTES = 2 * MAX_FRAME
POLL_SEC = 0.2              # How often a waiting end looks whether the channel is still there.


class Closed(ConnectionError):
    """The channel is not there any more; the text says why, as far as it is known."""


class NotTrusted(ConnectionError):
    """One end does not accept the certificate of the other; somebody has to change one first."""


class Channel:
    """One end, over two queues of parcels of frames. `names` are what the other end may call itself, None if nobody has said."""

    parcel_bytes: float = PARCEL_BYTES
    is_protected = False            # Does whatever carries frames see to it that none is changed?

    def __init__(self, incoming: queue.Queue, outgoing: queue.Queue, names: frozenset[str] | None = None):
        self.names = names
        self.record: Callable[[Frame], None] | None = None      # Is shown every frame that leaves.
        self.ended = 'the other end has closed it'              # Why frames end, if they do.
        self._incoming, self._outgoing = incoming, outgoing
        self._frames: deque[Frame] = deque()                    # Of a parcel that has come.
        self._why: str | None = None
        self._assembler: Assembler | None = None

    @property
    def is_open(self) -> bool:
        """Could a message still cross?"""
        return self._why is None

    def send(self, message: Message, timeout: float | None = None) -> None:
        """Hands all frames of a message over. Raises Closed, also if the other end takes longer to read them."""
        until = end_of(timeout)
        for parcel in parcels(self._recorded(frames_of(message, not self.is_protected)), self.parcel_bytes):
            self._put(self.copied(parcel), until)

    def receive(self, forms: Forms, timeout: float | None = None) -> Message:
        """The next message. Raises Closed, BadMessage, and TimeoutError if it is not whole by then; one may go on waiting."""
        until = end_of(timeout)
        self._assembler = self._assembler or Assembler(not self.is_protected)
        try:
            while True:
                message = self._assembler.add(self._get(until), forms)
                if message is not None:
                    return message
                require_time(until)
        except BadMessage as error:
            self.close(str(error))
            raise

    def close(self, why: str = 'this end has closed it') -> None:
        """Ends the channel for both."""
        if self._why is None:
            self._why = why
        _offer(self._outgoing, None)
        _offer(self._incoming, None)

    @staticmethod
    def copied(parcel: list[Frame]) -> Any:
        """A parcel that shares no memory with tensors, as it goes on its way."""
        return [bytes(frame) for frame in parcel]

    def _recorded(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if self.record is not None:
                self.record(frame)
            yield frame

    def _put(self, parcel: Any, until: float | None = None) -> None:
        while self.is_open:
            try:
                return self._outgoing.put(parcel, timeout=POLL_SEC)
            except queue.Full:
                if until is not None and time.monotonic() > until:
                    self.close('the other end does not read what it is sent')
        raise Closed(self._why)

    def _get(self, until: float | None) -> Frame:
        while self.is_open:
            if self._frames:
                return self._frames.popleft()
            try:
                parcel = self._incoming.get(timeout=POLL_SEC)
            except queue.Empty:
                require_time(until)
                continue
            if parcel is None:
                self._why = self._why or self.ended
            else:
                self._frames.extend(parcel)
        raise Closed(self._why)


def end_of(timeout: float | None) -> float | None:
    """When so many seconds are over, by the monotonic clock; None: never."""
    return None if timeout is None else time.monotonic() + timeout


def require_time(until: float | None) -> None:
    """Raises TimeoutError if it is too late."""
    if until is not None and time.monotonic() > until:
        raise TimeoutError


def _offer(frames: queue.Queue, item: Any) -> None:
    """Puts something into a queue, in place of what waits there if it is full."""
    while True:
        try:
            return frames.put_nowait(item)
        except queue.Full:
            try:
                frames.get_nowait()
            except queue.Empty:
                continue


def parcels(frames: Iterable[Frame], most: float) -> Iterator[list[Frame]]:
    """Frames, some together: no more than so many bytes, or one."""
    parcel, size = [], 0
    for frame in frames:
        if parcel and size + len(frame) > most:
            yield parcel
            parcel, size = [], 0
        parcel.append(frame)
        size += len(frame)
    yield parcel


def outgoing_parcels(outgoing: queue.Queue) -> Iterator[Any]:
    """What is put into a queue, until its end."""
    while (parcel := outgoing.get()) is not None:
        yield parcel


def pair(names: tuple[str, ...] | None = None) -> tuple[Channel, Channel]:
    """Both ends of a channel inside one process."""
    there, back = queue.Queue(WAITING_PARCELS), queue.Queue(WAITING_PARCELS)
    known = frozenset(names) if names is not None else None
    return Channel(back, there), Channel(there, back, known)
