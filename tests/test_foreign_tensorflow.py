"""TensorFlow-era pickles: our tensors written by the inverted table come back;
options mean what they meant there.

Not in a folder like the other tests: scripts that report
on such files take the writers from here, by this name.
"""
import io
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

import legacy
from torch_utils.checkpoint import CheckpointError
from training.networks import Discriminator, Generator


class Network:
    """As those programs pickle it: an object without arguments, and a state."""

    def __init__(self, version, static_kwargs, variables, components=None):
        self.state = {'version': version, 'name': 'x', 'static_kwargs': static_kwargs,
                      'build_module_src': CANARY, 'variables': variables, 'components': components or {}}

    def __getstate__(self):
        return self.state


Network.__module__ = 'dnnlib.tflib.network'
CANARY = 'raise SystemExit("the source inside the file was executed")'


def tf_pickle(networks, protocol=4):
    modules = {name: types.ModuleType(name) for name in ('dnnlib.tflib', 'dnnlib.tflib.network')}
    modules['dnnlib.tflib.network'].Network = Network
    sys.modules.update(modules)
    try:
        return pickle.dumps(networks, protocol)
    finally:
        for name in modules:
            del sys.modules[name]


# The table of the formats, in the other direction, by hand.

def conv(w):
    return w.permute(2, 3, 1, 0).numpy()


def conv_flip(w):
    return w.flip([2, 3]).permute(2, 3, 1, 0).numpy()


def dense(w):
    return w.t().numpy()


def style_layer(state, ours, theirs, weight):
    result = {f'{theirs}/weight': weight(state[f'{ours}.weight']),
              f'{theirs}/bias': state[f'{ours}.bias'].numpy(),
              f'{theirs}/mod_weight': dense(state[f'{ours}.affine.weight']),
              f'{theirs}/mod_bias': state[f'{ours}.affine.bias'].numpy() - 1}
    if f'{ours}.noise_strength' in state:
        result[f'{theirs}/noise_strength'] = state[f'{ours}.noise_strength'].numpy()[()]      # A number.
    return result


def tf_generator(G, options):
    state = G.state_dict()
    mapping = {f'Dense{i}/{name}': dense(state[f'mapping.fc{i}.weight']) if name == 'weight'
               else state[f'mapping.fc{i}.bias'].numpy() for i in range(2) for name in ('weight', 'bias')}
    if G.c_dim:
        mapping.update({'LabelEmbed/weight': dense(state['mapping.embed.weight']),
                        'LabelEmbed/bias': state['mapping.embed.bias'].numpy()})
    synthesis = {'4x4/Const/const': state['synthesis.b4.const'][None].numpy(), 'lod': np.float32(0),
                 'noise0': state['synthesis.b4.conv1.noise_const'][None, None].numpy(),
                 **style_layer(state, 'synthesis.b4.conv1', '4x4/Conv', conv)}
    for r, i0, i1 in ((8, 1, 2), (16, 3, 4)):
        b = f'synthesis.b{r}'
        synthesis.update(style_layer(state, f'{b}.conv0', f'{r}x{r}/Conv0_up', conv_flip))
        synthesis.update(style_layer(state, f'{b}.conv1', f'{r}x{r}/Conv1', conv))
        synthesis.update({f'noise{i0}': state[f'{b}.conv0.noise_const'][None, None].numpy(),
                          f'noise{i1}': state[f'{b}.conv1.noise_const'][None, None].numpy()})
        if f'{b}.skip.weight' in state:
            synthesis[f'{r}x{r}/Skip/weight'] = conv_flip(state[f'{b}.skip.weight'])
    for r in (4, 8, 16):
        if f'synthesis.b{r}.torgb.weight' in state:
            synthesis.update(style_layer(state, f'synthesis.b{r}.torgb', f'{r}x{r}/ToRGB', conv))
    return Network(4, options, [('lod', np.float32(0)), ('dlatent_avg', state['mapping.w_avg'].numpy())],
                   OrderedDict(mapping=Network(4, {}, list(mapping.items())),
                               synthesis=Network(5, {}, list(synthesis.items()))))


def tf_discriminator(D, options):
    state = {key: value for key, value in D.state_dict().items() if not key.endswith('resample_filter')}
    names = {'conv0': 'Conv0', 'conv1': 'Conv1_down', 'skip': 'Skip', 'fromrgb': 'FromRGB', 'conv': 'Conv'}
    variables = []
    for key, value in state.items():
        block, layer, leaf = key.split('.')
        if block == 'mapping':
            theirs, is_dense = ('LabelEmbed', True) if layer == 'embed' else (f'Mapping{layer[2:]}', True)
        elif layer in ('fc', 'out'):
            theirs, is_dense = {'fc': '4x4/Dense0', 'out': 'Output'}[layer], True
        else:
            theirs, is_dense = f'{block[1:]}x{block[1:]}/{names[layer]}', False
        if leaf == 'weight':
            value = dense(value) if is_dense else conv(value)
        variables.append((f'{theirs}/{leaf}', np.asarray(value)))
    return Network(4, options, variables)


def randomize(network):
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape) * (100 if parameter.ndim == 2 else 1))
    return network.eval().requires_grad_(False)


def make(c_dim, architecture_g, architecture_d, **synthesis):
    G = Generator(8, c_dim, 8, 16, 3, {'num_layers': 2, 'embed_features': 4, 'layer_features': 6},
                  {'channel_base': 128, 'channel_max': 8, 'architecture': architecture_g, **synthesis})
    D = Discriminator(c_dim, 16, 3, channel_base=128, channel_max=8, architecture=architecture_d, cmap_dim=5,
                      mapping_kwargs={'num_layers': 1, 'lr_multiplier': 0.1},
                      epilogue_kwargs={'mbstd_group_size': None})
    options = {'resolution': 16, 'num_channels': 3, 'label_size': c_dim, 'fmap_base': 64, 'fmap_max': 8}
    options_g = {**options, 'latent_size': 8, 'dlatent_size': 8, 'mapping_layers': 2, 'label_fmaps': 4,
                 'mapping_fmaps': 6, 'architecture': architecture_g, 'truncation_psi': 0.5,
                 'style_mixing_prob': 0.9}
    options_d = {**options, 'architecture': architecture_d, 'mapping_layers': 1, 'mapping_fmaps': 5}
    return randomize(G), randomize(D), options_g, options_d


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('c_dim, architecture_g, architecture_d', [
    (0, 'skip', 'resnet'), (3, 'skip', 'resnet'), (0, 'resnet', 'skip'), (3, 'orig', 'orig')])
def test_networks_compute_the_same(c_dim, architecture_g, architecture_d, protocol):
    G, D, options_g, options_d = make(c_dim, architecture_g, architecture_d)
    data = legacy.load_network_pkl(io.BytesIO(tf_pickle(
        (tf_generator(G, options_g), tf_discriminator(D, options_d), tf_generator(G, options_g)), protocol)))
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]] if c_dim else torch.zeros(4, 0)
    for name in ('G', 'G_ema'):
        expected = G(z, c, truncation_psi=0.5, noise_mode='const')
        torch.testing.assert_close(data[name](z, c, truncation_psi=0.5, noise_mode='const'), expected,
                                   # The shift of style biases.
                                   rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        assert [*data[name].state_dict()] == [*G.state_dict()]
    img = torch.randn(4, 3, 16, 16)
    expected = D(img, c)
    torch.testing.assert_close(data['D'](img, c), expected, rtol=1e-5,
                               atol=1e-5 * expected.abs().max().item())
    assert data['augment_pipe'] is None and data['training_set_kwargs'] is None


@pytest.mark.parametrize('options', [
    {'resolution_h': 16, 'resolution_w': 16}, {'conditioning': 'mul'}, {'fused_modconv': True}],
    ids=lambda o: next(iter(o)))
def test_options_that_change_no_tensor_are_passed_over(options):
    G, D, options_g, options_d = make(0, 'skip', 'resnet')
    data = legacy.load_network_pkl(io.BytesIO(tf_pickle((
        tf_generator(G, {**options_g, **options}), tf_discriminator(D, {**options_d, **options}),
        tf_generator(G, options_g)))))
    z, img = torch.randn(2, 8), torch.randn(2, 3, 16, 16)
    expected = G(z, None, noise_mode='const')
    torch.testing.assert_close(data['G'](z, None, noise_mode='const'), expected, rtol=1e-5,
                               atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(data['D'](img, None), D(img, None))


def test_images_that_are_not_square_are_told_as_such():
    G, D, options_g, options_d = make(0, 'skip', 'resnet')
    theirs = tf_generator(G, {**options_g, 'resolution_h': 16, 'resolution_w': 32})
    with pytest.raises(CheckpointError, match='32'):
        legacy.load_network_pkl(io.BytesIO(tf_pickle((theirs, tf_discriminator(D, options_d), theirs))))


def test_options_without_a_value_have_the_defaults_of_those_programs():
    from torch_utils.foreign import tensorflow
    G = tensorflow.arguments_of({}, tensorflow.OPTIONS_G, tensorflow.IGNORED_G)
    D = tensorflow.arguments_of({}, tensorflow.OPTIONS_D, tensorflow.IGNORED_D)
    assert (G['z_dim'], G['w_dim'], G['img_resolution'], G['mapping_kwargs']['num_layers']) == (512, 512, 1024, 8)
    assert G['synthesis_kwargs']['channel_base'] == D['channel_base'] == 32768
    assert D['mapping_kwargs'] == {'num_layers': 0, 'lr_multiplier': 0.1}
    assert D['epilogue_kwargs'] == {'mbstd_group_size': None, 'mbstd_num_channels': 1}


def test_a_filter_that_is_not_the_default_is_rebuilt():
    G, D, options_g, options_d = make(0, 'skip', 'resnet', resample_filter=[1, 2, 1])
    options_g['resample_kernel'] = [1, 2, 1]
    data = legacy.load_network_pkl(io.BytesIO(tf_pickle(
        (tf_generator(G, options_g), tf_discriminator(D, options_d), tf_generator(G, options_g)))))
    assert torch.equal(data['G'].synthesis.b8.resample_filter, G.synthesis.b8.resample_filter)
    assert data['G'].synthesis.b8.resample_filter.shape == (3, 3)


def test_the_older_name_of_the_image_layer_means_architecture_orig():
    G, D, options_g, options_d = make(0, 'skip', 'orig')
    theirs = tf_discriminator(D, {**options_d, 'architecture': 'resnet'})
    theirs.state['variables'] = [(name.replace('16x16/FromRGB', 'FromRGB_lod0'), value)
                                 for name, value in theirs.state['variables']]
    networks = tf_generator(G, options_g), theirs, tf_generator(G, options_g)
    data = legacy.load_network_pkl(io.BytesIO(tf_pickle(networks)))
    img = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(data['D'](img, None), D(img, None))


def broken(what):
    G, D, options_g, options_d = make(0, 'skip', 'resnet')
    G, D = tf_generator(G, options_g), tf_discriminator(D, options_d)
    variables = D.state['variables']
    if what == 'old':
        G.state['version'] = 3
    if what == 'unknown option':
        D.state['static_kwargs']['magic'] = 1
    if what == 'missing':
        D.state['variables'] = [item for item in variables if item[0] != 'Output/bias']
    if what == 'flat':
        D.state['variables'] = [(name, np.zeros(3, np.float32)) for name, _ in variables]
    if what == 'objects':
        D.state['variables'] = [(name, np.array([print], dtype=object)) for name, _ in variables]
    if what == 'text':
        D.state['variables'] = [(name, 'a') for name, _ in variables]
    if what == 'levels':
        G.state['variables'].append(('synthesis/ToRGB_lod0/weight', np.zeros(3, np.float32)))
    if what == 'noise':
        synthesis = G.state['components']['synthesis']
        synthesis.state['variables'] = [(name, value[0] if name == 'noise1' else value)
                                        for name, value in synthesis.state['variables']]
    return tf_pickle((G, D) if what == 'two' else (G, D, G))


@pytest.mark.parametrize('what, message', [
    ('old', 'a TensorFlow network of version 3; 4 and later can be read'),
    ('unknown option', 'the TensorFlow option magic has no counterpart'),
    ('missing', 'D cannot be rebuilt: tensor b4.out.bias is missing'),
    ('flat', 'axes'),
    ('objects', 'refused: an array of something other than numbers'),
    ('text', 'a variable without name or value'),
    ('levels', 'one image layer per level of detail'),
    ('noise', r'tensor synthesis.b8.conv0.noise_const is \[8\], its arguments say \[8, 8\]'),
    ('two', 'not the three networks'),
])
def test_what_does_not_fit_is_said_in_a_sentence(what, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        legacy.load_network_pkl(io.BytesIO(broken(what)))
    assert '\n' not in str(caught.value)
