"""Messages from whoever sends them: nothing but what was
agreed gets memory, and everything else is one sentence."""
import hashlib
import json
import queue
import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils.wire import certificates, channel
from torch_utils.wire import message as wire_message
from torch_utils.wire.address import check_security
from torch_utils.wire.message import (
    HEADER,
    MAX_DESCRIPTION,
    Assembler,
    BadMessage,
    Header,
    Message,
    TensorForm,
    frames_of,
)
from torch_utils.wire.record import parse

FORMS = dict(img=TensorForm(torch.float32, (4, 3, 8, 8), (True, False, False, False)), n=TensorForm(torch.int64, (2,)))
NUM_FUZZED = 3000


def message(num=4):
    """One that fits."""
    tensors = dict(img=torch.randn(num, 3, 8, 8), n=torch.tensor([1, 2]))
    return Message(Header(5, centre=1, stage=2, step=3, iteration=4, session=5), dict(a=1.5, b=['x']), tensors)


def received(frames):
    """What comes of frames, None if something is missing."""
    assembler, found = Assembler(), None
    for frame in frames:
        found = assembler.add(frame, lambda header: FORMS)
    return found


@pytest.mark.parametrize('num', [0, 1, 4])
def test_a_message_arrives_as_it_was_sent(num):
    sent = message(num)
    found = received(list(frames_of(sent)))
    assert (found.header, found.values, found.digest) == (sent.header, sent.values, sent.digest)
    assert all(torch.equal(found.tensors[name], sent.tensors[name]) for name in FORMS)


def test_values_arrive_with_all_their_bits():
    sent = message()
    sent.tensors['img'] = torch.tensor([float('nan'), float('inf'), -0.0, 1e-45]).repeat(192).reshape(4, 3, 8, 8)
    found = received(list(frames_of(sent))).tensors['img']
    assert torch.equal(found.view(torch.int32), sent.tensors['img'].view(torch.int32))


@pytest.fixture
def _all_is_large(monkeypatch):
    monkeypatch.setattr(wire_message, 'LARGE', 0)


@pytest.mark.usefixtures('_all_is_large')
def test_data_that_come_in_one_piece_lie_where_they_came():
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    sent = message()
    data = grpc_channel.packed(list(frames_of(sent)))
    found = received(grpc_channel.unpacked(data)).tensors['img']
    assert 0 < found.data_ptr() - np.frombuffer(data, np.uint8).ctypes.data < len(data) - found.nbytes


def test_the_largest_tensor_comes_first_as_it_need_not_be_copied():
    sent = message()
    sent.tensors = dict(reversed(sent.tensors.items()))
    assert [len(frame) for frame in frames_of(sent)][1:] == [3072, 16, 32]
    assert list(received(list(frames_of(sent))).tensors) == ['img', 'n']


@pytest.mark.usefixtures('_all_is_large')
@pytest.mark.parametrize('shift', [0, 1, 8])
def test_data_that_lie_crooked_are_put_straight_and_all_may_be_changed(shift):
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    sent = message()
    data = memoryview(bytes(shift) + grpc_channel.packed(list(frames_of(sent))))[shift:]
    found = received(grpc_channel.unpacked(data)).tensors['img']
    assert found.data_ptr() % 16 == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(found.add_(1), sent.tensors['img'] + 1)


def test_what_has_come_is_no_tensor_of_who_sent_it():
    sent = message()
    found, expected = received(list(frames_of(sent))), sent.tensors['img'].clone()
    sent.tensors['img'].zero_()
    assert torch.equal(found.tensors['img'], expected)


def test_where_the_line_protects_data_the_digest_is_of_what_stands_before_them():
    sent = message()
    frames = list(frames_of(sent, hashes_data=False))
    assert frames[-1] == sent.digest == hashlib.sha256(frames[0]).digest()
    assembler = Assembler(hashes_data=False)
    found = [assembler.add(frame, lambda header: FORMS) for frame in frames][-1]
    assert found.digest == sent.digest and torch.equal(found.tensors['img'], sent.tensors['img'])
    assert torch.equal(parse(b''.join(frames)).tensors['img'], sent.tensors['img'])
    with pytest.raises(BadMessage, match='changed'):
        received(frames)                                    # Of an end that wants all of it.


def test_a_record_is_read_whatever_tensors_it_has():
    sent = message()
    data = b''.join(frames_of(sent))
    assert torch.equal(parse(data).tensors['img'], sent.tensors['img'])
    assert parse(data[:100]) is None


def test_a_record_that_says_it_has_more_than_it_has_gets_no_memory():
    entries = {'__metadata__': {'values': '{}'}, 'x': dict(dtype='F64', shape=[2 ** 39, 2 ** 9], data_offsets=[0, 2 ** 51])}
    text = json.dumps(entries).encode()
    assert parse(Header(20).packed() + struct.pack('<Q', len(text)) + text + bytes(100)) is None


def test_fuzzed_messages_are_refused_or_are_what_was_agreed():
    """Bits flipped, frames cut, repeated, left out, in another order: BadMessage, and nothing else."""
    rng, num_refused = random.Random(0), 0
    good = list(frames_of(message()))
    for _ in range(NUM_FUZZED):
        frames = [bytearray(frame) for frame in good]
        for _ in range(rng.randint(1, 3)):
            mutate(frames, rng)
        try:
            found = received(map(bytes, frames))
        except BadMessage as error:
            assert len(str(error)) < 300
            num_refused += 1
            continue
        assert found is None or all(FORMS[name].fits(t.dtype, tuple(t.shape)) for name, t in found.tensors.items())
    assert num_refused > NUM_FUZZED / 2


def mutate(frames, rng):
    """Changes one thing."""
    if not frames:
        return
    i = rng.randrange(len(frames))
    kind = rng.randrange(6)
    if kind == 0 and frames[i]:
        frames[i][rng.randrange(len(frames[i]))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del frames[i][rng.randrange(len(frames[i]) + 1):]
    elif kind == 2:
        frames.insert(i, bytearray(frames[i]))
    elif kind == 3:
        del frames[i]
    elif kind == 4:
        rng.shuffle(frames)
    else:
        frames[i] += rng.randbytes(rng.randint(1, 50))


def test_a_small_message_is_one_parcel_and_a_large_one_several_that_are_not_much_larger_than_its_pieces():
    frames = list(frames_of(message()))
    assert list(channel.parcels(iter(frames), channel.PARCEL_BYTES)) == [frames]
    large = [bytes(100), *[bytes(2 ** 20)] * 3, bytes(32)]
    found = list(channel.parcels(iter(large), channel.PARCEL_BYTES))
    assert sum(found, []) == large and len(found) == 3
    assert max(sum(map(len, parcel)) for parcel in found) <= channel.PARCEL_BYTES


def test_a_centres_certificate_does_not_do_for_the_other_end(tmp_path):
    """Although it is of the right authority, and even where the name is that of the machine."""
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    folders = certificates.make_authority(tmp_path, 'generator', ['localhost'], ['north'])
    for name, works in (('generator', True), ('localhost', False)):
        if name == 'localhost':
            folders = certificates.make_authority(tmp_path / 'other', 'generator', ['elsewhere'], ['localhost', 'north'])
        own = next(folder for folder in folders if folder.name == name)
        listener = grpc_channel.Listener('localhost:0', certificates.load(own), lambda channel: None)
        try:
            if works:
                grpc_channel.connect(f'localhost:{listener.port}', certificates.load(folders[-1]), 20).close()
            else:
                with pytest.raises(OSError, match='unsuitable certificate purpose'):
                    grpc_channel.connect(f'localhost:{listener.port}', certificates.load(folders[-1]), 5)
        finally:
            listener.close()


def test_a_parcel_crosses_with_its_frames():
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    parcel = [b'a', b'', bytes(300)]
    data = grpc_channel.packed(parcel)
    assert list(grpc_channel.unpacked(data)) == parcel and list(grpc_channel.unpacked(b'')) == []
    for wrong in (data[:-1], data[:2], data + b'x', grpc_channel.packed([b''] * 17), b'\xff' * 8):
        with pytest.raises(ValueError, match='no parcel'):
            list(grpc_channel.unpacked(wrong))


@pytest.mark.parametrize('kind', ['pair', 'stream'])
def test_what_was_sent_does_not_change_with_the_tensor(kind):
    """Whoever has sent a message may use its tensors for something else, though nobody has read it yet."""
    outgoing, unpack = queue.Queue(), list
    here = channel.Channel(queue.Queue(), outgoing)
    if kind == 'stream':
        grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
        here.copied, unpack = grpc_channel.packed, grpc_channel.unpacked
    sent = message()
    expected = sent.tensors['img'].clone()
    here.send(sent)
    sent.tensors['img'].zero_()
    assert torch.equal(received(unpack(outgoing.get_nowait())).tensors['img'], expected)


@pytest.mark.parametrize('change, sentence', [
    (lambda m: m.tensors.pop('n'), 'tensors came'),
    (lambda m: m.tensors.update(x=torch.zeros(1)), 'tensors came'),
    (lambda m: m.tensors.update(img=torch.zeros(5, 3, 8, 8)), 'agreed was F32'),
    (lambda m: m.tensors.update(img=torch.zeros(4, 3, 8, 9)), 'agreed was F32'),
    (lambda m: m.tensors.update(img=torch.zeros(4, 3, 8, 8, dtype=torch.float64)), 'img is F64'),
])
def test_tensors_that_were_not_agreed_are_refused_before_there_is_memory(change, sentence):
    sent = message()
    change(sent)
    first = next(frames_of(sent))
    with pytest.raises(BadMessage, match=sentence):
        received([first])


@pytest.mark.parametrize('text, sentence', [
    (b'{"__metadata__":{"values":"{}"},"img":{"dtype":"F32","shape":[1e9],"data_offsets":[0,4]}}', 'tensors came'),
    (b'{' * 1000, 'nested'),
    (b'[1]', 'no JSON object'),
    (b'{"__metadata__":{"values":"{\\"a\\":NaN}"}}', 'NaN is no number'),
    (b'\xff\xfe', 'no JSON'),
])
def test_descriptions_of_strangers(text, sentence):
    first = Header(1).packed() + len(text).to_bytes(8, 'little') + text
    with pytest.raises(BadMessage, match=sentence):
        received([first])


def test_a_description_has_an_end():
    with pytest.raises(BadMessage, match='begins with'):
        received([Header(1).packed() + b' ' * (MAX_DESCRIPTION + 100)])
    with pytest.raises(BadMessage, match='no message of this program'):
        received([bytes(HEADER.size + 100)])


def test_a_channel_that_ends_says_so_at_both_ends():
    one, other = channel.pair()
    one.send(message())
    assert other.receive(lambda header: FORMS).values == dict(a=1.5, b=['x'])
    with pytest.raises(TimeoutError):
        other.receive(lambda header: FORMS, timeout=0)
    one.close('enough')
    with pytest.raises(channel.Closed):
        other.receive(lambda header: FORMS)
    with pytest.raises(channel.Closed, match='enough'):
        one.send(message())


# Who is who.


@pytest.fixture(scope='module')
def ends(tmp_path_factory):
    pytest.importorskip('cryptography')
    folder = tmp_path_factory.mktemp('certs')
    return {path.name: path for path in certificates.make_authority(folder, 'generator', ['localhost'], ['north', 'south'])}


def test_certificates_that_would_be_refused_are_refused_at_once(ends, tmp_path):
    assert certificates.load(ends['north']).names == ('north',)
    old, other = (certificates.make_authority(tmp_path / name, 'generator', ['localhost'], ['north'], days)[1]
                  for name, days in (('old', 0), ('other', 1)))
    with pytest.raises(certificates.CertificateError, match='expired'):
        certificates.load(old)
    for name, source, sentence in (('authority.pem', other, 'was not issued by'),
                                   ('own.key', ends['south'], 'is not the key of')):
        mixed = tmp_path / name
        mixed.mkdir()
        for path in ends['north'].iterdir():
            (mixed / path.name).write_bytes((source if path.name == name else ends['north']).joinpath(path.name).read_bytes())
        with pytest.raises(certificates.CertificateError, match=sentence):
            certificates.load(mixed)
    with pytest.raises(certificates.CertificateError, match='cannot be read'):
        certificates.load(tmp_path / 'none')
    assert (ends['north'] / 'own.key').stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not all(map(shutil.which, ('openssl', 'sh'))), reason='openssl and a shell are needed')
def test_certificates_that_are_made_as_the_page_says_are_accepted(tmp_path):
    """The commands of docs/sites.md as they stand there, for a centre and for the generator's site."""
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    page = (Path(__file__).parents[2] / 'docs/sites.md').read_text(encoding='utf-8').replace('\\\n', ' ')
    authority, *of_centre = [line for line in page.splitlines() if re.match('    (openssl|printf) ', line)]
    of_site = '\n'.join(of_centre).replace('clientAuth', 'serverAuth').replace('north', 'localhost')
    found = []
    for name, script in (('north', '\n'.join([authority, *of_centre])), ('localhost', of_site)):
        subprocess.run(['sh', '-e', '-c', script], cwd=tmp_path, check=True, capture_output=True)
        own = tmp_path / f'of {name}'
        own.mkdir()
        for source, dest in (('authority.pem',) * 2, ('own.key',) * 2, (f'{name}.pem', 'own.pem')):
            shutil.copyfile(tmp_path / source, own / dest)
        found.append(certificates.load(own))
    assert [identity.names for identity in found] == [('north',), ('localhost',)]
    listener = grpc_channel.Listener('localhost:0', found[1], lambda end: None)
    try:
        grpc_channel.connect(f'localhost:{listener.port}', found[0]).close()
    finally:
        listener.close()


@pytest.mark.parametrize('taken', ['generator/own.key', 'north/own.key', 'north/authority.pem'])
def test_certificates_that_are_there_are_never_written_over(tmp_path, taken):
    pytest.importorskip('cryptography')
    (tmp_path / taken).parent.mkdir()
    (tmp_path / taken).write_text('a key in use')
    with pytest.raises(OSError, match=f'{taken}: exists already'):
        certificates.make_authority(tmp_path, 'generator', ['localhost'], ['north'])
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [tmp_path / taken]
    assert (tmp_path / taken).read_text() == 'a key in use'


@pytest.mark.parametrize('num', range(9))
def test_certificates_of_all_ends_are_written_or_none(tmp_path, monkeypatch, num):
    """Of nine files, which a disk has no room for after so many."""
    import os

    from click.testing import CliRunner

    import tdgan_authority
    pytest.importorskip('cryptography')
    (tmp_path / 'there').mkdir()
    before, opened, real = [*tmp_path.rglob('*')], [], os.open

    def full(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and str(tmp_path) in str(path):
            opened.append(path)
            if len(opened) > num:
                raise OSError(28, 'No space left on device', str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, 'open', full)
    for outdir in ('there', 'new/place'):
        opened.clear()
        result = CliRunner().invoke(tdgan_authority.main, [f'--outdir={tmp_path / outdir}', '--centres=north,south'])
        assert result.exit_code == 1 and result.output.startswith('Error: --outdir: ') and result.output.count('\n') == 1
        assert len(opened) == num + 1 and [*tmp_path.rglob('*')] == before


def test_nothing_older_than_tls_1_3_is_spoken_and_nobody_without_a_certificate(ends):
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    names = []

    def note(end):
        names.append(end.names)
        end.close()

    listener = grpc_channel.Listener('localhost:0', certificates.load(ends['generator']), note)
    try:
        def speaks(version, folder):
            context = ssl.create_default_context(cafile=ends['north'] / 'authority.pem')
            context.verify_flags |= ssl.VERIFY_X509_STRICT          # As Python does by itself from 3.13 on.
            if folder:
                context.load_cert_chain(folder / 'own.pem', folder / 'own.key')
            context.maximum_version = version
            context.set_alpn_protocols(['h2'])
            try:
                with socket.create_connection(('localhost', listener.port)) as plain, \
                        context.wrap_socket(plain, server_hostname='localhost') as end:
                    return end.recv(1) != b''
            except OSError:
                return False
        assert speaks(ssl.TLSVersion.TLSv1_3, ends['north'])
        assert not speaks(ssl.TLSVersion.TLSv1_2, ends['north'])
        assert not speaks(ssl.TLSVersion.TLSv1_3, None)
        end = grpc_channel.connect(f'localhost:{listener.port}', certificates.load(ends['south']))
        with pytest.raises(channel.Closed):
            end.receive(lambda header: {}, 60)
    finally:
        listener.close()
    assert names == [frozenset({'south'})]


@pytest.mark.parametrize('server, client, sentence', [
    ('aa', 'bb', 'the certificate shown there is refused: unable to get local issuer'),
    ('ww', 'ww', 'the certificate shown there is refused: Hostname mismatch'),
    ('oo', 'oo', 'the certificate shown there is refused: certificate has expired'),
    ('an', 'aa', 'the certificate shown there is refused: unsuitable certificate purpose'),
    ('aa', 'ab', 'whoever listens there does not accept the certificate in .*north'),
    ('oa', 'ao', r'own\.pem has expired'),
    ('', 'aa', 'what listens there speaks no TLS'),
    ('aa', '', 'what listens there wants certificates'),
], ids=['authority', 'host', 'expired', 'use', 'own authority', 'own expired', 'no TLS there', 'no TLS here'])
def test_an_end_that_is_not_trusted_is_told_why(tmp_path, monkeypatch, server, client, sentence):
    """Of each end: the authority that it trusts, and the certificate that it shows.
    a and b: two authorities, w: for another host, o: expired, n: that of a centre."""
    grpc_channel = pytest.importorskip('torch_utils.wire.grpc_channel')
    monkeypatch.setattr(grpc_channel, 'DOUBT_SEC', 0.3)
    hosts = dict(a='localhost', b='localhost', w='elsewhere', o='localhost')
    made = {name: certificates.make_authority(tmp_path / name, 'generator', [host], ['north'], int(name != 'o'))
            for name, host in hosts.items()}

    def identity(parts, end):
        if not parts:
            return None
        trusted, shown = parts
        own = made['a'][1] if shown == 'n' else made[shown][end]
        files = made[trusted][0] / 'authority.pem', own / 'own.pem', own / 'own.key'
        return certificates.Identity(*[path.read_bytes() for path in files], (), str(own))

    listener = grpc_channel.Listener('localhost:0', identity(server, 0), lambda end: None)
    try:
        with pytest.raises(channel.NotTrusted, match=sentence):
            grpc_channel.connect(f'localhost:{listener.port}', identity(client, 1), 30)
    finally:
        listener.close()


@pytest.mark.parametrize('args, sentence', [
    (('--', 'localhost:1', '', False), '--tls=DIR is needed'),
    (('--', 'example.org:1', '', True), '--insecure is for both ends on one machine'),
    (('--', '0.0.0.0:1', '', True), 'not for 0.0.0.0'),
    (('--', 'localhost:1', 'x', True), 'contradict'),
    (('--', 'localhost', '', True), 'HOST:PORT'),
])
def test_connections_to_other_machines_need_certificates(args, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_security(*args)
