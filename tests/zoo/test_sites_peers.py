"""TDGAN between sites: peers that do not fit each other are refused, with a sentence at both ends."""
import re
import threading
from types import SimpleNamespace

import pytest
from site_runs import BASE
from tiny import make_dataset

import train
from losses_ext.sites import agreement, apart, arrival, hub, take_part
from losses_ext.sites.agreement import Kind
from losses_ext.sites.take_part import Centre, Participant, Refused
from torch_utils.wire import channel
from torch_utils.wire.message import Header, Message
from training.config import going_on


@pytest.fixture(autouse=True)
def _nobody_lingers(monkeypatch):
    monkeypatch.setattr(take_part, 'LINGER_SEC', 0.02)
    monkeypatch.setattr(arrival, 'LINGER_SEC', 0.02)


def site(*args, **digests):
    """A generator's site of north and south that does not listen; `digests`: what is another there."""
    config = train.config_from_args([*BASE, '--tdgan_mode=remote', '--tdgan_centres=north,south',
                                     '--tdgan_res=16', '--tdgan_listen=localhost:7300', '--tdgan_insecure=1', *args])
    options, common = apart.terms(config)
    found = hub.Hub(['north', 'south'], 5, lambda on_channel: lambda: None)
    found.serve(None, config, options, {**common, **digests})
    found.open()
    return found


def met(generator, centre, names=None):
    """What the centre says of why it is refused, or refuses."""
    there, here = channel.pair(names)
    thread = threading.Thread(target=generator.connect, args=(here,), daemon=True)
    thread.start()
    with pytest.raises(Refused) as error:
        Participant(centre).attend(there)
    thread.join(60)
    assert generator.links[0].presence is generator.links[1].presence is None
    return str(error.value)


@pytest.mark.parametrize('args, images, sentence', [
    ([], dict(res=32), 'have 32 pixels, .*; agreed are 16 pixels, '),
    ([], dict(channels=1), ', 1 channels, .*, 3 channels, '),
    (['--cond=1', '--tdgan_labels=4'], dict(num_classes=3), ', 3 numbers in a label; .*, 4 numbers '),
    (['--cond=1', '--tdgan_labels=3'], {}, ', 0 numbers in a label; .*, 3 numbers in a label'),
], ids=['resolution', 'channels', 'width of labels', 'no labels'])
def test_a_centre_with_images_of_another_shape_refuses(tmp_path, capsys, args, images, sentence):
    centre = Centre('north', make_dataset(tmp_path / 'a.zip', **images), tmp_path / 'private', 'cpu')
    said = met(site(*args), centre)
    told = capsys.readouterr().err
    assert re.search(sentence, said)
    assert re.search(f'Warning: a connection was refused: the centre north refuses: .*{sentence}', told)
    assert str(tmp_path) not in told and told.count('\n') == 1


@pytest.mark.parametrize('entry', ['seed', 'kimg', 'loss_kwargs'])
def test_ends_that_make_different_things_of_the_options_say_which(tmp_path, capsys, entry):
    """As those of other versions do, or one whose seed is another than it says."""
    centre = Centre('north', make_dataset(tmp_path / 'a.zip'), tmp_path / 'private', 'cpu')
    said = met(site(**{entry: '0' * 24}), centre)
    assert said.startswith(f'both ends make different things of the same options ({entry})')
    assert f'the centre north refuses: {said}' in capsys.readouterr().err


@pytest.mark.parametrize('name, certificate, sentence', [
    ('east', None, 'it calls itself by a name that is not among --tdgan_centres'),
    ('north', ('south',), 'it calls itself north, but its certificate does not'),
])
def test_a_centre_that_is_none_of_the_run_is_refused(tmp_path, capsys, name, certificate, sentence):
    centre = Centre(name, make_dataset(tmp_path / 'a.zip'), tmp_path / 'private', 'cpu')
    assert met(site(), centre, certificate) == f'the generator\'s site refuses this centre: {sentence}'
    assert f'Warning: a connection was refused: {sentence}.\n' == capsys.readouterr().err


def test_a_centre_of_another_version_is_refused_and_told_why(capsys):
    there, here = channel.pair()
    thread = threading.Thread(target=site().connect, args=(here,), daemon=True)
    thread.start()
    there.send(Message(Header(Kind.HELLO), dict(protocol=agreement.PROTOCOL - 1, name='north')))
    answer = there.receive(agreement.of_kinds({Kind.REFUSED: {}}), 60)
    thread.join(60)
    sentence = f'the centre speaks another version of this protocol than {agreement.PROTOCOL}'
    assert answer.values == dict(text=sentence, for_good=True) and sentence in capsys.readouterr().err


def test_a_run_whose_stages_add_up_crookedly_ends_as_finished(tmp_path, monkeypatch):
    """0.1 + 0.1 + 0.1 is more than 0.3: such a run was stopped and continued for ever."""
    config = dict(kimg=0.1 + 0.1 + 0.1, run_dir=None)
    monkeypatch.setattr(going_on, 'kimg_of', lambda config: 0.3)
    assert going_on.is_finished(config)
    there, here = channel.pair()
    generator = hub.Hub(['north'], 5, lambda on_channel: lambda: None)
    generator.serve(SimpleNamespace(shares=None), config, {}, {})
    generator.open()
    generator.links[0].presence = SimpleNamespace(channel=here)
    generator.end_iteration(300, 75)
    generator.close()
    assert there.receive(agreement.of_kinds({Kind.END: {}}), 60).values == dict(finished=True)


def test_who_waits_for_another_certificate_says_so_once(tmp_path, monkeypatch, capsys):
    reasons = iter([*[channel.NotTrusted('it has expired')] * 2, OSError('nobody listens'), RuntimeError('enough')])
    pauses = []
    monkeypatch.setattr(take_part.time, 'sleep', pauses.append)

    def connect():
        raise next(reasons)

    with pytest.raises(RuntimeError, match='enough'):
        Participant(Centre('north', 'a.zip', tmp_path, 'cpu')).take_part(connect)
    assert capsys.readouterr().out.splitlines() == [
        'Waiting for the generator\'s site: it has expired.',
        'Waiting for the generator\'s site: nobody listens.']
    assert pauses == [take_part.DISTRUST_SEC] * 2 + [take_part.RETRY_SEC]
