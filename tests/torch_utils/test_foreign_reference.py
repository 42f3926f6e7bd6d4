"""Snapshots of the official PyTorch implementation: read without executing them,
written so that it reads them."""
import io
import math
import pickle
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
from training.layers import FullyConnectedLayer
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
        torch.testing.assert_close(data[name](z, c, noise_mode='const'),
                                   content[name](z, c, noise_mode='const'), rtol=0, atol=1e-5)
    img = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(data['D'](img, None), content['D'](img, None), rtol=0, atol=1e-5)


def test_conditional_frozen_and_channels_last_networks_are_read():
    content = make_content(c_dim=3, block_kwargs={'freeze_layers': 2, 'fp16_channels_last': True},
                           num_fp16_res=1)
    content['G'] = Generator(8, 3, 8, 16, 3,
                             synthesis_kwargs={**SMALL, 'num_fp16_res': 2, 'fp16_channels_last': True})
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


def test_networks_that_are_not_read_are_named(capsys):
    content = make_content()
    content.update(D2=content['D'], Dhigh=content['D'])
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content)))
    assert 'D2' not in data and 'the pickle also holds D2, Dhigh;' in capsys.readouterr().err
    legacy.load_network_pkl(io.BytesIO(reference_pickle(content)), only=['G_ema'])
    legacy.load_network_pkl(io.BytesIO(reference_pickle(make_content())))
    assert capsys.readouterr().err == ''


def test_missing_optional_entries_are_none():
    content = {name: value for name, value in make_content().items() if name in ('G', 'D', 'G_ema')}
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(content)))
    assert data['augment_pipe'] is None and data['training_set_kwargs'] is None


def change(what):
    content = make_content()
    if what == 'no networks':
        content = {'G': None, 'D': None, 'training_set_kwargs': None}
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
        content['G'].kwargs_of_the_file = {**content['G'].init_kwargs,
                                           'mapping_kwargs': {'num_layers': 10 ** 9}}
    if what == 'gigantic':
        content['G'].kwargs_of_the_file = {**content['G'].init_kwargs, 'z_dim': 10 ** 9, 'w_dim': 10 ** 9}
    data = reference_pickle(content)
    return data.replace(b'version\x94K\x06', b'version\x94K\x07') if what == 'other version' else data


@pytest.mark.parametrize('what, message', [
    ('no networks', 'the pickle has no network G, D or G_ema'),
    ('unknown option', "training.networks.Generator does not accept its arguments: .*'magic'"),
    ('unknown class', 'G_ema is a Linear; this program has the networks of StyleGAN2 only'),
    ('other shapes',
     r'D cannot be rebuilt: tensor b16.fromrgb.weight is \[8, 3, 1, 1\], its arguments say \[4,'),
    ('extra tensor', 'G cannot be rebuilt: tensor spy has no place'),
    ('missing tensor', 'G cannot be rebuilt: tensor mapping.w_avg is missing'),
    ('endless', r'G cannot be rebuilt: 1000000000 layers, but the file has \d+ tensors'),
    ('gigantic', 'G cannot be rebuilt: z_dim=1000000000: must be a whole number between 0 and 65536'),
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
    {'resample_filter': [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]}, {'resample_filter': [1, 2, 1]},
    {'activation': 'swish'},
]


def make_pair(c_dim=0, img_channels=3, architecture=None, conv_clamp=None, resample_filter=(1, 3, 3, 1),
              activation='lrelu'):
    """A generator and a discriminator, with noise and biases that are not zero."""
    G = Generator(8, c_dim, 8, 16, img_channels, {'num_layers': 2}, {
        **SMALL, 'architecture': architecture or 'skip', 'conv_clamp': conv_clamp,
        'resample_filter': resample_filter, 'activation': activation})
    D = Discriminator(c_dim, 16, img_channels, architecture=architecture or 'resnet', conv_clamp=conv_clamp,
                      **SMALL, block_kwargs={'resample_filter': resample_filter, 'activation': activation,
                      'freeze_layers': 1})
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
    assert data['G']._init_kwargs['synthesis_kwargs'] == {**SMALL, 'num_fp16_res': 1, 'conv_clamp': None}
    assert 'reduced_dtype' not in data['D']._init_kwargs


def test_what_other_programs_look_at_is_in_written_files():
    G, D = make_pair(c_dim=3)
    file = io.BytesIO()
    reference.write(file, {'G': G, 'D': D, 'G_ema': G}, {'path': 'x', 'labels_from': 'json', 'xflip': True},
                    AugmentPipe(xflip=1))
    data = load_like_the_reference(file.getvalue())
    assert data['training_set_kwargs'] == {'path': 'x', 'xflip': True}  # The reference knows no other option.
    calls = []
    for network in (data['G'], data['D']):
        for module in network.modules():        # The reference hooks into every module to print a summary.
            module.register_forward_hook(lambda *_: calls.append(1)).remove()
        network.register_forward_hook(lambda *_: calls.append(1))
    data['G'](torch.randn(1, 8), torch.zeros(1, 3))
    assert calls == [1]
    options = data['G']._init_kwargs            # The StyleGAN3 code sets entries of its copies as attributes.
    for group in (options, options.synthesis_kwargs, data['D']._init_kwargs,
                  data['D']._init_kwargs.block_kwargs):
        assert type(group).__name__ == 'EasyDict'
    assert options.synthesis_kwargs.num_fp16_res == 0 and options.mapping_kwargs.w_avg_beta == 0.995
    block, d_block = data['G'].synthesis.b16, data['D'].b16
    assert (block.is_last, data['G'].synthesis.b8.is_last, block.resolution, block.w_dim) == (True, False, 16, 8)
    assert (block.img_channels, block.channels_last, block.conv0.act_gain) == (3, False, math.sqrt(2))
    assert (d_block.first_layer_idx, d_block.img_channels, d_block.fromrgb.act_gain) == (0, 3, math.sqrt(2))
    assert data['G'].synthesis.img_resolution_log2 == data['D'].img_resolution_log2 == 4
    assert data['D'].b4.in_channels == 8


def test_the_augmentation_pipe_is_kept():
    G, D = make_pair()
    pipe = AugmentPipe(xflip=1, brightness=0.5)
    pipe.p.fill_(0.25)
    file = io.BytesIO()
    reference.write(file, {'G': G, 'D': D, 'G_ema': G}, None, pipe)
    theirs = load_like_the_reference(file.getvalue())['augment_pipe']
    assert theirs.p == 0.25 and theirs.brightness == 0.5 and theirs._init_kwargs.xflip == 1
    assert torch.equal(theirs.Hz_fbank, pipe.Hz_fbank)
    with pytest.raises(NotImplementedError, match='build an AugmentPipe of your own'):
        theirs(torch.zeros(1, 3, 8, 8))
    ours = legacy.load_network_pkl(io.BytesIO(file.getvalue()))['augment_pipe']
    assert ours.p == 0.25 and ours.init_kwargs == pipe.init_kwargs


# ---------------------------------------------------------------------------------------------------------------------
# Files of the StyleGAN3 code.

def as_of_stylegan3(network, **changes):
    """The network with the options and attributes that it has there:
    the generator's options are not in groups."""
    kwargs = {**network.init_kwargs, **changes}
    kwargs.update(kwargs.pop('synthesis_kwargs', {}))
    for module in network.modules():
        if isinstance(module, FullyConnectedLayer):
            module.out_features, module.in_features = module.weight.shape
    network.kwargs_of_the_file = {name: value for name, value in kwargs.items() if value is not ...}
    return network


def stylegan3_snapshot():
    """Options as its train.py gives them; those that it leaves out have defaults of its own."""
    G = Generator(8, 2, 8, 16, 3, {'num_layers': 2}, {**SMALL, 'conv_clamp': 256, 'num_fp16_res': 4})
    D = Discriminator(2, 16, 3, **SMALL, conv_clamp=256, num_fp16_res=4)
    freeze = {'num_layers': 2, 'freeze_layers': 0, 'freeze_embed': False}
    G = as_of_stylegan3(G, fused_modconv_default='inference_only', mapping_kwargs=freeze,
                        synthesis_kwargs=SMALL)
    D = as_of_stylegan3(D, num_fp16_res=..., conv_clamp=...)
    return G.eval(), D.eval()


def test_stylegan2_networks_of_the_stylegan3_code_have_the_defaults_of_that_code():
    G, D = stylegan3_snapshot()
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle({'G': G, 'D': D, 'G_ema': G})))
    assert data['G_ema'].init_kwargs == {
        'z_dim': 8, 'c_dim': 2, 'w_dim': 8, 'img_resolution': 16, 'img_channels': 3,
        'mapping_kwargs': {'w_avg_beta': 0.998, 'num_layers': 2},
        'synthesis_kwargs': {'num_fp16_res': 4, 'conv_clamp': 256, **SMALL}}
    assert data['D'].init_kwargs['num_fp16_res'] == 4 and data['D'].init_kwargs['conv_clamp'] == 256
    z, c, img = torch.randn(4, 8), torch.eye(2)[[0, 1, 0, 1]], torch.randn(4, 3, 16, 16) * 1000
    options = dict(noise_mode='const', force_fp32=True)
    torch.testing.assert_close(data['G_ema'](z, c, **options), G(z, c, **options))
    torch.testing.assert_close(data['D'](img, c, force_fp32=True), D(img, c, force_fp32=True))


def test_given_options_of_the_stylegan3_code_win_and_a_discriminator_alone_is_known():
    G, D = stylegan3_snapshot()
    G = as_of_stylegan3(Generator(8, 0, 8, 16, 3, {}, SMALL), num_fp16_res=0, conv_clamp=None)
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle({'G_ema': G, 'D': D})))
    assert data['G_ema'].init_kwargs['synthesis_kwargs'] == {**SMALL, 'num_fp16_res': 0, 'conv_clamp': None}
    assert data['G'] is None
    assert legacy.load_network_pkl(io.BytesIO(reference_pickle({'D': D})))['D'].init_kwargs['conv_clamp'] == 256


def test_networks_of_stylegan2_ada_keep_its_defaults():
    G, D = make_pair()
    D.kwargs_of_the_file = {key: D.init_kwargs[key]
                            for key in ('c_dim', 'img_resolution', 'img_channels', *SMALL)}
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle({'G': G, 'D': D, 'G_ema': G})))
    assert data['D'].init_kwargs['num_fp16_res'] == 0 and data['D'].init_kwargs['conv_clamp'] is None


class Part(torch.nn.Module):
    """A module with any parts."""

    def __init__(self, *parts, **kwargs):
        super().__init__()
        self.kwargs_of_the_file = kwargs
        for name in parts:
            self.add_module(name, Part())


def named(name, *parts, **kwargs):
    return type(name, (Part,), {})(*parts, **kwargs)


def alias_free():
    network = named('Generator', 'synthesis', 'mapping', channel_base=32768, magnitude_ema_beta=0.99)
    network.synthesis = Part('input', 'L0_36_512', 'L1_36_512')
    return network


@pytest.mark.parametrize('make_network, message', [
    (alias_free, 'G_ema is an alias-free generator of StyleGAN3 .*not stylegan2'),
    (lambda: named('Generator', 'Model', NoiseDimension=64, WidthPerStage=[8]),
     'G_ema is a generator of R3GAN'),
    (lambda: named('TriPlaneGenerator', 'backbone'), 'G_ema is a TriPlaneGenerator of EG3D'),
    (lambda: named('SomethingElse'), 'G_ema is a SomethingElse'),
    (lambda: named('Generator', 'trunk', 'head'),
     r'G_ema is a Generator of another architecture \(its parts: trunk, head\)'),
    (lambda: named('Discriminator', 'b4'), 'G_ema is of class .*Discriminator.*, not Generator'),
])
def test_other_networks_are_called_by_their_name(make_network, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        legacy.load_network_pkl(io.BytesIO(reference_pickle({'G_ema': make_network()})))
    assert '\n' not in str(caught.value)


def test_a_foreign_discriminator_keeps_nobody_from_drawing():
    G, _ = make_pair()
    data = reference_pickle({'G_ema': G, 'D': named('ProjectedDiscriminator', 'feature_network')})
    assert legacy.load_network_pkl(io.BytesIO(data), only=['G_ema'])['G_ema'].z_dim == 8
    with pytest.raises(CheckpointError,
                       match='D is a ProjectedDiscriminator of Projected GAN or StyleGAN-XL'):
        legacy.load_network_pkl(io.BytesIO(data))


def test_layers_of_torch_are_told_to_be_of_other_programs():
    data = pickle.dumps({'G_ema': torch.nn.Linear(1, 1)}, 4)
    with pytest.raises(CheckpointError, match=r'asks for torch.nn.modules.linear.Linear.*networks of other programs \(as R3GAN'):
        legacy.load_network_pkl(io.BytesIO(data))


def test_a_generator_alone_counts_as_the_averaged_one():
    G, _ = make_pair()
    data = legacy.load_network_pkl(io.BytesIO(reference_pickle(G)))
    assert data['G'] is None and torch.equal(data['G_ema'].mapping.w_avg, G.mapping.w_avg)
