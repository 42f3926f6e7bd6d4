"""Tiny network files and what the picture-drawing scripts should make of them."""
import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

from torch_utils import checkpoint
from training.networks import Discriminator, Generator

SMALL = {'channel_base': 128, 'channel_max': 8}


def make_generator(c_dim=0, img_channels=3, seed=0):
    """16x16, with noise that matters and a `w_avg` that is not zero."""
    torch.manual_seed(seed)
    G = Generator(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=16, img_channels=img_channels,
                  mapping_kwargs={'num_layers': 2}, synthesis_kwargs=SMALL)
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(0.3)
    G.mapping.w_avg.copy_(torch.linspace(-1, 1, 8))
    return G.eval().requires_grad_(False)


def write_networks(folder):
    """A run directory with three snapshots, a conditional
    grey network, one of two channels, one without G_ema."""
    (folder / 'run').mkdir()
    for kimg in (9, 10, 100):
        checkpoint.save_networks(folder / f'run/network-snapshot-{kimg:06d}.safetensors',
                                 {'G': None, 'G_ema': make_generator(seed=kimg)})
    checkpoint.save_networks(folder / 'grey.safetensors', {'G_ema': make_generator(c_dim=3, img_channels=1)})
    checkpoint.save_networks(folder / 'two.safetensors', {'G_ema': make_generator(img_channels=2)})
    checkpoint.save_networks(folder / 'empty.safetensors', {'D': Discriminator(0, 16, 3, **SMALL)})
    return folder


def run(command, *args):
    """(exit status, output) of the command, which must not end with a traceback."""
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.output


def expected_picture(G, seed, c=None, psi=1, noise_mode='const'):
    """The specified pixels, [H, W, C], written out here."""
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)).float()
    c = torch.zeros(1, G.c_dim) if c is None else torch.eye(G.c_dim)[[c]]
    img = G.synthesis(G.mapping.w_avg + psi * (G.mapping(z, c) - G.mapping.w_avg), noise_mode=noise_mode)
    return np.clip(img[0].permute(1, 2, 0).numpy() * 127.5 + 128, 0, 255).astype(np.uint8)


def assert_picture(path, expected, tolerance=0):
    """Tolerance 1 is for sums that the batch size reorders: a value at an edge may fall to either side."""
    image = Image.open(path)
    assert image.mode == {1: 'L', 3: 'RGB'}[expected.shape[2]]
    difference = np.abs(np.asarray(image).reshape(expected.shape).astype(int) - expected)
    assert difference.max() <= tolerance and (difference > 0).mean() < 0.01
