"""A centre: from a connection to its end, and the next one, until the run is over."""
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from losses_ext.sites import agreement, apart
from losses_ext.sites.agreement import Kind
from losses_ext.sites.hardening import Hardening
from losses_ext.sites.limits import Limits
from losses_ext.sites.seat import Seat, StaysHere
from torch_utils import distributed
from torch_utils.wire.channel import Channel, Closed, NotTrusted
from torch_utils.wire.message import BadMessage, Header, Message
from training.run.health import CannotGoOn

RETRY_SEC = 2.0
DISTRUST_SEC = 30.0         # Between two tries where somebody has to change certificates first.
MAX_RUNS = 100              # That a private directory holds: a generator's site could invent runs until the disk is full.
LINGER_SEC = 0.2            # What was said last still leaves.
HANDSHAKE_SEC = 120
RUN = re.compile('[0-9a-f]{32}')        # A directory of a run.
MAX_SENTENCE = 500          # Characters of what is said of an option, whose value is a stranger's.
MAX_BAD = 20                # Requests in a row that are not what was agreed.


class Refused(Exception):
    """One end does not want to work with the other; the text is for people."""


@dataclass(frozen=True)
class Centre:
    """What this end brings along.

    data: folder or archive of its images; more: how they are opened.
    private: directory for its critics; the generator's site never learns anything of it.
    """
    name: str
    data: str
    private: Path
    device: str = 'auto'
    more: Mapping[str, Any] = ()
    hardening: Hardening = Hardening()
    limits: Limits = Limits()
    share: Callable[..., dict] | None = None        # Gives moments of features (metrics/images_elsewhere.py); None: they stay.
    override: bool = False          # Go on where the images are others than those of a saved state?


class Participant:
    """A centre while it takes part in a run. `on_answer` is shown every request and its answer, for people."""

    def __init__(self, centre: Centre, on_stage: Callable[[Seat], None] = lambda seat: None,
                 on_answer: Callable[[Seat, Message], None] = lambda seat, request: None):
        self.centre = centre
        self._on_stage, self._on_answer = on_stage, on_answer
        self._seat: Seat | None = None
        self._known: tuple | None = None        # What the seat was made for.
        self._num_bad = 0

    def take_part(self, connect: Callable[[], Channel], patience: float = float('inf')) -> bool:
        """Connects, again and again, until the run is over; returns whether it is finished, or has stopped for now and did not
        come back for so many seconds. Raises Refused, CannotGoOn."""
        until, said = time.monotonic() + patience, ''
        while True:
            pause = RETRY_SEC
            try:
                channel = connect()
                said = ''
                try:
                    if self.attend(channel):
                        return True
                finally:
                    channel.close()
                    until = time.monotonic() + patience
            except (OSError, Closed, TimeoutError) as error:
                if said != str(error):
                    said = str(error)
                    print(f'Waiting for the generator\'s site: {said}.', flush=True)
                if isinstance(error, NotTrusted):
                    pause = DISTRUST_SEC
            if (left := until - time.monotonic()) < 0:
                return False
            time.sleep(min(pause, max(left, RETRY_SEC)))

    def attend(self, channel: Channel) -> bool:
        """Does what it is asked as long as the connection lasts; returns whether the run is finished."""
        try:
            seat, run, index = self._greet(channel)
        except BadMessage as error:
            self._note_bad(channel, error)
            return False
        print('Connected.', flush=True)
        while True:
            try:
                request = channel.receive(seat.forms)
                if request.header.kind == Kind.REFUSED:
                    raise Closed(agreement.text_of(request.values))
                if request.header.kind == Kind.END:
                    finished = request.values.get('finished') is True
                    print('The run is finished.' if finished else 'The generator\'s site stops for now.', flush=True)
                    return finished
                if (request.header.run, request.header.centre) != (run, index):
                    raise BadMessage('the request is for another run or centre')
                answer = seat.answer(request)
                self._num_bad = 0
            except CannotGoOn as error:
                tell(channel, Kind.FAILED, outside(error, self.centre.data))
                raise
            except BadMessage as error:
                self._note_bad(channel, error)
                return False
            except Closed:
                raise
            except Exception:           # A fault of this program: nobody shall wait for this centre in vain.
                tell(channel, Kind.FAILED, 'its program has broken down; its own output says how')
                raise
            channel.send(answer)
            self._on_answer(seat, request)

    def _note_bad(self, channel: Channel, error: BadMessage) -> None:
        """Counts what should not have come. Raises Refused if it is too much."""
        self._num_bad += 1
        channel.close(str(error))
        print(f'Warning: the generator\'s site: {error}; connecting again.', file=sys.stderr, flush=True)
        if self._num_bad >= MAX_BAD:
            raise Refused(f'the generator\'s site asks for what was not agreed, again and again: {error}') from error

    def _greet(self, channel: Channel) -> tuple[Seat, bytes, int]:
        """(seat, run, number of this centre), once both ends agree. Raises Refused."""
        channel.send(Message(Header(Kind.HELLO), dict(protocol=agreement.PROTOCOL, name=self.centre.name)))
        welcome = channel.receive(agreement.of_kinds({Kind.WELCOME: {}, Kind.REFUSED: {}}), HANDSHAKE_SEC)
        if welcome.header.kind == Kind.REFUSED:
            text = f'the generator\'s site refuses this centre: {agreement.text_of(welcome.values)}'
            raise BadMessage(text) if welcome.values.get('for_good') is False else Refused(text)
        run, index, values = welcome.header.run, welcome.header.centre, welcome.values
        known = run, index, repr(values.get('digests')), repr(values.get('kinds'))
        try:
            if known != self._known:
                self._seat = self._make_seat(values, run, index)
                self._known = known
            num, labels = self._seat.contents()
            most = agreement.most_labels(labels[0].shape[1])
            if len(labels[0]) > most:
                raise Refused(f'{self.centre.data} has more than {most} different labels')
        except (Refused, ValueError, OSError) as error:
            tell(channel, Kind.REFUSED, outside(error, self.centre.data))
            raise Refused(str(error)) from error
        session = self._seat.session
        tensors = dict(values=torch.from_numpy(labels[0]).float(), counts=torch.from_numpy(labels[1]).long())
        channel.send(Message(Header(Kind.READY, index, run=run), dict(
            num=num, states=self._seat.saved(), session=session.number, step=session.step,
            shares_moments=self.centre.share is not None), tensors))
        return self._seat, run, index

    def _make_seat(self, values: Mapping[str, Any], run: bytes, index: int) -> Seat:
        """A seat for what the generator's site proposes, if this end makes the same of it.

        Raises Refused, ValueError, OSError.
        """
        config = configuration(values.get('options'))
        if entry := agreement.difference(apart.terms(config)[1], values.get('digests')):
            raise Refused(f'both ends make different things of the same options ({entry}): are they of one version, and is '
                          'the precision one that both machines have?')
        if not apart.is_apart(config) or agreement.number_of(','.join(apart.names(config)), self.centre.name) != index:
            raise Refused('the generator\'s site has another place for this centre than its name says')
        kinds = {name: config['regularizers'][apart.METHOD].get(name, 'float32') for name in ('images', 'grads')}
        check_data(self.centre, config)
        config = {**apart.as_centre(config, index, self.centre.data, dict(self.centre.more)), 'device': self.centre.device,
                  'data_loader_kwargs': dict(num_workers=0)}
        self.centre.limits.check(config, config['regularizers'][apart.METHOD]['schedule'])
        require_room(self.centre.private, run.hex())
        return Seat(config, index, kinds, distributed.pick_device(self.centre.device), self.centre.private / run.hex(),
                    self._hardening(config), self._on_stage, self.centre.share, self.centre.override)

    def _hardening(self, config: Mapping[str, Any]) -> Hardening:
        """What is done to image gradients: what this centre wants and what the run wants, whichever is stricter."""
        options = config['regularizers'][apart.METHOD]
        return self.centre.hardening.and_also(options.get('grad_clip'), options.get('grad_noise', 0.0))


def configuration(options: Any) -> dict[str, Any]:
    """The configuration that the options of the generator's site stand for. Raises Refused, ValueError."""
    from training.config.config_file import converted
    from training.config.methods import zoo_fields
    from training.config.options import OPTIONS
    from training.config.resolve import resolve
    from training.config.rules import UserError
    from training.config.schema import Config
    of_methods = {f'{name}_{field.name}' for name, field in zoo_fields()} - {f'{apart.METHOD}_{name}' for name in apart.OWN}
    allowed = {*agreement.CROSSING, 'precision', *of_methods}
    if not isinstance(options, Mapping) or not options.keys() <= allowed:
        raise Refused('the generator\'s site asks for options that it may not ask for')
    try:
        asked = {name: converted(name, value, f'--{name}') for name, value in options.items() if name in OPTIONS}
        own = dict(tdgan_listen='localhost:0', tdgan_insecure=True, gpus=1, metrics='none', log='none')
        return dict(Config.from_json(resolve({**asked, **own})[1]))
    except UserError as error:
        text = error.message if len(error.message) <= MAX_SENTENCE else f'{error.message[:MAX_SENTENCE]}...'
        raise Refused(f'the options of the generator\'s site: {text}') from error


def require_room(private: Path, run: str) -> None:
    """Raises Refused for one more run than a private directory may hold."""
    runs = [path.name for path in private.iterdir() if RUN.fullmatch(path.name)] if private.is_dir() else []
    if run not in runs and len(runs) >= MAX_RUNS:
        print(f'{private} holds {len(runs)} runs; remove those that are over, or give another --private.', file=sys.stderr,
              flush=True)
        raise Refused(f'this centre has taken part in {MAX_RUNS} runs and takes part in no other before some are removed')


def check_data(centre: Centre, config: Mapping[str, Any]) -> None:
    """Raises Refused unless the images of a centre have the shape that was agreed."""
    from contextlib import closing

    from training.dataset import ImageFolderDataset
    kwargs = {**config['centre_kwargs'], **dict(centre.more), 'path': centre.data}
    kwargs.pop('class_name')
    kwargs.pop('resolution')
    with closing(ImageFolderDataset(**kwargs)) as dataset:
        dataset.require_trainable()
        shape = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    if shape != dict(config['data_shape']):
        raise Refused(f'the images of {centre.data} have {in_words(shape)}; '
                      f'agreed are {in_words(config["data_shape"])}')


def in_words(shape: Mapping[str, int]) -> str:
    """What items of a data set are like."""
    res, channels, width = shape['img_resolution'], shape['img_channels'], shape['c_dim']
    return f'{res} pixels, {channels} channels, {width} numbers in a label'


def tell(channel: Channel, kind: Kind, text: str) -> None:
    """Says why, if the other end still listens."""
    try:
        channel.send(Message(Header(kind), dict(text=text[:agreement.MAX_TEXT])))
        time.sleep(LINGER_SEC)
    except Closed:
        pass


def outside(error: Exception, data: str) -> str:
    """What the other end hears of an error: no path of this machine, and no name of an image."""
    return StaysHere.outside if isinstance(error, (StaysHere, OSError)) else str(error).replace(data, 'its data set')
