"""Native files: what goes in comes out, a crash costs nothing, and a bad file gets one clear sentence."""
import io
import json
import math
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils import checkpoint, network_schema
from torch_utils.checkpoint import CheckpointError


class Toy(torch.nn.Module):
    """Rebuildable as real networks are: parameters, a scalar, a buffer, nested options."""

    def __init__(self, width, num_layers=1, options=None):
        super().__init__()
        self.init_kwargs = {'width': width, 'num_layers': num_layers, 'options': options}
        self.weight = torch.nn.Parameter(torch.randn(width, width, 3, 3).to(memory_format=torch.channels_last))
        self.strength = torch.nn.Parameter(torch.randn([]))
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(num_layers))
        self.register_buffer('counter', torch.tensor(3))


class Other(torch.nn.Module):
    """Not in the table."""


@pytest.fixture(autouse=True)
def toy_class(monkeypatch):
    monkeypatch.setattr(network_schema, 'CLASSES', {f'{__name__}.Toy': ()})


def assert_same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key


def test_networks_come_back_equal_in_eval_mode_without_gradients(tmp_path):
    toy, second = Toy(4, num_layers=2, options={'a': [1, 2]}), Toy(3)
    path = tmp_path / 'network-snapshot-000001.safetensors'
    checkpoint.save_networks(path, {'G': toy, 'D2': second, 'augment_pipe': None},
                             training_set_kwargs={'path': 'x.zip'}, kimg=1.5)
    loaded = checkpoint.load_networks(path)
    assert_same_state(loaded['G'], toy)
    assert_same_state(loaded['D2'], second)
    assert loaded['augment_pipe'] is None and loaded['training_set_kwargs'] == {'path': 'x.zip'}
    assert loaded['kimg'] == 1.5 and loaded['G'].init_kwargs == toy.init_kwargs
    assert not loaded['G'].training and not any(p.requires_grad for p in loaded['G'].parameters())
    assert loaded['G'].weight.is_contiguous(memory_format=torch.channels_last)


def test_an_open_file_reads_like_a_path(tmp_path):
    toy = Toy(2)
    checkpoint.save_networks(tmp_path / 'a', {'G': toy})
    with open(tmp_path / 'a', 'rb') as file:
        assert_same_state(checkpoint.load_networks(file)['G'], toy)
    assert_same_state(checkpoint.load_networks(io.BytesIO((tmp_path / 'a').read_bytes()))['G'], toy)
    assert checkpoint.load_document(tmp_path / 'a')['networks']['G']['kwargs']['width'] == 2


def test_loading_leaves_the_random_state_alone(tmp_path):
    checkpoint.save_networks(tmp_path / 'a', {'G': Toy(4)})
    before = torch.random.get_rng_state()
    checkpoint.load_networks(tmp_path / 'a')
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_safetensors_library_reads_the_file(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        'shared': base, 'shared_again': base, 'view': base[1:3, ::2], 'transposed': base.T, 'scalar': torch.tensor(2.5),
        'empty': torch.zeros(0, 3), 'half': base.half(), 'brain': base.bfloat16(), 'double': base.double(),
        'flags': base > 0, 'long': torch.tensor([2 ** 40]), 'byte': torch.tensor([7], dtype=torch.uint8),
    }
    checkpoint.save(tmp_path / 'a', tensors, {})
    for read in (safetensors.torch.load_file(tmp_path / 'a'), checkpoint.load(tmp_path / 'a')[0]):
        assert set(read) == set(tensors)
        for key, tensor in tensors.items():
            assert read[key].dtype == tensor.dtype and torch.equal(read[key], tensor), key


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text().filter(lambda k: k != '$float'), inner,
                                                                max_size=3), max_leaves=8))
@settings(max_examples=100, deadline=None)
def test_any_plain_data_survives_as_strict_json(value):
    text = checkpoint.document_to_json({'value': value})
    json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
    np.testing.assert_equal(checkpoint.document_from_json(text)['value'], value)


def test_numpy_values_become_plain_and_nan_survives():
    document = {'scalar': np.float64(0.5), 'array': np.arange(3), 'nan': math.nan, 'inf': -math.inf, 'pair': (1, 2)}
    back = checkpoint.document_from_json(checkpoint.document_to_json(document))
    assert back['scalar'] == 0.5 and back['array'] == [0, 1, 2] and back['pair'] == [1, 2]
    assert math.isnan(back['nan']) and back['inf'] == -math.inf


@pytest.mark.parametrize('value', [{1: 2}, object(), {'$float': 'nan'}, torch.zeros(2), b'bytes', {1, 2}])
def test_what_json_cannot_say_is_refused_by_place(value):
    with pytest.raises(TypeError, match=r'document\.outer\[1\]'):
        checkpoint.document_to_json({'outer': [0, value]})


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

@pytest.mark.parametrize('broken', ['fsync', 'replace'])
def test_a_failed_write_keeps_the_previous_file_and_leaves_nothing_behind(tmp_path, monkeypatch, broken):
    path = tmp_path / 'a'
    checkpoint.save(path, {'x': torch.ones(3)}, {'which': 'old'})

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match='No space left'):
        checkpoint.save(path, {'x': torch.zeros(3)}, {'which': 'new'})
    assert checkpoint.load(path)[1] == {'which': 'old'}
    assert os.listdir(tmp_path) == ['a']


def test_the_file_is_synced_before_it_takes_its_name_and_the_directory_after(tmp_path, monkeypatch):
    calls = []
    for name in ('fsync', 'replace'):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    checkpoint.save(tmp_path / 'a', {}, {})
    assert calls == ['fsync', 'replace', 'fsync']


def test_classes_of_one_name_are_told_apart(monkeypatch):
    class Generator(torch.nn.Module):
        pass

    name = f'{Generator.__module__}.{Generator.__qualname__}'
    with pytest.raises(TypeError, match=f'^{name} cannot be saved'):
        checkpoint.class_name_of(Generator())
    monkeypatch.setitem(network_schema.CLASSES, name, ())
    assert checkpoint.class_name_of(Generator()) == name


def test_a_module_that_could_not_be_rebuilt_is_refused_when_saving(tmp_path):
    with pytest.raises(TypeError, match='Other cannot be saved; known are'):
        checkpoint.save_networks(tmp_path / 'a', {'G': Other()})
    toy = Toy(4)
    toy.init_kwargs['width'] = 5
    with pytest.raises(TypeError, match='G does not equal what its init_kwargs build: tensor weight'):
        checkpoint.save_networks(tmp_path / 'a', {'G': toy})
    assert os.listdir(tmp_path) == []


def test_grafted_layers_come_back_beside_the_network(tmp_path):
    toy = Toy(3)
    toy.b8_dec = torch.nn.Linear(2, 2)
    checkpoint.save_networks(tmp_path / 'a', {'D': toy})
    loaded = checkpoint.load_networks(tmp_path / 'a')
    assert set(loaded['grafts']['D']) == {'b8_dec.weight', 'b8_dec.bias'}
    assert torch.equal(loaded['grafts']['D']['b8_dec.weight'], toy.b8_dec.weight)
    assert not hasattr(loaded['D'], 'b8_dec')


# ---------------------------------------------------------------------------------------------------------------------
# Bad files.

@pytest.fixture
def snapshot(tmp_path):
    path = tmp_path / 'network-snapshot-000007.safetensors'
    checkpoint.save_networks(path, {'G': Toy(3)})
    return path


def test_every_truncation_is_noticed(snapshot):
    data = snapshot.read_bytes()
    for i in range(64):
        snapshot.write_bytes(data[:len(data) * i // 64])
        with pytest.raises(CheckpointError, match='truncated|not a safetensors file'):
            checkpoint.load_networks(snapshot)
    snapshot.write_bytes(data + b'x')
    with pytest.raises(CheckpointError, match='damaged'):
        checkpoint.load_networks(snapshot)


def test_every_flipped_bit_is_noticed(snapshot):
    data = bytearray(snapshot.read_bytes())
    rnd = np.random.RandomState(0)
    for position in [*range(300), *rnd.randint(len(data), size=300)]:
        bit = 1 << rnd.randint(8)
        data[position] ^= bit
        with pytest.raises(CheckpointError):
            checkpoint.load_networks(io.BytesIO(data))
        data[position] ^= bit
    checkpoint.load_networks(io.BytesIO(data))


@pytest.mark.parametrize('data', [b'', b'PK\x03\x04 a zip', b'\x80\x04N.', b'\xff' * 100, b'\x02' + b'\0' * 7 + b'{}',
                                  b'\x02' + b'\0' * 7 + b'[]', b'\x08' + b'\0' * 7 + b'["' * 4,
                                  (200_000).to_bytes(8, 'little') + b'[' * 200_000])
def test_foreign_bytes_are_called_foreign(data):
    with pytest.raises(CheckpointError, match='not a'):
        checkpoint.load_networks(io.BytesIO(data))


def test_somebody_elses_safetensors_file_is_called_foreign(tmp_path):
    safetensors.torch.save_file({'x': torch.zeros(3)}, tmp_path / 'a', metadata={'format': 'pt'})
    with pytest.raises(CheckpointError, match='not a file of this program'):
        checkpoint.load_networks(tmp_path / 'a')


def entry(class_name=f'{__name__}.Toy', **kwargs):
    return {'G': {'class_name': class_name, 'kwargs': kwargs}}


GOOD = {'format': checkpoint.SNAPSHOT_FORMAT, 'version': 1}


@pytest.mark.parametrize('document, message', [
    ({}, 'holds None, not a network snapshot'),
    ({**GOOD, 'format': 'something/else'}, "holds 'something/else', not a network snapshot"),
    ({**GOOD, 'version': 2, 'networks': {}}, 'version 2 is newer than 1, which this program reads; update'),
    ({**GOOD, 'version': '1', 'networks': {}}, 'malformed'),
    ({**GOOD, 'networks': []}, 'malformed'),
    ({**GOOD, 'networks': {'G': 5}}, 'malformed'),
    ({**GOOD, 'networks': {'G': {'class_name': 'x'}}}, 'malformed'),
    ({**GOOD, 'networks': {'G': {'class_name': 'x', 'kwargs': []}}}, 'malformed'),
    ({**GOOD, 'networks': entry('os.system', command='touch canary')}, "class 'os.system' is not one of"),
    ({**GOOD, 'networks': entry(['os.system'])}, 'malformed'),
    ({**GOOD, 'networks': entry()}, 'does not accept its arguments'),
    ({**GOOD, 'networks': entry(width='a')}, 'does not accept its arguments'),
    ({**GOOD, 'networks': entry(width=3, depth=1)}, 'does not accept its arguments'),
    ({**GOOD, 'networks': entry(width=2 ** 20)}, 'its arguments say'),
    ({**GOOD, 'networks': entry(width=2 ** 62)}, 'does not accept its arguments'),
    ({**GOOD, 'networks': entry(width=3, num_layers=10 ** 9)}, '1000000000 layers, but the file has 5 tensors'),
    ({**GOOD, 'networks': entry(width=3, num_layers=2)}, 'tensor layers.1.weight is missing'),
])
def test_a_false_description_is_refused_in_a_sentence(tmp_path, document, message):
    state = {f'G/{key}': tensor for key, tensor in Toy(3).state_dict().items()}
    checkpoint.save(tmp_path / 'a', state, document)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_networks(tmp_path / 'a')
    assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path / 'a'))
    assert '\n' not in str(caught.value)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_but_raise(data):
    header = len(data).to_bytes(8, 'little')
    for candidate in (data, header + data):
        with pytest.raises(CheckpointError):
            checkpoint.load_networks(io.BytesIO(candidate))


# ---------------------------------------------------------------------------------------------------------------------
# Run directories.

def test_the_newest_snapshot_is_the_one_with_the_highest_number(tmp_path):
    for name in ('network-snapshot-000009.safetensors', 'network-snapshot-000100.safetensors',
                 'network-snapshot-1000000.safetensors', 'network-snapshot-999999.safetensors',
                 'network-snapshot-zzz.safetensors', '.network-snapshot-2000000.safetensors.1.tmp'):
        (tmp_path / name).touch()
    assert checkpoint.newest_snapshot(tmp_path).name == 'network-snapshot-1000000.safetensors'


def test_a_directory_without_snapshots_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no network-snapshot-\*'):
        checkpoint.newest_snapshot(tmp_path)
