"""Snapshots of the official PyTorch implementation: read without executing them, written so that it reads them."""
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from network_files import SMALL, make_generator
from reference_files import load_like_the_reference, reference_pickle

import legacy
from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import portable, reference
from training import networks
from training.augment import AugmentPipe
from training.networks import Discriminator, Generator


def make_discriminator(**kwargs):
    return Discriminator(**{'c_dim': 0, 'img_resolution': 16, 'img_channels': 3, **SMALL, **kwargs}).eval()


def make_content(**options):
    return {'training_set_kwargs': {'class_name': 'training.dataset.ImageFolderDataset', 'path': 'x.zip'},
            'G': make_generator(seed=1), 'D': make_discriminator(**options), 'G_ema': make_generator(seed=2),
            'augment_pipe': None}


def assert_same_tensors(module, expected):
    module, expected = module.state_dict(), expected.state_dict()
    assert list(module) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(module[key], tensor) and module[key].stride() == tensor.stride(), key


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_a_snapshot_gives_the_same_networks(protocol):
    content = make_content()
    content['augment_pipe'] = AugmentPipe(xflip=1, brightness=0.5)
    content['augment_pipe'].p.fill_(0.25)
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content, protocol)))
    for name in ('G', 'D', 'G_ema', 'augment_pipe'):
        assert_same_tensors(data[name], content[name])
        assert not data[name].training and not any(p.requires_grad for p in data[name].parameters())
    assert data['training_set_kwargs'] == content['training_set_kwargs']
    z, c = torch.randn(3, 8), torch.zeros(3, 0)
    for name in ('G', 'G_ema'):
        torch.testing.assert_close(data[name](z, c, noise_mode='const'), content[name](z, c, noise_mode='const'),
                                   rtol=0, atol=1e-5)
    img = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(data['D'](img, None), content['D'](img, None), rtol=0, atol=1e-5)


def test_conditional_frozen_and_channels_last_networks_are_read():
    content = make_content(c_dim=3, block_kwargs={'freeze_layers': 2, 'fp16_channels_last': True}, num_fp16_res=1)
    content['G'] = Generator(8, 3, 8, 16, 3, synthesis_kwargs={**SMALL, 'num_fp16_res': 2, 'fp16_channels_last': True})
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content)))
    for name in ('G', 'D'):
        assert_same_tensors(data[name], content[name])
    assert not data['G'].synthesis.b16.conv0.weight.is_contiguous()


def test_numpy_numbers_among_the_arguments_are_read():
    content = make_content()
    content['G'].kwargs_of_the_file = {**content['G'].init_kwargs, 'z_dim': np.int64(8),
                                       'mapping_kwargs': {'num_layers': 2, 'lr_multiplier': np.float64(0.01)}}
    content['G'].gain = np.float64(2) ** 0.5
    for protocol in (2, 4):
        data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content, protocol)))
        assert data['G'].init_kwargs['mapping_kwargs']['lr_multiplier'] == 0.01


def test_the_decoder_of_ggdr_comes_back_beside_the_discriminator():
    content = make_content()
    content['D'].b8_dec = networks.Conv2dLayer(8, 8, 1, up=2)
    content['D'].kwargs_of_the_file = {**content['D'].init_kwargs, 'decoder_res': 8, 'w_dim': 512}
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content)))
    assert set(data['grafts']['D']) == {'b8_dec.weight', 'b8_dec.bias', 'b8_dec.resample_filter'}
    assert torch.equal(data['grafts']['D']['b8_dec.weight'], content['D'].b8_dec.weight)
    assert torch.equal(data['D'].b4.out.weight, content['D'].b4.out.weight)


def test_missing_optional_entries_are_none():
    content = {name: value for name, value in make_content().items() if name in ('G', 'D', 'G_ema')}
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content)))
    assert data['augment_pipe'] is None and data['training_set_kwargs'] is None


def change(what):
    content = make_content()
    if what == 'no D':
        content['D'] = None
    if what == 'unknown option':
        content['G'].kwargs_of_the_file = {**content['G'].init_kwargs, 'magic': 1}
    if what == 'unknown class':
        content['G_ema'] = torch.nn.Linear(2, 2)
    if what == 'other shapes':
        content['D'].kwargs_of_the_file = {**content['D'].init_kwargs, 'channel_max': 4}
    if what == 'extra tensor':
        content['G'].register_buffer('spy', torch.zeros(3))
    if what == 'missing tensor':
        del content['G'].mapping.w_avg
    if what == 'endless':
        content['G'].kwargs_of_the_file = {**content['G'].init_kwargs, 'mapping_kwargs': {'num_layers': 10 ** 9}}
    if what == 'gigantic':
        content['G'].kwargs_of_the_file = {**content['G'].init_kwargs, 'z_dim': 10 ** 9, 'w_dim': 10 ** 9}
    data = reference_pickle(content)
    return data.replace(b'version\x94K\x06', b'version\x94K\x07') if what == 'other version' else data


@pytest.mark.parametrize('what, message', [
    ('no D', 'the pickle has no network D'),
    ('unknown option', "training.networks.Generator does not accept its arguments: .*'magic'"),
    ('unknown class', 'Linear is not a class of network that this program has'),
    ('other shapes', r'D cannot be rebuilt: tensor b16.fromrgb.weight is \[8, 3, 1, 1\], its arguments say \[4,'),
    ('extra tensor', 'G cannot be rebuilt: tensor spy has no place'),
    ('missing tensor', 'G cannot be rebuilt: tensor mapping.w_avg is missing'),
    ('endless', r'G cannot be rebuilt: 1000000000 layers, but the file has \d+ tensors'),
    ('gigantic', 'G cannot be rebuilt: tensor .* its arguments say'),
    ('other version', 'a module in a form other than version 6'),
])
def test_what_does_not_fit_is_said_in_a_sentence(what, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        legacy.load_network_pkl(io.BytesIO(change(what)))
    assert '\n' not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

CONFIGS = [
    {}, {'c_dim': 3}, {'img_channels': 1}, {'architecture': 'orig'}, {'architecture': 'resnet'},
    {'architecture': 'skip', 'c_dim': 3}, {'conv_clamp': 0.5, 'architecture': 'resnet'},
    {'resample_filter': [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]}, {'resample_filter': [1, 2, 1]}, {'activation': 'swish'},
]


def make_pair(c_dim=0, img_channels=3, architecture=None, conv_clamp=None, resample_filter=(1, 3, 3, 1),
              activation='lrelu'):
    """A generator and a discriminator, with noise and biases that are not zero."""
    G = Generator(8, c_dim, 8, 16, img_channels, {'num_layers': 2}, {
        **SMALL, 'architecture': architecture or 'skip', 'conv_clamp': conv_clamp, 'resample_filter': resample_filter,
        'activation': activation})
    D = Discriminator(c_dim, 16, img_channels, architecture=architecture or 'resnet', conv_clamp=conv_clamp, **SMALL,
                      block_kwargs={'resample_filter': resample_filter, 'activation': activation, 'freeze_layers': 1})
    for network in (G, D):
        for name, parameter in network.named_parameters():
            if name.endswith(('bias', 'noise_strength')):
                parameter.data.add_(torch.randn(parameter.shape) * 0.3)
    G.mapping.w_avg.normal_()
    return G.eval().requires_grad_(False), D.eval().requires_grad_(False)


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_a_written_snapshot_computes_the_same_in_the_reference_mechanism_and_read_back(config):
    G, D = make_pair(**config)
    file = io.BytesIO()
    reference.write(file, {'G': G, 'D': D, 'G_ema': G}, {'path': 'x'})
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]] if G.c_dim else torch.zeros(4, 0)
    img = torch.randn(4, G.img_channels, 16, 16)
    options = {'truncation_psi': 0.7, 'truncation_cutoff': 2, 'noise_mode': 'const'}
    theirs, ours = load_like_the_reference(file.getvalue()), legacy.load_network_pkl(io.BytesIO(file.getvalue()))
    assert list(theirs) == ['training_set_kwargs', 'G', 'D', 'G_ema', 'augment_pipe']
    for data in (theirs, ours):
        assert data['training_set_kwargs'] == {'path': 'x'} and data['augment_pipe'] is None
        expected = G(z, c, **options)
        for name in ('G', 'G_ema'):
            torch.testing.assert_close(data[name](z, c, **options), expected, rtol=1e-5,
                                       atol=1e-5 * expected.abs().max().item())
        torch.testing.assert_close(data['D'](img, c), D(img, c), rtol=1e-5, atol=1e-5)
    for name in ('z_dim', 'c_dim', 'w_dim', 'num_ws', 'img_resolution', 'img_channels'):
        assert getattr(theirs['G_ema'], name) == getattr(G, name)
    assert not theirs['G'].training


def test_training_mode_of_the_source_draws_noise_and_tracks_w():
    G, _ = make_pair()
    twin = portable.Generator(**G.init_kwargs)
    twin.load_state_dict(G.state_dict())
    z, c = torch.randn(4, 8), torch.zeros(4, 0)
    G.train(), twin.train()
    images = []
    for network in (G, twin):
        torch.manual_seed(3)
        images.append(network(z, c))
    torch.testing.assert_close(images[1], images[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(twin.mapping.w_avg, G.mapping.w_avg)


def test_the_source_needs_nothing_but_torch():
    source = Path(portable.__file__).read_text()
    assert set(re.findall(r'^\s*(?:import|from) (\S+)', source, re.M)) == {'math', 'torch', 'torch.nn.functional'}


def test_the_source_is_in_the_file_once():
    G, D = make_pair()
    file = io.BytesIO()
    reference.write(file, {'G': G, 'D': D, 'G_ema': G}, None)
    assert file.getvalue().count(b'class SynthesisBlock') == 1


def test_options_that_only_we_have_are_left_out():
    G = Generator(8, 0, 8, 16, 3, synthesis_kwargs={**SMALL, 'reduced_dtype': 'bfloat16', 'num_fp16_res': 1})
    D = Discriminator(0, 16, 3, **SMALL, reduced_dtype='bfloat16')
    file = io.BytesIO()
    reference.write(file, {'G': G, 'D': D, 'G_ema': G}, None)
    data = load_like_the_reference(file.getvalue())
    assert data['G']._init_kwargs['synthesis_kwargs'] == {**SMALL, 'num_fp16_res': 1}
    assert 'reduced_dtype' not in data['D']._init_kwargs
