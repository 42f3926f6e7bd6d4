"""TDGAN between sites: one end does what it should not. The other end is in this process."""
import queue
import re
import subprocess
import sys
import threading
import time
import zipfile

import pytest
import torch
from click.testing import CliRunner
from site_runs import BASE
from tiny import make_dataset

import tdgan_centre
import train
from losses_ext.sites import agreement, apart, hub, take_part
from losses_ext.sites.agreement import Kind
from torch_utils.wire import channel, grpc_channel, record
from torch_utils.wire.message import Header, Message, TensorForm
from training.run.health import CannotGoOn

ANYTHING = agreement.of_kinds({Kind.HELLO: {}, Kind.REFUSED: {}, Kind.FAILED: {}, Kind.READY: dict(
    values=TensorForm(torch.float32, (99, 0), (True, False)), counts=TensorForm(torch.int64, (99,), (True,)))})
IMAGE = 'patient-jane-doe.png'
STEP = dict(phase='Dmain', round=0, num=8, nimg=0, share=1.0, nhwc=False, p=0.0, last=True, weights=[1.0], feats='')


def options(*args):
    """(what a centre is told, digests) for a run of the centres north and south."""
    given = ['--tdgan_mode=remote', '--tdgan_centres=north,south', '--tdgan_listen=localhost:7300', '--tdgan_insecure=1',
             '--tdgan_res=16']
    return apart.terms(train.config_from_args([*BASE, *given, *args]))


class Generator:
    """A generator's site: sends what a test wants. `part`: the centre that it has to do with."""

    def __init__(self, data, private, told, digests, **more):
        self.part = take_part.Participant(take_part.Centre('north', str(data), private, 'cpu', **more))
        self.end, other = channel.pair()
        self.thread = threading.Thread(target=self._attend, args=(other,), daemon=True)
        self.thread.start()
        self.end.receive(ANYTHING, 60)
        self.send(Kind.WELCOME, 0, dict(options=told, digests=digests, name='north', kinds={}, session=0))
        self.answer = self.end.receive(ANYTHING, 60)

    def _attend(self, other):
        self.error = None
        try:
            self.part.attend(other)
        except Exception as error:      # noqa: BLE001 (The test looks at it.)
            self.error = error

    def send(self, kind, step, values, **tensors):
        self.end.send(Message(Header(kind, step=step, session=1, run=b'r' * 16), values, tensors))

    def enter(self):
        """The first stage begins."""
        self.send(Kind.ENTER, 1, dict(nimg=0, order=0, seed=0, resumed=False, stage=0, early=[]))
        self.end.receive(agreement.answer_forms(None), 60)

    def learn(self, **values):
        self.send(Kind.LEARN, 2, {**STEP, **values}, img=torch.zeros([8, 3, 16, 16]), c=torch.zeros([8, 0]))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'north.zip', num=12)


def test_names_of_images_stay_at_a_centre_when_one_cannot_be_read(tmp_path, data):
    with zipfile.ZipFile(data) as source, zipfile.ZipFile(tmp_path / 'broken.zip', 'w') as target:
        for i, name in enumerate(name for name in source.namelist() if name.endswith('.png')):
            content = source.read(name)
            target.writestr(f'{i}-{IMAGE}', content[:60] + bytes(20) + content[80:])
    generator = Generator(tmp_path / 'broken.zip', tmp_path / 'private', *options())
    said = generator.answer
    if said.header.kind == Kind.READY:
        generator.enter()
        generator.learn(told={})
        said = generator.end.receive(agreement.answer_forms(None), 60)
    generator.thread.join(60)
    assert said.header.kind in (Kind.FAILED, Kind.REFUSED)
    assert 'doe' not in str(said.values) and str(tmp_path) not in str(said.values) and 'images' in said.values['text']
    assert IMAGE in str(generator.error)                    # Here it is said.


def test_what_a_generator_sends_cannot_write_to_a_terminal(tmp_path, data, capsys):
    generator = Generator(data, tmp_path / 'private', *options('--reg_type=tdgan,apa', '--aug=noaug'))
    generator.enter()
    generator.learn(told=dict(apa={'p': 0.0, '\x1b]0;owned\x07': 'x'}))
    generator.thread.join(60)
    said = capsys.readouterr().err
    assert 'connecting again' in said and '\x1b' not in said and 'owned' not in said

    class Ended:
        def code(self):
            return 'ABORTED'

        def details(self):
            return 'no\x1b[2J\r\nmore'

    assert grpc_channel.reason_of(Ended()) == 'ABORTED: no?[2J more'


@pytest.mark.parametrize('change, sentence', [
    (dict(tdgan_schedule=','.join(['0:1', '1:1'] * 5001)), 'more than 10000 stages'),
    (dict(tdgan_schedule='0:1e9'), 'more than 1e+06 kimg'),
    (dict(tdgan_centres='north,' + ','.join(f'c{i}' for i in range(1000)), tdgan_schedule='0:1'), 'or 1000 centres'),
])
def test_a_run_of_endless_stages_or_centres_is_refused(tmp_path, data, change, sentence):
    told = {**options()[0], **change}
    generator = Generator(data, tmp_path / 'private', told, apart.terms(take_part.configuration(told))[1])
    assert sentence in generator.answer.values['text']


@pytest.mark.parametrize('limits, sentence', [
    (take_part.Limits(network=0.001), r'the run asks for [\d.]+ million weights; this centre allows 0.001 \(--max-network\)'),
    (take_part.Limits(message=0.01), r'the run asks for [\d.]+ MiB of images at once; this centre allows 0.01 \(--max-message\)'),
])
def test_a_centre_refuses_what_is_larger_than_it_allows(tmp_path, data, limits, sentence):
    generator = Generator(data, tmp_path / 'private', *options(), limits=limits)
    assert re.search(sentence, generator.answer.values['text']) and not (tmp_path / 'private').exists()


def test_feature_maps_count_as_a_message(tmp_path, data):
    told, digests = options('--reg_type=tdgan,ggdr', '--ggdr_res=16', '--cbase=16384', '--cmax=512')
    generator = Generator(data, tmp_path / 'private', told, digests, limits=take_part.Limits(message=0.5))
    assert 'MiB of feature maps in a message; this centre allows 0.5 (--max-message)' in generator.answer.values['text']


@pytest.mark.parametrize('early', [[[1]], [{}], 'x', None, [1.0], [True]])
def test_stages_that_are_none_end_the_connection_and_not_the_centre(tmp_path, data, early, capsys):
    generator = Generator(data, tmp_path / 'private', *options())
    generator.send(Kind.ENTER, 1, dict(nimg=0, order=0, seed=0, resumed=False, stage=0, early=early))
    generator.thread.join(60)
    assert generator.error is None and 'which stages have ended early' in capsys.readouterr().err


def test_a_private_directory_is_of_one_user_and_one_program(tmp_path, data, capsys):
    with tdgan_centre.private_directory(tmp_path / 'private'):
        assert (tmp_path / 'private').stat().st_mode & 0o777 == 0o700
        code = 'import tdgan_centre, pathlib, sys\nwith tdgan_centre.private_directory(pathlib.Path(sys.argv[1])): pass'
        found = subprocess.run([sys.executable, '-c', code, tmp_path / 'private'], capture_output=True, text=True)
        assert found.returncode == 1 and 'another program uses it' in found.stderr
    assert capsys.readouterr().err == ''
    (tmp_path / 'private').chmod(0o755)
    with tdgan_centre.private_directory(tmp_path / 'private'):
        assert 'other users of this machine may look into it' in capsys.readouterr().err
    record.Recorder(tmp_path / 'wire')
    assert (tmp_path / 'wire').stat().st_mode & 0o777 == 0o700


def test_two_programs_under_one_name_are_noticed(capsys, monkeypatch):
    found = hub.Hub(['north'], 0.0, lambda on_channel: None)
    monkeypatch.setattr(hub.arrival, 'greet', lambda channel, *_: (0, hub.Presence(channel, 1, (), frozenset(), 1, 1)))
    for _ in range(hub.MANY_REPLACED + 1):
        assert 'two programs' not in capsys.readouterr().err
        found.connect(channel.pair()[0])
    assert 'the centre north has connected 5 times while it was connected: two programs may run' in capsys.readouterr().err


def test_a_generators_site_cannot_fill_a_private_directory_with_runs(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(take_part, 'MAX_RUNS', 2)
    for run in ('a' * 32, 'b' * 32):
        (tmp_path / 'private' / run).mkdir(parents=True)
    generator = Generator(data, tmp_path / 'private', *options())
    assert 'takes part in no other' in generator.answer.values['text'] and str(tmp_path) not in generator.answer.values['text']
    assert len(list((tmp_path / 'private').iterdir())) == 2 and 'holds 2 runs; remove' in capsys.readouterr().err
    (tmp_path / 'private' / ('a' * 32)).rmdir()
    assert Generator(data, tmp_path / 'private', *options()).answer.header.kind == Kind.READY


def test_codes_of_centres_take_no_more_memory_than_there_are_centres(tmp_path, data):
    told = {**options()[0], 'tdgan_slots': 100_000}         # A square of that would be 40 GB.
    generator = Generator(data, tmp_path / 'private', told, apart.terms(take_part.configuration(told))[1])
    assert generator.answer.header.kind == Kind.READY


def test_a_handshake_of_tiny_pieces_ends_in_its_time():
    frames = queue.Queue(1)
    other = channel.Channel(frames, queue.Queue())
    forms = {'x': TensorForm(torch.uint8, (10 ** 6,))}

    def drip():
        message = channel.frames_of(Message(Header(Kind.HELLO), {}, dict(x=torch.zeros(10 ** 6, dtype=torch.uint8))))
        frames.put([next(message)])
        while other.is_open:
            frames.put([b'0'])
            time.sleep(0.01)

    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(TimeoutError):
        other.receive(lambda header: forms, 0.2)
    other.close()


def test_an_end_that_does_not_read_is_not_waited_for_for_ever():
    one, _ = channel.pair()
    with pytest.raises(channel.Closed, match='does not read'):
        one.send(Message(Header(Kind.HELLO), {}, dict(x=torch.zeros(2 ** 24, dtype=torch.uint8))), 0.1)


def test_a_centre_that_connects_and_never_answers_is_away_in_the_end(monkeypatch):
    monkeypatch.setattr(hub, 'ANSWER_SEC', 0.1)
    found = hub.Hub(['north'], 0.15, lambda on_channel: lambda: None)
    found.serve(None, dict(kimg=1, run_dir=None), {}, {})
    ends = []

    def connect(*_):
        ends.append(channel.pair()[0])
        found.links[0].presence = hub.Presence(ends[-1], 1, (), frozenset(), 1, 1)

    monkeypatch.setattr(found, '_resume', connect)
    connect()
    pending = hub.Pending(0, Message(Header(Kind.JUDGE)), agreement.answer_forms(None), hub.ignore)
    with pytest.raises(hub.Away, match='has connected and not answered for 0.2 seconds'):
        found._answer(pending)
    assert len(ends) == 2 and not any(end.is_open for end in ends)


@pytest.mark.parametrize('signs', [[[1.0, -8.0]], [[9.0, 8.0]], [[float('inf'), float('inf')]], [[1e30, 1e30]]])
def test_signs_that_no_critic_has_are_refused(signs, monkeypatch):
    monkeypatch.setattr(hub, 'report_moments', lambda answer, known: None)
    found = hub.Hub(['north'], 0.0, lambda on_channel: None)

    class Critics:
        @staticmethod
        def critics_of(source):
            return [torch.nn.Module()]

    class Context:
        source = 0

    found.game = Critics()
    with pytest.raises(CannotGoOn, match='not agreed'):
        found._take_statistics(Context(), Message(Header(Kind.ANSWER), {}, dict(signs=torch.tensor(signs))))


def test_a_message_that_cannot_be_recorded_does_not_leave(tmp_path):
    frames = queue.Queue()
    one = channel.Channel(queue.Queue(), frames)
    dial = record.recorded(lambda: one, str(tmp_path / 'wire'))
    (tmp_path / 'wire').rmdir()
    with pytest.raises(record.RecordError, match='--record-wire'):
        dial().send(Message(Header(Kind.HELLO)))
    assert frames.empty()


def test_a_centre_with_few_images_is_told_so_before_anything_starts(tmp_path, data):
    args = [f'--data={data}', f'--private={tmp_path / "private"}', '--connect=localhost:7300', '--name=north', '--insecure']
    found = CliRunner().invoke(tdgan_centre.main, [*args, '--share-moments'])
    assert found.exit_code == 2 and '--share-moments: moments of 12 images are nearly their features' in found.output
    assert CliRunner().invoke(tdgan_centre.main, [*args, '--dry-run']).exit_code == 0 and not (tmp_path / 'private').exists()


def test_images_that_have_changed_since_a_state_was_saved_are_noticed(tmp_path, data):
    """As on one machine: neither gone on with in silence nor for ever."""
    def first_answer(path, **more):
        generator = Generator(path, tmp_path / 'private', *options(), **more)
        generator.send(Kind.ENTER, 1, dict(nimg=0, order=0, seed=0, resumed=True, stage=0, early=[]))
        return generator.end.receive(agreement.answer_forms(None), 60)

    generator = Generator(data, tmp_path / 'private', *options())
    generator.enter()
    generator.send(Kind.SAVE, 2, dict(nimg=0, keep=[]))
    assert generator.end.receive(agreement.answer_forms(None), 60).header.kind == Kind.ANSWER
    generator.end.close()
    assert first_answer(data).header.kind == Kind.ANSWER
    other = make_dataset(tmp_path / 'other.zip', num=12, seed=1)
    said = first_answer(other)
    assert said.header.kind == Kind.FAILED
    assert 'have changed since' in said.values['text'] and '--override' in said.values['text']
    assert first_answer(other, override=True).header.kind == Kind.ANSWER


@pytest.mark.parametrize('option', ['--private', '--record-wire'])
@pytest.mark.parametrize('place', ['', 'below', 'linked'])
def test_what_a_centre_writes_does_not_join_its_images(tmp_path, data, option, place):
    images = tmp_path / 'images'
    zipfile.ZipFile(data).extractall(images)
    (tmp_path / 'linked').symlink_to(images)
    where = tmp_path / 'linked' if place == 'linked' else images / place
    args = [f'--data={images}', f'--private={tmp_path / "private"}', '--connect=localhost:1', '--name=a',
            '--insecure', '-n']
    assert CliRunner().invoke(tdgan_centre.main, args).exit_code == 0
    said = CliRunner().invoke(tdgan_centre.main, [*args, f'{option}={where}'])
    assert said.exit_code == 2 and f'{option}={where} lies in --data={images}' in ' '.join(said.output.split())
