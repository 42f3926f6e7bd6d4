"""The generator's site: a centre connects. Who it is, whether both ends agree, and what it says of itself."""
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dnnlib import writing
from dnnlib.reading import read_file
from losses_ext.sites import agreement
from losses_ext.sites.agreement import Disagreement, Kind
from torch_utils.wire.channel import Channel, Closed
from torch_utils.wire.message import BadMessage, Header, Message, TensorForm

HANDSHAKE_SEC = 120
RUN_FILE = 'sites-run'          # In the run's directory: what centres know it by.
MAX_RUN_FILE = 1000         # Bytes.
LINGER_SEC = 0.2            # What was said last still leaves.


@dataclass
class Presence:
    """What a centre said when it connected."""
    channel: Channel
    num: int
    labels: tuple[np.ndarray, np.ndarray]       # (values [m,c_dim], counts [m])
    states: frozenset[int]                      # Numbers of images after which it has saved its state.
    session: int
    step: int
    shares_moments: bool = False


def greet(channel: Channel, names: Sequence[str], offer: Callable[[int], tuple[Message, int]]) -> tuple[int, Presence]:
    """(number of the centre that has connected, what it says of itself), once both ends agree. `offer`: what the centre of a
    number is told of the run, and the numbers in a label.

    Raises BadMessage, Closed, TimeoutError.
    """
    hello = channel.receive(agreement.of_kinds({Kind.HELLO: {}}), HANDSHAKE_SEC)
    if hello.values.get('protocol') != agreement.PROTOCOL:
        raise Disagreement(f'the centre speaks another version of this protocol than {agreement.PROTOCOL}')
    name = hello.values.get('name')
    if name not in names:
        raise Disagreement('it calls itself by a name that is not among --tdgan_centres')
    if channel.names is not None and name not in channel.names:
        raise Disagreement(f'it calls itself {name}, but its certificate does not')
    index = names.index(name)
    welcome, c_dim = offer(index)
    channel.send(welcome)
    most = agreement.most_labels(c_dim)
    forms = dict(values=TensorForm(torch.float32, (most, c_dim), (True, False)), counts=TensorForm(torch.int64, (most,), (True,)))
    ready = channel.receive(agreement.of_kinds({Kind.READY: forms, Kind.REFUSED: {}}), HANDSHAKE_SEC)
    if ready.header.kind == Kind.REFUSED:
        raise Disagreement(f'the centre {name} refuses: {agreement.text_of(ready.values)}')
    return index, presence_of(channel, ready)


def presence_of(channel: Channel, ready: Message) -> Presence:
    """What a centre has said. Raises BadMessage."""
    values = ready.values
    num = agreement.whole(values, 'num', 10 ** 12)
    labels = ready.tensors['values'].numpy().copy(), ready.tensors['counts'].numpy().copy()
    if not (len(labels[0]) == len(labels[1]) > 0 and (labels[1] > 0).all() and (labels[1] <= num).all()
            and labels[1].sum() <= num and np.isfinite(labels[0]).all() and num > 0):
        raise BadMessage('its labels and their numbers do not fit together')
    saved = values.get('states')
    if not isinstance(saved, list) or not all(type(nimg) is int and nimg >= 0 for nimg in saved):
        raise BadMessage('it does not say which states it has')
    return Presence(channel, num, labels, frozenset(saved), agreement.whole(values, 'session'),
                    agreement.whole(values, 'step', 2 ** 32 - 1), values.get('shares_moments') is True)


def refuse(channel: Channel, why: str, for_good: bool) -> None:
    """Tells the other end, if it still listens."""
    try:
        channel.send(Message(Header(Kind.REFUSED), dict(text=why[:agreement.MAX_TEXT], for_good=for_good)))
        time.sleep(LINGER_SEC)
    except Closed:
        pass
    channel.close(why)


def run_id(run_dir: str | os.PathLike | None) -> bytes:
    """What centres know a run by: made once, and kept in its directory."""
    if run_dir is None:
        return secrets.token_bytes(16)
    path = Path(run_dir, RUN_FILE)
    try:
        found = bytes.fromhex(read_file(path, MAX_RUN_FILE).decode('ascii'))
        if len(found) == 16:
            return found
    except (OSError, ValueError):
        pass
    made = secrets.token_bytes(16)
    writing.write_text(path, made.hex(), 'any', sync=True)
    return made
