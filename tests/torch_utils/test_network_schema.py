"""Native files of strangers: whatever their description
says is compared with what can be, in one sentence."""
import inspect
import math
import os

import pytest
import torch

import legacy
from torch_utils import checkpoint, network_schema
from torch_utils.checkpoint import CheckpointError
from training import networks
from training.networks import Generator


def stranger(path, entries=None, tensors=None, **others):
    """A sound container with any description."""
    G = Generator(4, 0, 4, 8, 1, {'num_layers': 1}, {'channel_base': 16, 'channel_max': 2})
    kwargs = {**G.init_kwargs, **(entries or {})}
    state = {f'G_ema/{key}': tensor for key, tensor in G.state_dict().items()}
    networks = {'G_ema': {'class_name': 'training.networks.Generator', 'kwargs': kwargs}}
    document = {'format': checkpoint.SNAPSHOT_FORMAT, 'version': 1, 'networks': networks, **others}
    checkpoint.save(path, {**state, **(tensors or {})}, document)
    return path


CENTRE = {'index': 0, 'code': [1.0], 'num': 3, 'labels': [[[], 3]]}


@pytest.mark.parametrize('name, value', [
    *((name, value) for name in ('z_dim', 'w_dim', 'c_dim', 'img_resolution', 'img_channels')
      for value in (2 ** 40, -1, 1.5, math.nan, '8', [8], None, True)),
    *(('synthesis_kwargs', {'channel_base': 16, 'channel_max': 2, name: value}) for name, value in [
        ('num_fp16_res', 2 ** 33), ('num_fp16_res', -1), ('conv_clamp', 'x'), ('conv_clamp', math.nan),
        ('conv_clamp', [1]),
        ('conv_clamp', {}), ('z_dim', {'a': 1}),
        ('kernel_size', 10 ** 9), ('resample_filter', []), ('resample_filter', [0, 0]),
        ('resample_filter', ['a']),
        ('resample_filter', [1.0] * 10 ** 5), ('use_noise', 'yes'), ('channel_base', 2 ** 62)]),
    *(('mapping_kwargs', {name: value}) for name, value in [
        ('num_layers', 10 ** 9), ('num_layers', -1), ('lr_multiplier', 0), ('w_avg_beta', math.inf), ('layer_features', 0)]),
])
def test_every_number_has_a_range(tmp_path, name, value):
    with pytest.raises(CheckpointError, match='G_ema cannot be rebuilt: ') as caught:
        checkpoint.load_networks(stranger(tmp_path / 'a', {name: value}))
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600


def test_every_option_of_the_networks_has_a_range():
    words = {'architecture', 'activation', 'reduced_dtype'}
    built_in = {'self', 'in_channels', 'out_channels', 'tmp_channels', 'resolution', 'is_last', 'first_layer_idx', 'num_ws',
                'up', 'down', 'mapping_kwargs', 'synthesis_kwargs', 'block_kwargs', 'epilogue_kwargs', 'layer_kwargs'}
    for cls in (networks.Generator, networks.MappingNetwork, networks.SynthesisNetwork, networks.SynthesisBlock,
                networks.SynthesisLayer, networks.Discriminator, networks.DiscriminatorBlock, networks.DiscriminatorEpilogue):
        assert set(inspect.signature(cls.__init__).parameters) <= {*network_schema.OPTIONS, *words, *built_in}


@pytest.mark.parametrize('others, message', [
    ({'G': 'text'}, "G is 'text', not a network"),
    ({'D': None}, 'D is none|D is None, not a network'),
    ({'networks': {'grafts': None}}, "cannot have the name 'grafts'"),
    ({'networks': {'a/b': None}}, "cannot have the name 'a/b'"),
    ({'training_set_kwargs': 'x'}, 'the description of its data set is malformed'),
    ({'centre_labels': 5}, 'centre_labels'), ({'centre_labels': [5]}, 'centre_labels'),
    ({'centre_labels': [{**CENTRE, 'code': 'x'}]}, 'centre_labels'),
    ({'centre_labels': [{**CENTRE, 'num': 0}]}, 'centre_labels'),
    ({'centre_labels': [{**CENTRE, 'labels': []}]}, 'centre_labels'),
    ({'centre_labels': [CENTRE]}, 'does not fit the generator'),
    ({'centres': [1]}, 'centres'), ({'centres': {'a': [{}, 'x']}}, 'centres'),
])
def test_what_a_file_says_besides_is_checked(tmp_path, others, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_networks(stranger(tmp_path / 'a', **others))


def test_a_network_is_of_the_class_that_its_name_stands_for(tmp_path):
    entry = {'class_name': 'training.networks.Discriminator', 'kwargs': {}}
    with pytest.raises(CheckpointError, match="G is of class 'training.networks.Discriminator', not Generator"):
        checkpoint.load_networks(stranger(tmp_path / 'a', networks={'G': entry}))


def test_many_tensors_without_a_place_are_grafts(tmp_path):
    extra = {f'G_ema/x{i}': torch.zeros(0) for i in range(5000)}
    assert len(checkpoint.load_networks(stranger(tmp_path / 'a', tensors=extra))['grafts']['G_ema']) == 5000


def test_a_header_of_countless_items_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = stranger(tmp_path / 'a')
    monkeypatch.setattr(checkpoint, 'MAX_HEADER_ITEMS', 20)
    monkeypatch.setattr(checkpoint.json, 'loads', lambda text: pytest.fail('parsed'))
    with pytest.raises(CheckpointError, match='its header has more than 20 items'):
        checkpoint.load(path)


def test_files_without_an_end_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'link').symlink_to('/dev/zero')
    for path in (tmp_path / 'pipe', tmp_path / 'link', '/dev/zero'):
        for read in (checkpoint.load, checkpoint.load_document, legacy.load_network_pkl):
            with pytest.raises(CheckpointError, match='not a regular file'):
                read(path)


def test_a_longer_file_than_its_header_says_is_not_read(tmp_path):
    with open(stranger(tmp_path / 'a'), 'r+b') as file:
        file.truncate(1 << 40)          # A hole: it takes no place on the disk.
    with pytest.raises(CheckpointError, match='truncated or damaged: 109951162'):
        checkpoint.load(tmp_path / 'a')


def test_messages_command_no_terminal():
    assert str(CheckpointError('a\x1b[2Jb\nc\udcff' + 'x' * 10 ** 6)).startswith('a?[2Jb?c?xxx')
    assert len(str(CheckpointError('x' * 10 ** 6))) == checkpoint.MAX_MESSAGE


def test_snapshots_in_two_formats_count_once(tmp_path):
    for name in ('000002.pkl', '000001.safetensors', '000002.safetensors', '000003.pkl'):
        (tmp_path / f'network-snapshot-{name}').touch()
    names = [path.name.removeprefix('network-snapshot-') for path in checkpoint.snapshots(tmp_path)]
    assert names == ['000001.safetensors', '000002.safetensors', '000003.pkl']


@pytest.mark.parametrize('content, words', [
    (b'', 'it is empty'), (b'version https://git-lfs.github.com/spec/v1\n', 'a pointer of Git LFS'),
    (b'\n<!DOCTYPE html>', 'a web page'),
    (b'\x1f\x8b\x08', 'compressed by gzip'), (b'GIF89a', 'neither a native snapshot nor')])
def test_what_a_download_turned_out_to_be_is_said(tmp_path, content, words):
    (tmp_path / 'net.pkl').write_bytes(content)
    with pytest.raises(CheckpointError, match=f'net.pkl: not a network file: .*{words}'):
        legacy.load_network_pkl(tmp_path / 'net.pkl')
