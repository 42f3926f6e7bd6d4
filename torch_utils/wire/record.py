"""A record of everything that leaves: message by message, as it was sent."""
import os
import re
from collections.abc import Callable
from pathlib import Path

from torch_utils.wire.channel import Channel
from torch_utils.wire.message import Message

NAME = re.compile(r'message-(\d{9})\.bin')


class Recorder:
    """Writes the frames of messages into files, one for each message."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [int(match[1]) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name))]
        self._next = max(found, default=-1) + 1

    def record(self, channel: Channel) -> Channel:
        """The same channel, whose messages are kept from now on."""
        frames: list[bytes] = []
        inner = channel.send

        def send(message: Message) -> None:
            frames.clear()
            channel.record = frames.append
            try:
                inner(message)
            finally:
                with open(self.folder / f'message-{self._next:09d}.bin', 'xb') as file:
                    file.writelines(frames)
                self._next += 1

        channel.send = send
        return channel


def recorded(connect: Callable[[], Channel], folder: str | None) -> Callable[[], Channel]:
    """The same way to connect, with a record if a folder for it is given."""
    if not folder:
        return connect
    recorder = Recorder(folder)
    return lambda: recorder.record(connect())
