"""rosinality's layout: written and read back exactly, and computing
the same in a forward pass of that layout."""
import argparse
import io
import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import legacy
from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import rosinality
from training.networks import Discriminator, Generator

SMALL = {'channel_base': 128, 'channel_max': 8}


# ---------------------------------------------------------------------------------------------------------------------
# The forward passes of that layout, from its state dicts alone.

def lrelu(x, bias):
    return F.leaky_relu(x + bias.reshape(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2)


def blur(x, kernel, before, after):
    """Correlation with the stored (symmetric) kernel after zero padding."""
    x = F.pad(x, [before, after, before, after])
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def modulated(s, name, x, w, demodulate=True, up=False):
    weight = s[f'{name}.conv.weight']                                       # [1, O, I, k, k]
    style = w @ s[f'{name}.conv.modulation.weight'].t() / math.sqrt(w.shape[1]) + s[f'{name}.conv.modulation.bias']
    weight = weight * style[:, None, :, None, None] / math.sqrt(weight[0, 0].numel())
    if demodulate:
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    images = []
    for sample, kernel in zip(x, weight):
        if up:
            y = F.conv_transpose2d(sample[None], kernel.transpose(0, 1), stride=2)
            images.append(blur(y, s[f'{name}.conv.blur.kernel'], 1, 1))
        else:
            images.append(F.conv2d(sample[None], kernel, padding=kernel.shape[-1] // 2))
    return torch.cat(images)


def layer(s, name, x, w, index, up=False):
    x = modulated(s, name, x, w, up=up)
    return lrelu(x + s[f'noises.noise_{index}'] * s[f'{name}.noise.weight'], s[f'{name}.activate.bias'])


def to_rgb(s, name, x, w):
    return modulated(s, name, x, w, demodulate=False) + s[f'{name}.bias']


def upsample(x, kernel):
    stuffed = torch.zeros(*x.shape[:2], x.shape[2] * 2, x.shape[3] * 2)
    stuffed[:, :, ::2, ::2] = x
    return blur(stuffed, kernel, 2, 1)


def their_mapping(s, z):
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(1, 1 + sum(name.startswith('style.') and name.endswith('.weight') for name in s)):
        weight = s[f'style.{i}.weight']
        x = lrelu(x @ weight.t() * (0.01 / math.sqrt(weight.shape[1])), s[f'style.{i}.bias'] * 0.01)
    return x


def their_generator(s, z, truncation=1, latent_avg=None):
    w = their_mapping(s, z)
    if truncation != 1:
        w = latent_avg + truncation * (w - latent_avg)
    x = layer(s, 'conv1', s['input.input'].repeat(len(z), 1, 1, 1), w, 0)
    image = to_rgb(s, 'to_rgb1', x, w)
    i = 0
    while f'to_rgbs.{i}.bias' in s:
        x = layer(s, f'convs.{2 * i}', x, w, 2 * i + 1, up=True)
        x = layer(s, f'convs.{2 * i + 1}', x, w, 2 * i + 2)
        image = upsample(image, s[f'to_rgbs.{i}.upsample.kernel']) + to_rgb(s, f'to_rgbs.{i}', x, w)
        i += 1
    return image


def their_discriminator(s, image):
    def conv(name, x, **kwargs):
        return F.conv2d(x, s[name] / math.sqrt(s[name][0].numel()), **kwargs)

    x = lrelu(conv('convs.0.0.weight', image), s['convs.0.1.bias'])
    i = 1
    while f'convs.{i}.conv1.0.weight' in s:
        y = lrelu(conv(f'convs.{i}.conv1.0.weight', x, padding=1), s[f'convs.{i}.conv1.1.bias'])
        y = conv(f'convs.{i}.conv2.1.weight', blur(y, s[f'convs.{i}.conv2.0.kernel'], 2, 2), stride=2)
        y = lrelu(y, s[f'convs.{i}.conv2.2.bias'])
        x = conv(f'convs.{i}.skip.1.weight', blur(x, s[f'convs.{i}.skip.0.kernel'], 1, 1), stride=2)
        x = (x + y) / math.sqrt(2)
        i += 1
    group = min(len(x), 4)
    deviation = (x.reshape(group, -1, *x.shape[1:]).var(0, unbiased=False) + 1e-8).sqrt().mean([1, 2, 3])
    x = torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, 4, 4)], 1)
    x = lrelu(conv('final_conv.0.weight', x, padding=1), s['final_conv.1.bias']).flatten(1)
    weight = s['final_linear.0.weight']
    x = lrelu(x @ weight.t() / math.sqrt(weight.shape[1]), s['final_linear.0.bias'])
    weight = s['final_linear.1.weight']
    return x @ weight.t() / math.sqrt(weight.shape[1]) + s['final_linear.1.bias']


# ---------------------------------------------------------------------------------------------------------------------

def make(**synthesis):
    """Networks with biases and noise strengths that matter."""
    networks = {'G': Generator(8, 0, 8, 16, 3, {'num_layers': 3}, {**SMALL, **synthesis}),
                'D': Discriminator(0, 16, 3, **SMALL),
                'G_ema': Generator(8, 0, 8, 16, 3, {'num_layers': 3}, {**SMALL, **synthesis})}
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if name.endswith(('bias', 'noise_strength')):
                parameter.data.add_(torch.randn(parameter.shape) * 0.3)
        network.eval().requires_grad_(False)
    for name in ('G', 'G_ema'):
        networks[name].mapping.w_avg.normal_()
    return networks


def written(networks):
    file = io.BytesIO()
    rosinality.write(file, networks)
    return file.getvalue()


def read(data):
    return legacy.load_network_pkl(io.BytesIO(data))


def close(obtained, expected):
    torch.testing.assert_close(obtained, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_written_networks_compute_the_same_in_that_layout():
    networks = make()
    content = torch.load(io.BytesIO(written(networks)), weights_only=True)
    assert list(content) == ['g', 'd', 'g_ema', 'latent_avg']
    z, image = torch.randn(4, 8), torch.randn(8, 3, 16, 16)
    for ours, theirs in (('G', 'g'), ('G_ema', 'g_ema')):
        close(their_generator(content[theirs], z), networks[ours](z, None, noise_mode='const'))
    close(their_generator(content['g_ema'], z, 0.6, content['latent_avg']),
          networks['G_ema'](z, None, truncation_psi=0.6, noise_mode='const'))
    close(their_discriminator(content['d'], image), networks['D'](image, None))


def test_names_and_shapes_are_those_of_the_layout():
    shapes = {name: {key: list(tensor.shape) for key, tensor in torch.load(
        io.BytesIO(written(make())), weights_only=True)[name].items()} for name in ('g', 'd')}
    assert shapes['g'] == {
        'input.input': [1, 8, 4, 4], 'conv1.conv.weight': [1, 8, 8, 3, 3],
        'to_rgb1.conv.weight': [1, 3, 8, 1, 1], 'to_rgb1.bias': [1, 3, 1, 1],
        'noises.noise_0': [1, 1, 4, 4], 'noises.noise_1': [1, 1, 8, 8], 'noises.noise_2': [1, 1, 8, 8],
        'noises.noise_3': [1, 1, 16, 16], 'noises.noise_4': [1, 1, 16, 16],
        **{f'style.{i}.{leaf}': shape for i in (1, 2, 3)
           for leaf, shape in (('weight', [8, 8]), ('bias', [8]))},
        **{f'convs.{i}.conv.weight': [1, 8, 8, 3, 3] for i in range(4)},
        **{f'convs.{i}.conv.blur.kernel': [4, 4] for i in (0, 2)},
        **{f'to_rgbs.{i}.{leaf}': shape for i in (0, 1) for leaf, shape in (
            ('conv.weight', [1, 3, 8, 1, 1]), ('bias', [1, 3, 1, 1]), ('upsample.kernel', [4, 4]))},
        **{f'{name}.{leaf}': [8] for name in ('conv1', 'convs.0', 'convs.1', 'convs.2', 'convs.3')
           for leaf in ('activate.bias', 'conv.modulation.bias')},
        **{f'{name}.noise.weight': [1] for name in ('conv1', 'convs.0', 'convs.1', 'convs.2', 'convs.3')},
        **{f'{name}.conv.modulation.weight': [8, 8] for name in (
            'conv1', 'convs.0', 'convs.1', 'convs.2', 'convs.3', 'to_rgb1', 'to_rgbs.0', 'to_rgbs.1')},
        **{f'{name}.conv.modulation.bias': [8] for name in ('to_rgb1', 'to_rgbs.0', 'to_rgbs.1')},
    }
    assert shapes['d'] == {
        'convs.0.0.weight': [8, 3, 1, 1], 'convs.0.1.bias': [8],
        **{f'convs.{i}.{leaf}': shape for i in (1, 2) for leaf, shape in (
            ('conv1.0.weight', [8, 8, 3, 3]), ('conv1.1.bias', [8]), ('conv2.0.kernel', [4, 4]),
            ('conv2.1.weight', [8, 8, 3, 3]), ('conv2.2.bias', [8]), ('skip.0.kernel', [4, 4]),
            ('skip.1.weight', [8, 8, 1, 1]))},
        'final_conv.0.weight': [8, 9, 3, 3], 'final_conv.1.bias': [8], 'final_linear.0.weight': [8, 128],
        'final_linear.0.bias': [8], 'final_linear.1.weight': [1, 8], 'final_linear.1.bias': [1],
    }


def test_written_networks_come_back_exactly():
    networks = make()
    data = read(written(networks))
    for name, network in networks.items():
        state = data[name].state_dict()
        assert list(state) == list(network.state_dict())
        for key, tensor in network.state_dict().items():
            if name != 'G' or key != 'mapping.w_avg':       # The layout has one average, that of G_ema.
                assert torch.equal(state[key], tensor), key
    assert torch.equal(data['G'].mapping.w_avg, networks['G_ema'].mapping.w_avg)
    assert data['augment_pipe'] is None and data['training_set_kwargs'] is None


def test_channels_are_read_off_the_shapes():
    networks = make(channel_base=64, channel_max=16)
    options = read(written(networks))['G'].init_kwargs['synthesis_kwargs']
    assert options == {'channel_base': 64, 'channel_max': 16}


@pytest.mark.parametrize('archive', [True, False], ids=['zip', 'older layout'])
def test_training_checkpoints_with_optimizers_and_arguments_are_read(archive):
    networks = make()
    content = torch.load(io.BytesIO(written(networks)), weights_only=True)
    del content['latent_avg']
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in content['g'].values()]
    optimizer = torch.optim.Adam(parameters)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    content.update(g_optim=optimizer.state_dict(), args=argparse.Namespace(size=16, path='x'), ada_aug_p=0.5)
    content['d'] = {f'module.{name}': tensor for name, tensor in content['d'].items()}      # DataParallel.
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    data = read(file.getvalue())
    image = torch.randn(4, 3, 16, 16)
    assert torch.equal(data['D'](image, None), networks['D'](image, None))


def test_a_missing_average_of_w_is_that_of_many_latents():
    networks = make()
    content = torch.load(io.BytesIO(written(networks)), weights_only=True)
    file = io.BytesIO()
    torch.save({'g_ema': content['g_ema']}, file)
    data = read(file.getvalue())
    assert data['G'] is None and data['D'] is None
    w = their_mapping(content['g_ema'], torch.randn(20000, 8))
    torch.testing.assert_close(data['G_ema'].mapping.w_avg, w.mean(0), rtol=0,
                               atol=5 * (w.std() / 4096 ** 0.5).item())


@pytest.mark.parametrize('name, make_network, message', [
    ('G', lambda: Generator(8, 2, 8, 16, 3, synthesis_kwargs=SMALL),
     'G cannot .* it has c_dim=2, the layout c_dim=0'),
    ('G', lambda: Generator(8, 0, 8, 16, 1, synthesis_kwargs=SMALL), 'it has img_channels=1, the layout'),
    ('G', lambda: Generator(4, 0, 8, 16, 3, synthesis_kwargs=SMALL), r'widths \[4, 8\], which must be equal'),
    ('G', lambda: Generator(8, 0, 8, 16, 3, {'layer_features': 5}, SMALL),
     r'widths \[5, 8\], which must be equal'),
    ('G', lambda: Generator(8, 0, 8, 16, 3, {'lr_multiplier': 1}, SMALL),
     'it has lr_multiplier=1, the layout'),
    ('G', lambda: Generator(8, 0, 8, 16, 3, {}, {**SMALL, 'architecture': 'orig'}),
     'it has architecture=orig, the'),
    ('G', lambda: Generator(8, 0, 8, 16, 3, {}, {**SMALL, 'use_noise': False}),
     'it has use_noise=False, the layout'),
    ('G', lambda: Generator(8, 0, 8, 16, 3, {}, {**SMALL, 'resample_filter': [1, 2, 1]}),
     'it has resample_filter='),
    ('D', lambda: Discriminator(0, 16, 3, 'skip', **SMALL),
     'D cannot .* it has architecture=skip, the layout'),
    ('D', lambda: Discriminator(0, 16, 3, **SMALL, epilogue_kwargs={'mbstd_group_size': 8}),
     'mbstd_group_size=8'),
])
def test_what_the_layout_cannot_say_is_refused_by_name(name, make_network, message):
    with pytest.raises(CheckpointError, match=message):
        rosinality.write(io.BytesIO(), {name: make_network()})


# ---------------------------------------------------------------------------------------------------------------------
# Bad files.

def change(data, what):
    content = torch.load(io.BytesIO(data), weights_only=True)
    if what == 'no networks':
        content = {'model': content['g']}
    if what == 'missing':
        del content['d']['final_conv.1.bias']
    if what == 'filter':
        content['g']['convs.0.conv.blur.kernel'] = torch.rand(4, 4)
    if what == 'channels':
        content['g']['convs.0.activate.bias'] = torch.zeros(6)
        content['g']['convs.1.activate.bias'] = torch.zeros(6)
    if what == 'mapping':
        content['g_ema']['style.2.weight'] = torch.zeros(8, 7)
        del content['latent_avg']
    if what == 'not tensors':
        content['d']['final_conv.1.bias'] = 'text'
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize('what, message', [
    ('no networks', 'a torch file without networks g, d or g_ema'),
    ('missing', 'tensor final_conv.1.bias is missing'),
    ('filter', r'convs.0.conv.blur.kernel is not the filter \[1, 3, 3, 1\]'),
    ('channels', 'do not follow min'),
    ('mapping', r'style.2.weight is \[8, 7\], expected \[8, 8\]'),
    ('not tensors', 'd is not a table of tensors'),
])
def test_what_does_not_fit_is_said_in_a_sentence(what, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(change(written(make()), what))
    assert '\n' not in str(caught.value)


def rewritten(data, compression=zipfile.ZIP_STORED, **members):
    """The archive with some members replaced."""
    source, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as target:
        for name in source.namelist():
            folder, _, member = name.partition('/')
            target.writestr(name, members.get(member.replace('.', '_').replace('/', '_'), source.read(name)))
    return file.getvalue()


def archive_of(*names):
    """An archive of empty members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in names:
            archive.writestr(name, b'')
    return file.getvalue()


class Evil:
    def __reduce__(self):
        return eval, ('exit()',)


@pytest.mark.parametrize('make_bad, message', [
    (lambda data: rewritten(data, data_pkl=pickle.dumps({'g': Evil()}, 2)), 'asks for __builtin__.eval'),
    (lambda data: rewritten(data, zipfile.ZIP_DEFLATED), 'compressed members'),
    (lambda data: rewritten(data, byteorder=b'big'), 'big-endian'),
    (lambda data: rewritten(data, data_0=b'123'), 'elements declared, 3 bytes found'),
    (lambda data: archive_of('x/data.pkl', 'x/constants.pkl', 'x/code/a.py'), r'a program \(TorchScript\)'),
    (lambda data: archive_of('x/archive_format', 'x/models/model.json'), r'a program \(made by torch.export\)'),
    (lambda data: archive_of('readme.txt'), r'a \.zip archive that torch has not written'),
    (lambda data: data[:len(data) // 2], 'damaged, or not written by torch'),
    (lambda data: b'PK\x03\x04' + bytes(100), 'damaged, or not written by torch'),
])
def test_hostile_archives_are_refused(make_bad, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(make_bad(written(make())))
    assert '\n' not in str(caught.value)


def test_flipped_bits_in_an_archive_never_do_anything_but_raise_or_change_a_number():
    data, rnd = bytearray(written({'G_ema': make()['G_ema']})), np.random.RandomState(0)
    for position in rnd.randint(len(data), size=100):
        bit = 1 << rnd.randint(8)
        data[position] ^= bit
        try:
            assert set(read(data)) >= {'G', 'D', 'G_ema'}
        except CheckpointError as error:
            assert '\n' not in str(error)
        data[position] ^= bit


# ---------------------------------------------------------------------------------------------------------------------
# Files as that program writes them.

GENUINE = Path(__file__).parents[1] / 'fixtures' / 'foreign'  # With what that program itself makes of them.


@pytest.mark.parametrize('name', ['rosinality_train_16.pt', 'rosinality_train_16_stream.pt'])
def test_genuine_training_checkpoints_compute_what_they_did(name):
    expected = {key: torch.from_numpy(value)
                for key, value in np.load(GENUINE / 'rosinality_train_16_expected.npz').items()}
    data = legacy.load_network_pkl(GENUINE / name)
    close(data['G_ema'](expected['z'], None, noise_mode='const'), expected['images_const_noise'])
    close(data['D'](expected['img'], None), expected['d_logits'])


def test_a_genuine_converted_generator_computes_what_it_did():
    expected = np.load(GENUINE / 'rosinality_converted_16_expected.npz')
    data = legacy.load_network_pkl(GENUINE / 'rosinality_converted_16.pt')
    close(data['G_ema'](torch.from_numpy(expected['z']), None, truncation_psi=0.7, noise_mode='const'),
          torch.from_numpy(expected['images_trunc_07']))
    assert data['G'] is None and data['D'] is None


def as_modules(state):
    """A tree of modules with this state dict, which then has the
    attribute that those of real modules have."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, leaf = name.split('.')
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return root


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('archive', [True, False], ids=['zip', 'older layout'])
def test_state_dicts_of_real_modules_are_read_however_torch_writes_them(archive, protocol, dtype):
    networks = make()
    content = torch.load(io.BytesIO(written(networks)), weights_only=True)
    module = as_modules(content['g_ema']).to(dtype)
    state = module.state_dict(keep_vars=True)       # Parameters, with hooks and attributes.
    next(iter(state.values())).note = 'an attribute'
    assert state._metadata
    file = io.BytesIO()
    torch.save({'g_ema': state, 'latent_avg': content['latent_avg']}, file, pickle_protocol=protocol,
               _use_new_zipfile_serialization=archive)
    loaded = read(file.getvalue())['G_ema'].state_dict()
    for name, tensor in networks['G_ema'].state_dict().items():
        assert torch.equal(loaded[name], tensor if name == 'mapping.w_avg' else tensor.to(dtype).float()), name


def test_a_state_dict_alone_is_that_of_the_averaged_generator():
    networks = make()
    content = torch.load(io.BytesIO(written(networks)), weights_only=True)
    file = io.BytesIO()
    torch.save(as_modules(content['g_ema']).state_dict(), file)
    data = read(file.getvalue())
    z = torch.randn(2, 8)
    assert data['D'] is None
    assert torch.equal(data['G_ema'](z, None, noise_mode='const'),
                       networks['G_ema'](z, None, noise_mode='const'))


def test_a_layer_named_many_times_costs_no_more_than_the_file():
    content = torch.load(io.BytesIO(written(make())), weights_only=True)
    del content['latent_avg']
    weight, bias = torch.zeros(512, 512), torch.zeros(512)
    content['g_ema'].update({f'style.{i}.{leaf}': tensor for i in range(1, 5000)
                             for leaf, tensor in (('weight', weight), ('bias', bias))})
    file = io.BytesIO()
    torch.save({'g_ema': content['g_ema']}, file)
    with pytest.raises(CheckpointError, match='the network is larger than the file it comes from'):
        read(file.getvalue())
