"""convert.py: numbers survive every way there and back, and what a format cannot hold is refused."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from network_files import SMALL, run
from reference_files import load_like_the_reference, reference_pickle

import convert
import legacy
from torch_utils import checkpoint
from training import networks
from training.augment import AugmentPipe
from training.networks import Discriminator, Generator

SUFFIXES = {'native': '.safetensors', 'reference': '.pkl', 'rosinality': '.pt'}


def make_networks():
    torch.manual_seed(1)
    result = {'G': Generator(8, 0, 8, 16, 3, {'num_layers': 2}, SMALL), 'D': Discriminator(0, 16, 3, **SMALL),
              'G_ema': Generator(8, 0, 8, 16, 3, {'num_layers': 2}, SMALL)}
    for network in result.values():
        for name, parameter in network.named_parameters():
            if name.endswith(('bias', 'noise_strength')):
                parameter.data.normal_()
        network.eval().requires_grad_(False)
    result['G_ema'].mapping.w_avg.normal_()
    result['G'].mapping.w_avg.copy_(result['G_ema'].mapping.w_avg)      # rosinality's layout has one for both.
    return result


@pytest.fixture
def native(tmp_path):
    path = tmp_path / 'network-snapshot-000001.safetensors'
    checkpoint.save_networks(path, make_networks(), training_set_kwargs={'path': 'x'}, augment_p=0.5)
    return path


def convert_to(source, target, *options):
    out = source.parent / f'{source.stem}-x{SUFFIXES[target]}'
    status, output = run(convert.main, '--network', source, '--out', out, *options)
    assert status == 0, output
    return out


def assert_equal_networks(path):
    data, expected = legacy.load_network_pkl(path), make_networks()
    for name, network in expected.items():
        state = data[name].state_dict()
        assert list(state) == list(network.state_dict())
        assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    z, img = torch.randn(4, 8), torch.randn(4, 3, 16, 16)
    for name in ('G', 'G_ema'):
        assert torch.equal(data[name](z, None, noise_mode='const'), expected[name](z, None, noise_mode='const'))
    assert torch.equal(data['D'](img, None), expected['D'](img, None))


@pytest.mark.parametrize('route', [
    ('native',), ('reference',), ('rosinality',), ('reference', 'native'), ('rosinality', 'native'),
    ('reference', 'rosinality'), ('rosinality', 'reference'),
    ('reference', 'rosinality', 'native', 'reference'),
], ids='-'.join)
def test_every_route_keeps_every_bit_of_every_network(native, route):
    path = native
    for target in route:
        path = convert_to(path, target)
        assert_equal_networks(path)


def test_the_options_of_the_references_converter_do_the_same(native, tmp_path):
    """`legacy.py --source --dest`; the ending of the file says what is written, and nothing is replaced."""
    for name, start in (('a.pkl', b'\x80'), ('b.safetensors', native.read_bytes()[1:8]), ('c.network', b'\x80'), ('d.pt', b'PK')):
        status, output = run(convert.legacy, '--source', native, '--dest', tmp_path / name)
        assert status == 0 and name in output
        assert_equal_networks(tmp_path / name)
        assert start in (tmp_path / name).read_bytes()[:8]
    for taken in ('a.pkl', 'nowhere/a.pkl'):
        status, output = run(convert.legacy, '--source', native, '--dest', tmp_path / taken)
        assert status == 2 and f'--dest: {tmp_path / taken}: ' in output
    assert run(convert.legacy, '--source', native, '--dest', tmp_path / 'half.pkl', '--force-fp16', 'true')[0] == 0
    assert legacy.load_network_pkl(tmp_path / 'half.pkl')['G'].synthesis.b16.use_fp16


def test_legacy_is_that_command(tmp_path):
    done = subprocess.run([sys.executable, 'legacy.py', f'--source={tmp_path}/a', f'--dest={tmp_path}/b.pkl'],
                          cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2 and 'Invalid value for --source' in done.stderr


@pytest.mark.parametrize('path, name', [
    ('/home/anna/secret/cats.zip', 'cats.zip'), ('C:\\Users\\anna\\cats', 'cats'), ('sets/cats/', 'cats'),
    ('cats.zip', 'cats.zip')])
def test_a_converted_network_does_not_tell_where_the_data_were(tmp_path, path, name):
    kwargs = {'class_name': 'training.dataset.ImageFolderDataset', 'path': path, 'xflip': True}
    checkpoint.save_networks(tmp_path / 'a.safetensors', make_networks(), training_set_kwargs=kwargs,
                             centres={'centre-0': [kwargs, [1.0]]})
    for target in ('native', 'reference'):
        out = convert_to(tmp_path / 'a.safetensors', target)
        data = legacy.load_network_pkl(out)
        assert data['training_set_kwargs']['path'] == name and data['training_set_kwargs']['xflip'] is True
        assert name == path or path.encode() not in out.read_bytes()
    native = legacy.load_network_pkl(tmp_path / 'a-x.safetensors')
    assert native['centres'] == {'centre-0': [{'class_name': kwargs['class_name'], 'xflip': True}, [1.0]]}


def test_the_written_reference_snapshot_works_in_the_reference_mechanism(native):
    data = load_like_the_reference(convert_to(native, 'reference').read_bytes())
    z, img, expected = torch.randn(4, 8), torch.randn(4, 3, 16, 16), make_networks()
    for name in ('G', 'G_ema'):
        torch.testing.assert_close(data[name](z, torch.zeros(4, 0), noise_mode='const'),
                                   expected[name](z, None, noise_mode='const'), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data['D'](img, torch.zeros(4, 0)), expected['D'](img, None), rtol=1e-5, atol=1e-5)


def test_a_native_copy_keeps_what_else_there_is(tmp_path):
    everything = {**make_networks(), 'D2': Discriminator(0, 16, 3, **SMALL), 'augment_pipe': AugmentPipe(xflip=1)}
    everything['D'].b8_dec = torch.nn.Linear(2, 2)
    checkpoint.save_networks(tmp_path / 'a.safetensors', everything, training_set_kwargs={'path': 'x'}, kimg=7)
    data = checkpoint.load_networks(convert_to(tmp_path / 'a.safetensors', 'native'))
    assert set(everything) <= set(data) and data['kimg'] == 7 and data['training_set_kwargs'] == {'path': 'x'}
    assert set(data['grafts']['D']) == {'b8_dec.weight', 'b8_dec.bias'}


def test_a_ggdr_snapshot_keeps_its_decoder_where_there_is_a_place_for_it(tmp_path):
    content = make_networks()
    content['D'].b8_dec = networks.Conv2dLayer(8, 8, 1, up=2)
    (tmp_path / 'a.pkl').write_bytes(reference_pickle(content))
    native = convert_to(tmp_path / 'a.pkl', 'native')
    grafts = checkpoint.load_networks(native)['grafts']['D']
    assert torch.equal(grafts['b8_dec.weight'], content['D'].b8_dec.weight)
    status, output = run(convert.main, '--network', native, '--out', tmp_path / 'b.pt')
    assert status == 0 and 'no place for what a method added to D' in output, output


@pytest.mark.parametrize('target', ['native', 'reference', 'rosinality'])
def test_what_a_format_has_no_place_for_is_named(tmp_path, target):
    content = {**make_networks(), 'D2': Discriminator(0, 16, 3, **SMALL), 'augment_pipe': AugmentPipe(xflip=1)}
    checkpoint.save_networks(tmp_path / 'a.safetensors', content)
    _, output = run(convert.main, '--network', tmp_path / 'a.safetensors', '--out', tmp_path / 'b', f'--to={target}')
    lost = {'native': '', 'reference': 'no place for D2.', 'rosinality': 'no place for augment_pipe and D2.'}[target]
    assert lost in output and ('no place' in output) == bool(lost), output


def test_single_networks_can_be_chosen(native):
    for target in ('native', 'rosinality'):
        data = legacy.load_network_pkl(convert_to(native, target, '--only=G_ema'))
        assert data['G'] is None and data['D'] is None and data['G_ema'] is not None


def test_the_format_can_be_named(native, tmp_path):
    assert run(convert.main, '--network', native, '--out', tmp_path / 'file', '--to=reference')[0] == 0
    assert_equal_networks(tmp_path / 'file')


@pytest.mark.parametrize('args, message', [
    (['--out={}/a.zip'], 'ends in none of .safetensors, .pkl, .pt'),
    (['--out={}/network-snapshot-000001.safetensors'], 'exists already'),
    (['--out={}/a.pkl', '--only=G_ema'], 'always has all of G, D and G_ema'),
    (['--out={}/a.pt', '--only=G,X'], "'X' is none of G, D, G_ema"),
    (['--out={}/a.pkl', '--network={}/part.safetensors'], 'has no G and no D'),
    (['--out={}/a.pt', '--network={}/part.safetensors', '--only=D'], 'has no D'),
    (['--out={}/a.pt', '--network={}/nowhere'], 'No such file'),
])
def test_a_mistake_is_answered_in_a_sentence_with_status_2(native, args, message):
    checkpoint.save_networks(native.parent / 'part.safetensors', {'G_ema': make_networks()['G_ema']})
    status, output = run(convert.main, f'--network={native}', *(arg.format(native.parent) for arg in args))
    assert status == 2 and message in ' '.join(output.split())


@pytest.mark.parametrize('out, code, message', [
    ('nowhere/a.pkl', 2, 'nowhere is no folder that can be written to'), ('a.pt', 1, 'it has c_dim=2')])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, out, code, message):
    source = tmp_path / 'in' / 'a.safetensors'
    source.parent.mkdir()
    G = Generator(8, 2, 8, 16, 3, {'num_layers': 1}, SMALL)
    checkpoint.save_networks(source, {'G': G, 'D': Discriminator(2, 16, 3, **SMALL), 'G_ema': G})
    status, output = run(convert.main, '--network', source, '--out', tmp_path / out)
    assert status == code and message in output
    assert [path.name for path in tmp_path.iterdir()] == ['in']
