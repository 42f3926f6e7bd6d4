"""Channels within a job of NVFlare: a call of one site's program to another one's carries the frames of a message.

NVFlare connects its sites, knows who they are, and lets the programs of a job call each other (its Collab API;
tdgan_nvflare.py). Here is what these calls carry, and nothing of NVFlare itself. Each process of a job has one `Post`.
"""
import queue
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch_utils.wire.channel import Channel, outgoing_parcels
from torch_utils.wire.message import MAX_FRAME

WAITING_MESSAGES = 2

# Gets frames to another site, as those of a connection of this number; returns whether they were taken. None: it is over, or, of
# a connection that has not begun, whether it could.
Call = Callable[[str, int, list[bytes]], bool]


class Called(Channel):
    """One end of a connection whose messages are carried by calls."""
    parcel_bytes = float('inf')

    def __init__(self, carry: Callable[[list[bytes]], bool], names: frozenset[str] | None):
        super().__init__(queue.Queue(WAITING_MESSAGES), queue.Queue(WAITING_MESSAGES), names)
        threading.Thread(target=self._carry_all, args=(carry,), daemon=True).start()

    def take(self, frames: list[bytes]) -> bool:
        """What the other end has sent, as soon as there is room for it; returns whether the connection is still there."""
        if not frames:
            self.close('the other end has closed it')
        while self.is_open:
            with suppress(queue.Full):
                self._incoming.put(frames, timeout=1)
                break
        return self.is_open

    def _carry_all(self, carry: Callable[[list[bytes]], bool]) -> None:
        why = 'the other end has closed it'
        try:
            for frames in outgoing_parcels(self._outgoing):
                if not carry(frames):
                    break
        except Exception as error:          # noqa: BLE001 (Calls raise what they like if the other end is gone.)
            why = reason_of(error)
        self.close(why)
        with suppress(Exception):
            carry([])


def reason_of(error: Exception) -> str:
    """Of a call that has failed, harmless on a terminal: the other end may have written it."""
    return ''.join(c if c.isprintable() else '?' for c in str(error))[:300]


class Post:
    """All connections of a process within a job: one with each site."""

    def __init__(self, call: Call):
        self._call = call
        self._channels: dict[str, tuple[int, Called]] = {}
        self._on_channel: Callable[[Channel], None] | None = None
        self._lock = threading.Lock()

    def listen(self, on_channel: Callable[[Channel], None]) -> Callable[[], None]:
        """Others may connect from now on; `on_channel` gets a channel for each, in a thread of its own.
        Returns how to end that."""
        self._on_channel = on_channel
        return self.close

    def connect(self, site: str) -> Channel:
        """A channel to a site that listens. Raises OSError with one sentence."""
        number = secrets.randbits(62)
        try:
            listens = self._call(site, number, [])
        except Exception as error:          # noqa: BLE001 (Calls raise what they like.)
            raise OSError(f'NVFlare does not reach the program of {site}: {reason_of(error)}') from error
        if not listens:
            raise OSError(f'the program of {site} does not listen yet')
        return self._opened(site, number, None)

    def take(self, site: str, number: Any, frames: Any) -> bool:
        """What has come from a site, of which NVFlare says that it is the one; returns whether the connection is there."""
        if type(number) is not int or not isinstance(frames, list) or not all(
                isinstance(frame, bytes) and len(frame) <= MAX_FRAME for frame in frames):
            return False
        known, channel = self._channels.get(site, (None, None))
        if known != number:
            if self._on_channel is None or not frames:
                return self._on_channel is not None
            channel = self._opened(site, number, frozenset([site]))
            threading.Thread(target=self._on_channel, args=(channel,), daemon=True).start()
        return channel.take(frames)

    def close(self) -> None:
        """Ends all connections."""
        self._on_channel = None
        for _, channel in list(self._channels.values()):
            channel.close()

    def _opened(self, site: str, number: int, names: frozenset[str] | None) -> Called:
        """A new connection with a site, which ends the one before."""
        channel = Called(lambda frames: self._call(site, number, frames), names)
        with self._lock:
            _, former = self._channels.pop(site, (0, None))
            self._channels[site] = number, channel
        if former is not None:
            former.close('the site has connected again')
        return channel


_posts: list[Post] = []


def set_post(post: Post) -> None:
    """This process is part of a job."""
    _posts[:] = [post]


def post() -> Post:
    """Of this process. Raises ValueError outside of a job."""
    if not _posts:
        raise ValueError('there is no job of NVFlare here; tdgan_nvflare.py makes one (docs/sites.md)')
    return _posts[0]
