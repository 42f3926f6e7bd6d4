"""Both networks against their definition, written out below
in float64 with dense sums: options that no fixture holds.

Everything follows the state dict; nothing of the networks' code is used but the constructors.
"""
import math

import pytest
import torch
import torch.nn.functional as F

from training.networks import Discriminator, Generator

DEFAULT_FIR = torch.tensor([1, 3, 3, 1]).outer(torch.tensor([1, 3, 3, 1])).double() / 64
ACTIVATIONS = {  # Function, gain.
    'lrelu': (lambda t: torch.where(t > 0, t, 0.2 * t), math.sqrt(2)),
    'swish': (lambda t: t * torch.sigmoid(t), math.sqrt(2)),
    'linear': (lambda t: t, 1),
}


def activate(x, bias, act, gain=1, clamp=None):
    func, act_gain = ACTIVATIONS[act]
    x = func(x + bias[:, None, None]) * act_gain * gain
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def fir(x, f, pads, up=1, down=1, gain=1):
    """Zero-stuffs, pads (before, after), convolves with f, decimates."""
    if f.ndim == 1:
        f = f.outer(f)
    stuffed = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    stuffed[:, :, ::up, ::up] = x
    kernel = (gain * f).flip([0, 1]).expand(x.shape[1], 1, *f.shape)
    return F.conv2d(F.pad(stuffed, [*pads, *pads]), kernel, groups=x.shape[1])[:, :, ::down, ::down]


def up_pads(f):
    return (len(f) + 1) // 2, (len(f) - 2) // 2


def down_pads(f):
    return (len(f) - 1) // 2, (len(f) - 2) // 2


def conv(x, w, f, up=1, down=1):
    """Convolution [3.1]; padding half the kernel, at the upsampled resolution."""
    pads = [w.shape[2] // 2] * 2
    if up == 2:
        pads = [p + q for p, q in zip(pads, up_pads(f))]
        return F.conv2d(fir(x, f, pads, up=2, gain=4), w.flip([2, 3]))
    if down == 2:
        pads = [p + q for p, q in zip(pads, down_pads(f))]
        return fir(F.conv2d(F.pad(x, [*pads, *pads]), w), f, (0, 0), down=2)
    return F.conv2d(x, w, padding=w.shape[2] // 2)


def dense(x, weight, bias, lr_multiplier=1):
    return x @ weight.t() * lr_multiplier / math.sqrt(weight.shape[1]) + bias * lr_multiplier


def mapping(state, prefix, z, c):
    n2m = [x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
           for x in (z, dense(c, state[f'{prefix}embed.weight'], state[f'{prefix}embed.bias'])) if x is not None]
    x = torch.cat(n2m, dim=1)
    for i in range(2):
        x = dense(x, state[f'{prefix}fc{i}.weight'], state[f'{prefix}fc{i}.bias'], lr_multiplier=0.01)
        x = ACTIVATIONS['lrelu'][0](x) * math.sqrt(2)
    return x


def synthesis(state, ws, resolutions, architecture, act, clamp, noise_mode):
    x = img = None
    index = 0

    def styled(name, x, f, w, up=1, gain=1):
        weight, styles = state[f'{name}.weight'], dense(w, state[f'{name}.affine.weight'], state[f'{name}.affine.bias'])
        samples = []
        for n in range(len(w)):
            kernel = weight * styles[n][None, :, None, None]
            kernel = kernel / (kernel.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
            samples.append(conv(x[n : n + 1], kernel, f, up=up))
        y = torch.cat(samples)
        if noise_mode == 'const':
            y = y + state[f'{name}.noise_const'] * state[f'{name}.noise_strength']
        return activate(y, state[f'{name}.bias'], act, gain, clamp)

    for res in resolutions:
        b, f = f'b{res}', state[f'b{res}.resample_filter']
        half = math.sqrt(0.5) if architecture == 'resnet' and res > 4 else 1
        if res == 4:
            x = state['b4.const'][None].repeat(len(ws), 1, 1, 1)
        else:
            entry = x
            x = styled(f'{b}.conv0', x, f, ws[:, index], up=2)
            index += 1
        x = styled(f'{b}.conv1', x, DEFAULT_FIR, ws[:, index], gain=half)
        index += 1
        if half != 1:
            weight = state[f'{b}.skip.weight']
            x = x + half * conv(entry, weight / math.sqrt(weight.shape[1]), f, up=2)
        if img is not None:
            img = fir(img, f, up_pads(f), up=2, gain=4)
        if architecture == 'skip' or res == resolutions[-1]:
            weight = state[f'{b}.torgb.weight']
            styles = dense(ws[:, index], state[f'{b}.torgb.affine.weight'], state[f'{b}.torgb.affine.bias'])
            y = F.conv2d(x * styles[:, :, None, None] / math.sqrt(weight.shape[1]), weight)
            y = activate(y, state[f'{b}.torgb.bias'], 'linear', clamp=clamp)
            img = y if img is None else img + y
    return img


def discriminator(state, img, c, resolutions, architecture, act, clamp, group_size):
    x = None

    def layer(name, x, f=DEFAULT_FIR, gain=1, act=act, clamp=clamp, down=1):
        weight = state[f'{name}.weight']
        y = conv(x, weight / math.sqrt(weight[0].numel()), f, down=down)
        return activate(y, state.get(f'{name}.bias', torch.zeros(len(weight))), act, gain, clamp)

    for res in resolutions:
        b, f = f'b{res}', state[f'b{res}.resample_filter']
        half = math.sqrt(0.5) if architecture == 'resnet' else 1
        if architecture == 'skip' or x is None:
            x = layer(f'{b}.fromrgb', img) + (0 if x is None else x)
            img = fir(img, f, down_pads(f), down=2)
        entry = x
        x = layer(f'{b}.conv1', layer(f'{b}.conv0', x), f, gain=half, down=2)
        if architecture == 'resnet':
            x = x + layer(f'{b}.skip', entry, f, gain=half, act='linear', clamp=None, down=2)

    if architecture == 'skip':
        x = x + layer('b4.fromrgb', img, act='lrelu', clamp=None)
    groups = len(x) // group_size
    deviation = torch.stack([(x[j::groups].var(dim=0, unbiased=False) + 1e-8).sqrt().mean() for j in range(groups)])
    x = torch.cat([x, deviation.repeat(group_size)[:, None, None, None].expand(-1, 1, 4, 4)], dim=1)
    x = layer('b4.conv', x, act='lrelu').flatten(1)
    x = ACTIVATIONS['lrelu'][0](dense(x, state['b4.fc.weight'], state['b4.fc.bias'])) * math.sqrt(2)
    x = dense(x, state['b4.out.weight'], state['b4.out.bias'])
    cmap = mapping(state, 'mapping.', None, c)
    return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])


def randomized(net):
    """The network in evaluation mode with no parameter at its initial zero, and its state dict in float64."""
    with torch.no_grad():
        for param in net.parameters():
            param += 0.3 * torch.randn_like(param)
    return net.eval(), {name: tensor.double() for name, tensor in net.state_dict().items()}


def assert_equal_to_rounding(obtained, expected):
    assert obtained.shape == expected.shape
    torch.testing.assert_close(obtained.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


TAPS = {'three': [1, 2, 5], 'four': [1, 3, 3, 1], 'separable': [1, 2, 3, 4, 5, 6, 7, 9]}


@pytest.mark.parametrize('taps', TAPS)
@pytest.mark.parametrize('clamp', [None, 0.7])
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_generator_is_what_its_definition_says(architecture, clamp, taps):
    G, state = randomized(Generator(
        z_dim=6, c_dim=3, w_dim=5, img_resolution=16, img_channels=2, mapping_kwargs={'num_layers': 2},
        synthesis_kwargs={'channel_base': 64, 'channel_max': 8, 'architecture': architecture, 'conv_clamp': clamp,
                          'resample_filter': TAPS[taps], 'activation': 'swish'}))
    z, c = torch.randn(3, 6), torch.eye(3)
    ws = mapping(state, 'mapping.', z.double(), c.double())
    img = synthesis(
        {name.removeprefix('synthesis.'): tensor for name, tensor in state.items()}, ws[:, None].repeat(1, 6, 1),
        [4, 8, 16], architecture, 'swish', clamp, 'const')
    for training in (False, True):
        assert_equal_to_rounding(G.train(training)(z, c, noise_mode='const'), img)


@pytest.mark.parametrize('taps', TAPS)
@pytest.mark.parametrize('clamp', [None, 0.7])
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_discriminator_is_what_its_definition_says(architecture, clamp, taps):
    D, state = randomized(Discriminator(
        c_dim=3, img_resolution=16, img_channels=2, architecture=architecture, channel_base=64, channel_max=8,
        conv_clamp=clamp, block_kwargs={'resample_filter': TAPS[taps], 'activation': 'swish'},
        mapping_kwargs={'num_layers': 2}, epilogue_kwargs={'mbstd_group_size': 2}))
    img, c = torch.randn(4, 2, 16, 16), torch.eye(4, 3)
    expected = discriminator(state, img.double(), c.double(), [16, 8], architecture, 'swish', clamp, group_size=2)
    assert_equal_to_rounding(D(img, c), expected)
