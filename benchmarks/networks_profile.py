"""What the rearrangements in training/layers.py are worth:
the four kinds of step with the layers as they are, and with the equations
of the papers taken literally (same numbers to rounding).

    OMP_NUM_THREADS=1 python benchmarks/networks_profile.py                 # 64 pixels, batch 8, CPU.
    python benchmarks/networks_profile.py --res=256 --channel-base=16384 --batch=16 --device=cuda

Literal means: demodulation squares and sums a kernel per sample;
ToRGB convolves a modulated copy of the activations; gains of dense layers multiply the weights; gains of
residual branches multiply the activations. Prints the shortest of several alternating runs in milliseconds
(on a CPU: of processor time, for one thread). Images are random,
and there is neither optimizer nor augmentation.
"""
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import click
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import seconds  # noqa: E402
from dnnlib.computing import measured_device_option  # noqa: E402
from torch_utils.ops import bias_act, conv2d_resample  # noqa: E402
from torch_utils.ops.conv2d_gradfix import no_weight_gradients  # noqa: E402
from training import layers  # noqa: E402
from training.networks import Discriminator, Generator  # noqa: E402


def literal_demodulation(weight, styles, eps):
    return ((weight * styles[:, None, :, None, None]).square().sum(dim=[2, 3, 4]) + eps).rsqrt()


def literal_modulation(x, weight, styles, demodulate=True, **kwargs):
    if not demodulate:
        return F.conv2d(x * styles[:, :, None, None], weight)
    return modulated_conv2d(x, weight, styles, **kwargs)


def literal_dense(self, x):
    x = F.linear(x, self.weight * self.weight_gain)
    return bias_act.bias_act(x, self.bias * self.bias_gain, act=self.activation)


def literal_conv(self, x, gain=1):
    x = conv2d_resample.conv2d_resample(
        x, self.weight * self.weight_gain, f=self.resample_filter, up=self.up, down=self.down,
        padding=self.padding, flip_weight=(self.up == 1))
    return layers._activate(x, self.bias, self.activation, gain, self.conv_clamp)


modulated_conv2d = layers.modulated_conv2d


@contextmanager
def literal_layers():
    with mock.patch.object(layers, 'demodulation', literal_demodulation), \
            mock.patch.object(layers, 'modulated_conv2d', literal_modulation), \
            mock.patch.object(layers.FullyConnectedLayer, 'forward', literal_dense), \
            mock.patch.object(layers.Conv2dLayer, 'forward', literal_conv):
        yield


def make_steps(res, channel_base, batch, device):
    """{name: function} of the four kinds of step."""
    G = Generator(512, 0, 512, res, 3, synthesis_kwargs={'channel_base': channel_base}).to(device)
    D = Discriminator(0, res, 3, channel_base=channel_base).to(device)
    z, real = torch.randn(batch, 512, device=device), torch.randn(batch, 3, res, res, device=device)

    def learn(player):
        for net in (G, D):
            net.zero_grad(set_to_none=True)
            net.requires_grad_(net is player)

    def g_main():
        learn(G)
        F.softplus(-D(G(z, None), None)).mean().backward()

    def d_main():
        learn(D)
        with torch.no_grad():
            fake = G(z, None)
        F.softplus(D(fake, None)).mean().backward()
        F.softplus(-D(real, None)).mean().backward()

    def r1():
        learn(D)
        img = real.clone().requires_grad_()
        with no_weight_gradients():
            grad, = torch.autograd.grad(D(img, None).sum(), img, create_graph=True)
        grad.square().sum(dim=[1, 2, 3]).mean().backward()

    def path_length():
        learn(G)
        ws = G.mapping(z[: max(batch // 2, 1)], None)
        img = G.synthesis(ws)
        with no_weight_gradients():
            grad, = torch.autograd.grad((img * torch.randn_like(img)).sum() / res, ws, create_graph=True)
        (grad.square().sum(dim=2).mean(dim=1).sqrt() - 1).square().mean().backward()

    return {'Gmain': g_main, 'Dmain': d_main, 'R1': r1, 'path length': path_length}


@click.command()
@click.option('--res', default=64, show_default=True)
@click.option('--channel-base', default=4096, show_default=True)
@click.option('--batch', default=8, show_default=True)
@measured_device_option
@click.option('--runs', default=5, show_default=True)
def main(res, channel_base, batch, device, runs):
    """Prints a table of times."""
    torch.manual_seed(0)
    print(f'{"step":12s}{"as is":>9s}{"literal":>9s}  ms')
    for name, step in make_steps(res, channel_base, batch, device).items():
        as_is, literal = [], []
        for _ in range(runs + 1):                       # The first run warms up.
            as_is.append(seconds(step, device))
            with literal_layers():
                literal.append(seconds(step, device))
        print(f'{name:12s}{1e3 * min(as_is[1:]):9.0f}{1e3 * min(literal[1:]):9.0f}')


if __name__ == '__main__':
    main()
