"""Checkpoints in the layout of rosinality's stylegan2-pytorch (`.pt` files with `g`, `d`, `g_ema`).

One architecture: z and w of equal width, unconditional, RGB,
a `skip` generator and a `resnet` discriminator, leaky ReLU, [1,3,3,1] filters, minibatch groups of 4. Kernels
of layers that upsample have the orientation of ours, style biases include their 1, and noise strengths have
shape [1]; so tensors only change name and shape (docs/formats.md). The layout has neither a learning-rate
multiplier of the mapping (0.01 by default, assumed) nor, usually, the average of w; where `latent_avg` is
missing, it is the mean over 4096 latents.
"""
import math
import re
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import tensors
from torch_utils.foreign.inert_pickle import Buildable, Substitutes, shorten
from torch_utils.foreign.network_record import NetworkRecord, with_filters

LR_MULTIPLIER = 0.01
W_AVG_SAMPLES = 4096
FILTER = (1, 3, 3, 1)
MAX_LAYERS = 64         # Of one kind: of the mapping, to RGB, ...


class Namespace(Buildable):
    """Substitute for the training arguments that come along; they are not used."""

    def build(self, state: Any) -> None:
        """Forgets them."""


def load(file: BinaryIO, is_archive: bool, only: Collection[str] | None = None) -> dict[str, Any]:
    """{'G', 'D', 'G_ema': NetworkRecord or None, 'augment_pipe': None, 'training_set_kwargs': None}."""
    num_bytes = tensors.size_of(file)
    known: Substitutes = {**tensors.substitutes(num_bytes), **tensors.STORAGE_TYPES,
                          ('argparse', 'Namespace'): Namespace}
    content = tensors.load_archive(file, known) if is_archive else \
        tensors.load_stream(file, known, tensors.Budget(num_bytes))
    if not isinstance(content, dict):
        raise CheckpointError('a torch file without networks g, d or g_ema')
    if {'input.input', 'module.input.input'} & set(content):        # The state dict of a generator alone.
        content = {'g_ema': content}
    if not {'g', 'd', 'g_ema'} & set(content):
        raise CheckpointError('a torch file without networks g, d or g_ema')
    w_avg = content.get('latent_avg')
    result = dict.fromkeys(('G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'))
    for name, key in (('G', 'g'), ('D', 'd'), ('G_ema', 'g_ema')):
        if key in content and (only is None or name in only):
            state = _state(content, key, num_bytes)
            result[name] = discriminator(state) if key == 'd' else generator(state, w_avg)
    return result


def _state(content: dict[str, Any], key: str, num_bytes: int) -> dict[str, torch.Tensor]:
    """The table of tensors of a network, which cannot be larger than the file."""
    state = content[key]
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor)
                                              for name, tensor in state.items()):
        raise CheckpointError(f'damaged: {key} is not a table of tensors')
    if sum(tensor.numel() for tensor in state.values()) > num_bytes:
        raise CheckpointError('refused: the network is larger than the file it comes from')
    return {name.removeprefix('module.'): tensor for name, tensor in state.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Names. A row: ours, theirs, and how many axes of length 1 theirs has before and after those of ours.

Row = tuple[str, str, int, int]


def _style_rows(ours: str, theirs: str) -> list[Row]:
    return [
        (f'{ours}.weight', f'{theirs}.conv.weight', 1, 0),
        (f'{ours}.affine.weight', f'{theirs}.conv.modulation.weight', 0, 0),
        (f'{ours}.affine.bias', f'{theirs}.conv.modulation.bias', 0, 0),
    ]


def _layer_rows(ours: str, theirs: str, index: int) -> list[Row]:
    return [
        *_style_rows(ours, theirs),
        (f'{ours}.bias', f'{theirs}.activate.bias', 0, 0),
        (f'{ours}.noise_strength', f'{theirs}.noise.weight', 1, 0),
        (f'{ours}.noise_const', f'noises.noise_{index}', 2, 0),
    ]


def _image_rows(ours: str, theirs: str) -> list[Row]:
    return [*_style_rows(ours, theirs), (f'{ours}.bias', f'{theirs}.bias', 1, 2)]


def generator_rows(img_resolution: int, num_layers: int) -> list[Row]:
    """Rows for every tensor of a generator, but filters and the average of w."""
    rows = [('synthesis.b4.const', 'input.input', 1, 0),
            *_layer_rows('synthesis.b4.conv1', 'conv1', 0),
            *_image_rows('synthesis.b4.torgb', 'to_rgb1')]
    for i in range(img_resolution.bit_length() - 3):            # 8x8, 16x16, ...
        block = f'synthesis.b{8 << i}'
        rows += [*_layer_rows(f'{block}.conv0', f'convs.{2 * i}', 2 * i + 1),
                 *_layer_rows(f'{block}.conv1', f'convs.{2 * i + 1}', 2 * i + 2),
                 *_image_rows(f'{block}.torgb', f'to_rgbs.{i}')]
    for i in range(num_layers):                                 # style.0 is the normalisation.
        rows += [(f'mapping.fc{i}.{name}', f'style.{i + 1}.{name}', 0, 0) for name in ('weight', 'bias')]
    return rows


def discriminator_rows(img_resolution: int) -> list[Row]:
    """Rows for every tensor of a discriminator, but filters."""
    pairs = [(f'b{img_resolution}.fromrgb.weight', 'convs.0.0.weight'),
             (f'b{img_resolution}.fromrgb.bias', 'convs.0.1.bias')]
    for i in range(img_resolution.bit_length() - 3):            # Highest first. Blurs are numbered, too.
        ours, theirs = f'b{img_resolution >> i}', f'convs.{i + 1}'
        pairs += [(f'{ours}.conv0.weight', f'{theirs}.conv1.0.weight'),
                  (f'{ours}.conv0.bias', f'{theirs}.conv1.1.bias'),
                  (f'{ours}.conv1.weight', f'{theirs}.conv2.1.weight'),
                  (f'{ours}.conv1.bias', f'{theirs}.conv2.2.bias'),
                  (f'{ours}.skip.weight', f'{theirs}.skip.1.weight')]
    pairs += [('b4.conv.weight', 'final_conv.0.weight'), ('b4.conv.bias', 'final_conv.1.bias'),
              ('b4.fc.weight', 'final_linear.0.weight'), ('b4.fc.bias', 'final_linear.0.bias'),
              ('b4.out.weight', 'final_linear.1.weight'), ('b4.out.bias', 'final_linear.1.bias')]
    return [(ours, theirs, 0, 0) for ours, theirs in pairs]


# ---------------------------------------------------------------------------------------------------------------------
# Reading.

def generator(state: dict[str, torch.Tensor], w_avg: torch.Tensor | None = None) -> NetworkRecord:
    """The record of a generator; its options are read off the shapes."""
    num_layers = _count(state, r'style\.\d+\.weight')
    img_resolution = 4 << _count(state, r'to_rgbs\.\d+\.bias')
    ours = _to_ours(state, generator_rows(img_resolution, num_layers))
    w_dim = ours['synthesis.b4.conv1.affine.weight'].shape[1]
    ours['mapping.w_avg'] = w_avg.reshape(-1) if isinstance(w_avg, torch.Tensor) else mean_w(ours, w_dim, num_layers)
    channels = {4 << i: ours[f'synthesis.b{4 << i}.conv1.bias'].numel()
                for i in range(img_resolution.bit_length() - 2)}
    return with_filters(NetworkRecord('training.networks.Generator', {
        'z_dim': w_dim, 'c_dim': 0, 'w_dim': w_dim, 'img_resolution': img_resolution, 'img_channels': 3,
        'mapping_kwargs': {'num_layers': num_layers, 'lr_multiplier': LR_MULTIPLIER},
        'synthesis_kwargs': _channel_options(channels),
    }, ours))


def discriminator(state: dict[str, torch.Tensor]) -> NetworkRecord:
    """The record of a discriminator; its options are read off the shapes."""
    img_resolution = 4 << _count(state, r'convs\.\d+\.skip\.1\.weight')
    ours = _to_ours(state, discriminator_rows(img_resolution))
    channels = {4 << i: ours[f'b{8 << i}.conv1.bias'].numel() for i in range(img_resolution.bit_length() - 3)}
    channels[img_resolution] = ours[f'b{img_resolution}.fromrgb.bias'].numel()
    return with_filters(NetworkRecord('training.networks.Discriminator', {
        'c_dim': 0, 'img_resolution': img_resolution, 'img_channels': 3, **_channel_options(channels),
    }, ours))


def mean_w(state: dict[str, torch.Tensor], w_dim: int, num_layers: int) -> torch.Tensor:
    """The average [w_dim] of the mapping of `W_AVG_SAMPLES` latents, always the same ones."""
    x = torch.from_numpy(np.random.RandomState(0).randn(W_AVG_SAMPLES, w_dim)).float()
    x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    for i in range(num_layers):
        weight, bias = state[f'mapping.fc{i}.weight'], state[f'mapping.fc{i}.bias']
        if weight.shape != (w_dim, w_dim) or bias.shape != (w_dim,):
            raise CheckpointError(f'style.{i + 1}.weight is {list(weight.shape)}, expected {[w_dim, w_dim]}')
        x = x @ weight.t() * (LR_MULTIPLIER / math.sqrt(w_dim)) + bias * LR_MULTIPLIER
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x.mean(dim=0)


def _count(state: dict[str, torch.Tensor], pattern: str) -> int:
    """How many layers have such a name. CheckpointError for more than any network has."""
    count = sum(1 for name in state if re.fullmatch(pattern, name))
    if count > MAX_LAYERS:
        raise CheckpointError(f'refused: {count} layers of one kind, at most {MAX_LAYERS} can be read')
    return count


def _to_ours(state: dict[str, torch.Tensor], rows: list[Row]) -> dict[str, torch.Tensor]:
    """Our state dict without filters.

    Raises CheckpointError for missing tensors and for filters that are not ours.
    """
    result = {}
    for ours, theirs, before, after in rows:
        if theirs not in state:
            raise CheckpointError(f'tensor {theirs} is missing')
        shape = state[theirs].shape
        result[ours] = state[theirs].reshape(shape[before:len(shape) - after]).float()
    taps = torch.tensor(FILTER).float()
    for name, kernel in state.items():
        if name.endswith('.kernel') and not _is_filter(kernel.float(), taps.outer(taps) / taps.sum() ** 2):
            raise CheckpointError(f'{shorten(name)} is not the filter {list(FILTER)}; only that can be converted')
    return result


def _is_filter(kernel: torch.Tensor, expected: torch.Tensor) -> bool:
    """Are the kernels equal but for their gain?"""
    return kernel.shape == expected.shape and torch.allclose(kernel / kernel.sum(), expected)


def _channel_options(channels: dict[int, int]) -> dict[str, int]:
    """channel_base and channel_max that give these {resolution: channels}."""
    highest = max(channels)
    options = {'channel_base': channels[highest] * highest, 'channel_max': channels[4]}
    if any(min(options['channel_base'] // res, channels[4]) != count for res, count in channels.items()):
        raise CheckpointError(f'channels {channels} do not follow min(channel_base / resolution, channel_max)')
    return options


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

FIXED = {       # What the layout cannot say otherwise. All of them are the defaults of our networks.
    'c_dim': 0, 'img_channels': 3, 'activation': 'lrelu', 'resample_filter': FILTER,
    'lr_multiplier': LR_MULTIPLIER,
    'use_noise': True, 'kernel_size': 3, 'mbstd_group_size': 4, 'mbstd_num_channels': 1,
}


def write(file: BinaryIO, networks: dict[str, torch.nn.Module]) -> None:
    """Writes G, D and G_ema, or some of them.

    Raises CheckpointError, naming the option, if the layout has no place.
    """
    content: dict[str, Any] = {}
    for name, key in (('G', 'g'), ('D', 'd'), ('G_ema', 'g_ema')):
        if name in networks:
            try:
                content[key] = _to_theirs(networks[name])
            except CheckpointError as error:
                raise CheckpointError(f'{name} cannot be written in this layout: {error}') from None
    if 'G_ema' in networks:
        content['latent_avg'] = networks['G_ema'].mapping.w_avg.clone()
    torch.save(content, file)


def _to_theirs(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    kwargs, state = network.init_kwargs, network.state_dict()
    is_generator = 'synthesis_kwargs' in kwargs
    _check_options(kwargs, {**FIXED, 'architecture': 'skip' if is_generator else 'resnet'})
    if is_generator:
        widths = {kwargs['z_dim'], kwargs['w_dim'],
                  kwargs['mapping_kwargs'].get('layer_features') or kwargs['w_dim']}
        if len(widths) > 1:
            raise CheckpointError(f'z, w and the layers between have widths {sorted(widths)}, which must be equal')
        rows = generator_rows(kwargs['img_resolution'], network.mapping.num_layers)
    else:
        rows = discriminator_rows(kwargs['img_resolution'])
    result = {}
    for ours, theirs, before, after in rows:
        result[theirs] = state[ours].reshape((1,) * before + state[ours].shape + (1,) * after).clone()
    return {**result, **_kernels(kwargs['img_resolution'], is_generator)}


def _check_options(kwargs: dict[str, Any], fixed: dict[str, Any]) -> None:
    for option, value in kwargs.items():
        if isinstance(value, dict):
            _check_options(value, fixed)
        elif option in fixed and (tuple(value) if isinstance(value, list) else value) != fixed[option]:
            raise CheckpointError(f'it has {option}={value}, the layout {option}={fixed[option]}')


def _kernels(img_resolution: int, is_generator: bool) -> dict[str, torch.Tensor]:
    """Their filter buffers: those that upsample include the gain of 4."""
    taps = torch.tensor(FILTER).float()
    kernel = taps.outer(taps) / taps.sum() ** 2
    blocks = range(img_resolution.bit_length() - 3)
    if is_generator:
        names = [name for i in blocks
                 for name in (f'convs.{2 * i}.conv.blur.kernel', f'to_rgbs.{i}.upsample.kernel')]
        return dict.fromkeys(names, kernel * 4)
    names = [name for i in blocks
             for name in (f'convs.{i + 1}.conv2.0.kernel', f'convs.{i + 1}.skip.0.kernel')]
    return dict.fromkeys(names, kernel)
