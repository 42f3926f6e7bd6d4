"""TDGAN between sites with a hostile peer, alive, over gRPC: a centre whose generator's site sends what it
likes, a generator's site to which anybody sends what they like, and one whose own centre lies.

Nothing but sentences comes of it, memory has an end, and the honest run goes on. SITES_ROUNDS=2000 makes
so many connections instead of 150, and an honest run that is as much longer.
"""
import os
import random
import threading
import time
from contextlib import suppress
from functools import partial

import psutil
import pytest
import torch
from site_runs import BASE, Sites, assert_equal_runs
from tiny import make_dataset

import train
from losses_ext.sites import agreement, apart, arrival, take_part
from losses_ext.sites.agreement import Kind
from losses_ext.sites.centre_page import Page
from losses_ext.sites.take_part import Centre, Participant, Refused
from report import refresh
from torch_utils.wire import certificates, channel, grpc_channel
from torch_utils.wire.message import Header, Message, frames_of
from training.run.health import CannotGoOn

NUM_ROUNDS = int(os.environ.get('SITES_ROUNDS', '150'))
RUN = bytes(range(16))
MAX_GROWTH = 400 * 2 ** 20
WILD = (None, True, -1, 0, 1, 3, 2 ** 62, 2 ** 200, 0.5, 1e300, '', 'Dmain', 'Gmain', 'x' * 5000, '../../etc/passwd',
        [], {}, [[[]]], {'p': 9}, ['Loss/x'], [2 ** 70])
COUNTS = [9], [], [2 ** 62] * 3, [-1], [1, 2]


@pytest.fixture(autouse=True)
def _nobody_lingers(monkeypatch):
    monkeypatch.setattr(take_part, 'LINGER_SEC', 0.02)
    monkeypatch.setattr(arrival, 'LINGER_SEC', 0.02)


def send_frames(end, frames):
    """Sends frames as they are, of whatever kind."""
    with suppress(channel.Closed):
        for frame in frames:
            end._put(end.copied([frame]))


def spoilt(message, rng):
    """The frames of a message with one thing changed."""
    frames = [bytearray(frame) for frame in frames_of(message)]
    i = rng.randrange(len(frames))
    kind = rng.randrange(5)
    if kind == 0:
        frames[i][rng.randrange(len(frames[i]))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del frames[i][rng.randrange(len(frames[i])):]
    elif kind == 2:
        frames.insert(i, frames[i])
    elif kind == 3:
        frames[i] += rng.randbytes(rng.randint(1, 2000))
    else:
        rng.shuffle(frames)
    return frames


def wild(values, rng):
    """The same values, but for some."""
    values = dict(values)
    for name in rng.sample(sorted(values), rng.randint(1, min(3, len(values)))):
        values[name] = rng.choice(WILD)
    if rng.random() < 0.2:
        values[rng.choice(['data', 'outdir', 'G', 'nimg', 'x'])] = rng.choice(WILD)
    return values


def wild_tensors(rng):
    """Tensors that may or may not be what was agreed."""
    names = rng.sample(['img', 'c', 'grad', 'signs', 'statistics', 'values', 'counts', 'feat8'], rng.randint(0, 3))
    shapes = [[8, 3, 16, 16], [8, 0], [4, 3, 16, 16], [0, 2], [1], [8, 4, 8, 8], [0], []]
    return {name: torch.full(rng.choice(shapes), rng.choice([0.0, float('nan'), 1e30])) for name in names}


# A generator's site that sends what it likes.


class FalseSite:
    """Offers a run as a real one does, more or less, and then asks for anything."""

    def __init__(self, seed):
        config = train.config_from_args([*BASE, '--tdgan_schedule=0:1', '--tdgan_mode=remote', '--tdgan_centres=north',
                                         '--tdgan_listen=localhost:0', '--tdgan_insecure=1', '--tdgan_res=16'])
        options, digests = apart.terms(config)
        kinds = dict(images='float32', grads='float32')
        self.offer = dict(options=options, digests=digests, name='north', kinds=kinds, session=0)
        self.rng = random.Random(seed)
        self.is_honest, self.answers = False, []
        self.listener = grpc_channel.Listener('localhost:0', None, self.meet)

    def meet(self, end):
        with suppress(channel.Closed, TimeoutError):
            end.receive(agreement.of_kinds({Kind.HELLO: {}}), 20)
            self.speak(end)
        time.sleep(0.05)
        end.close()

    def speak(self, end):
        rng, welcome = self.rng, Message(Header(Kind.WELCOME, run=RUN), self.offer)
        kind = 9 if self.is_honest else rng.randrange(4)
        if kind == 0:
            return send_frames(end, [rng.randbytes(rng.randrange(1, 3000)) for _ in range(rng.randint(1, 4))])
        if kind == 1:
            return send_frames(end, spoilt(welcome, rng))
        if kind == 2:
            options, digests = wild(self.offer['options'], rng), {**self.offer['digests'], 'x': rng.random()}
            end.send(Message(Header(Kind.WELCOME, run=RUN), {**self.offer, 'options': options, 'digests': digests}))
            return time.sleep(0.3)
        end.send(welcome)
        end.receive(lambda header: dict(values=agreement.label_form(dict(data_shape=dict(c_dim=0)), 9),
                                        counts=agreement.TensorForm(torch.int64, (9,), (True,))), 60)
        self.ask(end)

    def ask(self, end):
        """A stage, a step for G, a step for D, a state; then, if this is no honest site, whatever."""
        rng, session = self.rng, self.rng.randrange(1, 2 ** 60)
        step = dict(round=0, num=8, nimg=0, share=1.0, nhwc=False, p=0.0, last=True, told={}, weights=[1.0], feats='')
        fakes = dict(img=torch.zeros(8, 3, 16, 16), c=torch.zeros(8, 0))
        requests = [(Kind.ENTER, dict(nimg=0, order=0, seed=1, resumed=False, stage=0, early=[]), {}),
                    (Kind.JUDGE, {**step, 'phase': 'Gmain'}, fakes),
                    (Kind.LEARN, {**step, 'phase': 'Dmain'}, fakes),
                    (Kind.SAVE, dict(nimg=8, keep=[8]), {}), (Kind.LEAVE, {}, {})]
        first_wild = len(requests) if self.is_honest else rng.randrange(len(requests))
        for number, (kind, values, tensors) in enumerate(requests):
            header = dict(step=number + 1, iteration=0, session=session, run=RUN)
            if number >= first_wild:
                kind = rng.choice([kind, rng.randrange(25)])
                values, tensors = wild(values or dict(x=1), rng), tensors if rng.random() < 0.7 else wild_tensors(rng)
                header[rng.choice(['step', 'iteration', 'session'])] = rng.choice([0, 1, 2, 5, 2 ** 31])
            message = Message(Header(kind, **header), values, tensors)
            if number >= first_wild and rng.random() < 0.3:
                return send_frames(end, spoilt(message, rng))
            end.send(message)
            grad = agreement.TensorForm(torch.float32, (8, 3, 16, 16)) if kind in (Kind.JUDGE, Kind.JUDGE_AND_LEARN) else None
            self.answers.append(end.receive(agreement.answer_forms(grad), 20))


def test_a_centre_stands_whatever_the_generators_site_sends(tmp_path, capsys):
    site = FalseSite(seed=1)
    centre = Centre('north', make_dataset(tmp_path / 'a.zip'), tmp_path / 'private', 'cpu')
    page = Page(centre, refresh)
    participant = Participant(centre, page.begin_stage, page.after)
    before, ends = psutil.Process().memory_info().rss, dict.fromkeys(('refused', 'cannot go on', 'closed', 'again'), 0)

    def meet():
        end = grpc_channel.connect(f'localhost:{site.listener.port}', None)
        try:
            participant.attend(end)
            ends['again'] += 1
        except Refused as error:
            assert len(str(error)) < 1000
            ends['refused'] += 1
        except CannotGoOn:
            ends['cannot go on'] += 1
        except (channel.Closed, TimeoutError):
            ends['closed'] += 1
        finally:
            end.close()

    try:
        for _ in range(NUM_ROUNDS):
            participant._num_bad = 0
            meet()
        with capsys.disabled():
            print(f' Connections to a false site: {ends}.')
        assert sum(ends.values()) == NUM_ROUNDS and ends['refused'] > 5 and ends['again'] > 5, ends
        site.is_honest = True
        site.answers.clear()
        meet()
    finally:
        site.listener.close()
    assert [answer.header.kind for answer in site.answers] == [Kind.ANSWER] * 5
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.zip', 'private']
    said = ''.join(capsys.readouterr())
    assert 'Traceback' not in said and max(map(len, said.splitlines())) < 1000
    shown = (tmp_path / 'private/report.html').read_text()
    assert shown.count('data:image') >= 2 and 'D&#39;s loss' in shown.replace("'", '&#39;')


# Others who connect to a generator's site.


class FalseCentre(threading.Thread):
    """Connects again and again with a centre's certificate, and says what it likes."""

    def __init__(self, port, identity, seed):
        super().__init__(daemon=True)
        self.rng, self.num, self.is_over = random.Random(seed), 0, False
        self.dial = partial(grpc_channel.connect, f'localhost:{port}', identity, timeout=30)

    def run(self):
        while not self.is_over:
            with suppress(OSError, channel.Closed, TimeoutError, agreement.BadMessage):
                end = self.dial()
                try:
                    self.speak(end)
                    self.num += 1
                finally:
                    end.close()

    def speak(self, end):
        rng = self.rng
        hello = Message(Header(Kind.HELLO), dict(protocol=agreement.PROTOCOL, name='south'))
        kind = rng.randrange(5)
        if kind == 0:
            return send_frames(end, [rng.randbytes(rng.randrange(1, 3000)) for _ in range(rng.randint(1, 4))])
        if kind == 1:
            return send_frames(end, spoilt(hello, rng))
        if kind == 2:
            return end.send(Message(hello.header, wild({**hello.values, 'name': rng.choice(['north', 'x', 7])}, rng)))
        end.send(hello)
        welcome = end.receive(agreement.of_kinds({Kind.WELCOME: {}, Kind.REFUSED: {}}), 10)
        values = wild(dict(num=9, states=[], session=0, step=0), rng)
        ready = Message(Header(Kind.READY, 1, run=welcome.header.run), values, dict(
            values=torch.zeros(rng.choice([0, 1, 3]), 0), counts=torch.tensor(rng.choice(COUNTS), dtype=torch.int64)))
        if kind == 3:
            return send_frames(end, spoilt(ready, rng))
        end.send(ready)
        end.send(Message(Header(Kind.ANSWER), dict(statistics=['Loss/x']), wild_tensors(rng)))


def test_an_honest_run_goes_on_whatever_others_send_to_its_generators_site(tmp_path, capsys):
    sites = Sites(tmp_path, start=False)
    stranger = FalseCentre(sites.port, certificates.load(sites.certificates['south']), seed=2)
    before = psutil.Process().memory_info().rss
    try:
        sites.start('north')
        stranger.start()
        assert_equal_runs(sites, f'--tdgan_schedule=0:{0.064 * NUM_ROUNDS / 150:g}')
    finally:
        stranger.is_over = True
        sites.close()
    said = capsys.readouterr().err
    with capsys.disabled():
        print(f' Connections of a false centre: {stranger.num}.')
    assert stranger.num > 3 and said.count('Warning: a connection was refused: ') > 3
    assert 'Traceback' not in said and max(map(len, said.splitlines())) < 1000
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH


class LyingCentre(FalseCentre):
    """Takes its place, and answers with what was not agreed."""

    def speak(self, end):
        end.send(Message(Header(Kind.HELLO), dict(protocol=agreement.PROTOCOL, name='south')))
        run = end.receive(agreement.of_kinds({Kind.WELCOME: {}}), 30).header.run
        end.send(Message(Header(Kind.READY, 1, run=run), dict(num=9, states=[], session=0, step=0), dict(
            values=torch.zeros(1, 0), counts=torch.tensor([9]))))
        request = end.receive(agreement.of_kinds({Kind.ENTER: {}}), 30)
        answer = Message(Header(Kind.ANSWER, answers=request.digest), dict(statistics=[]), wild_tensors(self.rng))
        send_frames(end, spoilt(answer, self.rng))


def test_a_centre_of_a_run_that_lies_ends_it_with_a_sentence(tmp_path):
    sites = Sites(tmp_path, start=False)
    liar = LyingCentre(sites.port, certificates.load(sites.certificates['south']), seed=3)
    liar.start()
    try:
        with pytest.raises(CannotGoOn, match='the centre south'):
            sites.train(True, '--tdgan_schedule=1:0.064')
    finally:
        liar.is_over = True
