"""Networks of the TensorFlow programs StyleGAN2 and StyleGAN2-ADA (pickles of `G, D, Gs`).

Their variables are arrays by name; names, layouts and options translate
by the tables below (docs/formats.md). Conventions that differ: dense weights are transposed, convolution
weights are [kh, kw, in, out], the kernels of layers that upsample are stored reversed, and style biases are
stored without the 1 that is their neutral value.
"""
import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch

from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign.inert_pickle import Buildable, Substitutes, shorten
from torch_utils.foreign.network_record import NetworkRecord, plain_data, with_filters
from torch_utils.foreign.tensors import Array
from torch_utils.network_schema import in_words

MIN_VERSION = 4


class Network(Buildable):
    """Substitute for the class that these files pickle: its state, kept."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.variables: dict[str, np.ndarray] = {}

    def build(self, state: Any) -> None:
        """Takes `version`, `static_kwargs`, `variables` and the networks in `components`."""
        if not isinstance(state, dict) or not isinstance(state.get('version'), int):
            raise CheckpointError('damaged: a network without state')
        if state['version'] < MIN_VERSION:
            raise CheckpointError(f'a TensorFlow network of version {state["version"]}; '
                                  f'{MIN_VERSION} and later can be read')
        self.options = plain_data(state.get('static_kwargs') or {})
        for name, value in state.get('variables') or []:
            if not isinstance(name, str) or not isinstance(value, (Array, int, float)):
                raise CheckpointError('damaged: a variable without name or value')
            self.variables[name] = value.array if isinstance(value, Array) else np.array(value)
        for path, component in (state.get('components') or {}).items():
            if not isinstance(component, Network):
                raise CheckpointError('damaged: a component that is not a network')
            self.variables.update({f'{path}/{name}': value for name, value in component.variables.items()})


SUBSTITUTES: Substitutes = {('dnnlib.tflib.network', 'Network'): Network}


def records(content: Any, only: Collection[str] | None = None) -> dict[str, Any]:
    """{'G', 'D', 'G_ema': NetworkRecord or None, 'augment_pipe': None, 'training_set_kwargs': None}.

    content: the tuple of three networks, of which some may be None, or one generator alone,
    which counts as G_ema.
    """
    content = (None, None, content) if isinstance(content, Network) else content
    if len(content) != 3 or not all(network is None or isinstance(network, Network) for network in content) \
            or not any(content):
        raise CheckpointError('the pickle is not the three networks of a TensorFlow file')
    result: dict[str, Any] = dict.fromkeys(('G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs'))
    for (name, translate), network in zip((('G', generator), ('D', discriminator), ('G_ema', generator)),
                                          content):
        if network is not None and (only is None or name in only):
            result[name] = translate(network)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Options. A row: name in the file -> (group of arguments or '', argument),
# and the value if the file has none.

OPTIONS_G = {
    'latent_size': ('', 'z_dim', 512), 'label_size': ('', 'c_dim', 0), 'dlatent_size': ('', 'w_dim', 512),
    'resolution': ('', 'img_resolution', 1024), 'num_channels': ('', 'img_channels', 3),
    'mapping_layers': ('mapping_kwargs', 'num_layers', 8),
    'label_fmaps': ('mapping_kwargs', 'embed_features', None),
    'mapping_fmaps': ('mapping_kwargs', 'layer_features', None),
    'mapping_nonlinearity': ('mapping_kwargs', 'activation', 'lrelu'),
    'mapping_lrmul': ('mapping_kwargs', 'lr_multiplier', 0.01),
    'w_avg_beta': ('mapping_kwargs', 'w_avg_beta', 0.995),
    'fmap_base': ('synthesis_kwargs', 'channel_base', 16384),
    'fmap_max': ('synthesis_kwargs', 'channel_max', 512),
    'num_fp16_res': ('synthesis_kwargs', 'num_fp16_res', 0),
    'conv_clamp': ('synthesis_kwargs', 'conv_clamp', None),
    'architecture': ('synthesis_kwargs', 'architecture', 'skip'),
    'resample_kernel': ('synthesis_kwargs', 'resample_filter', [1, 3, 3, 1]),
    'use_noise': ('synthesis_kwargs', 'use_noise', True),
    'nonlinearity': ('synthesis_kwargs', 'activation', 'lrelu'),
}
OPTIONS_D = {
    'label_size': ('', 'c_dim', 0), 'resolution': ('', 'img_resolution', 1024),
    'num_channels': ('', 'img_channels', 3),
    'architecture': ('', 'architecture', 'resnet'), 'fmap_base': ('', 'channel_base', 16384),
    'fmap_max': ('', 'channel_max', 512), 'num_fp16_res': ('', 'num_fp16_res', 0),
    'conv_clamp': ('', 'conv_clamp', None), 'mapping_fmaps': ('', 'cmap_dim', None),
    'nonlinearity': ('block_kwargs', 'activation', 'lrelu'),
    'resample_kernel': ('block_kwargs', 'resample_filter', [1, 3, 3, 1]),
    'freeze_layers': ('block_kwargs', 'freeze_layers', 0),
    'mapping_layers': ('mapping_kwargs', 'num_layers', 0),
    'mapping_lrmul': ('mapping_kwargs', 'lr_multiplier', 0.1),
    'mbstd_group_size': ('epilogue_kwargs', 'mbstd_group_size', None),
    'mbstd_num_features': ('epilogue_kwargs', 'mbstd_num_channels', 1),
}
# Options that change no tensor and no result.
IGNORED_G = {'truncation_psi', 'truncation_cutoff', 'style_mixing_prob', 'structure', 'conditioning',
             'fused_modconv'}
IGNORED_D = {'structure', 'conditioning', 'fused_modconv'}
SIDES = ('resolution_h', 'resolution_w')        # Of images that need not be square; here they must.


def arguments_of(options: dict[str, Any], table: dict[str, tuple], ignored: set[str]) -> dict[str, Any]:
    resolution = options.get('resolution', table['resolution'][2])
    for side in SIDES:
        if options.get(side, resolution) not in (None, resolution):
            raise CheckpointError(f'the TensorFlow network has {side}={in_words(options[side])} and '
                                  f'resolution={in_words(resolution)}; only square images can be converted')
    if unknown := set(options) - set(table) - {*ignored, *SIDES}:
        raise CheckpointError(f'the TensorFlow option {shorten(min(unknown))} has no counterpart in this program')
    kwargs: dict[str, Any] = {}
    for name, (group, argument, default) in table.items():
        target = kwargs.setdefault(group, {}) if group else kwargs
        target[argument] = options.get(name, default)
        if argument == 'channel_base' and type(target[argument]) is int:
            target[argument] *= 2       # Theirs counts from the resolution below.
    return kwargs


# ---------------------------------------------------------------------------------------------------------------------
# Tensors. A row: pattern of the name in the file, name in our state dict, transformation.

Row = tuple[str, str, Callable[[np.ndarray], np.ndarray]]


def _as_is(x):
    return x


def _plus_one(x):
    return x + 1


def _dense(x):
    return x.transpose()


def _conv(x):
    """[kh, kw, in, out] -> [out, in, kh, kw]."""
    return x.transpose(3, 2, 0, 1)


def _conv_flip(x):
    return _conv(x[::-1, ::-1])


def _first(x):
    return x[0]


def _rows(theirs: str, ours: str, weight: Callable) -> list[Row]:
    return [(f'{theirs}/weight', f'{ours}.weight', weight), (f'{theirs}/bias', f'{ours}.bias', _as_is)]


def _style_rows(theirs: str, ours: str, weight: Callable) -> list[Row]:
    return [
        *_rows(theirs, ours, weight),
        (f'{theirs}/noise_strength', f'{ours}.noise_strength', _as_is),
        (f'{theirs}/mod_weight', f'{ours}.affine.weight', _dense),
        (f'{theirs}/mod_bias', f'{ours}.affine.bias', _plus_one),
    ]


ROWS_G = [
    ('dlatent_avg', 'mapping.w_avg', _as_is),
    *_rows('mapping/LabelEmbed', 'mapping.embed', _dense),
    *_rows(r'mapping/Dense(\d+)', r'mapping.fc\1', _dense),
    ('synthesis/4x4/Const/const', 'synthesis.b4.const', _first),
    *_style_rows('synthesis/4x4/Conv', 'synthesis.b4.conv1', _conv),
    *_style_rows(r'synthesis/(\d+)x\1/Conv0_up', r'synthesis.b\1.conv0', _conv_flip),
    *_style_rows(r'synthesis/(\d+)x\1/Conv1', r'synthesis.b\1.conv1', _conv),
    *_style_rows(r'synthesis/(\d+)x\1/ToRGB', r'synthesis.b\1.torgb', _conv),
    *_rows(r'synthesis/(\d+)x\1/Skip', r'synthesis.b\1.skip', _conv_flip),
]
ROWS_D = [
    *_rows(r'(\d+)x\1/FromRGB', r'b\1.fromrgb', _conv),
    *_rows(r'(\d+)x\1/Conv0', r'b\1.conv0', _conv),
    *_rows(r'(\d+)x\1/Conv1_down', r'b\1.conv1', _conv),
    *_rows(r'(\d+)x\1/Skip', r'b\1.skip', _conv),
    *_rows('LabelEmbed', 'mapping.embed', _dense),
    *_rows(r'Mapping(\d+)', r'mapping.fc\1', _dense),
    *_rows('4x4/Conv', 'b4.conv', _conv),
    *_rows('4x4/Dense0', 'b4.fc', _dense),
    *_rows('Output', 'b4.out', _dense),
]


def generator(network: Network) -> NetworkRecord:
    """The record of a TensorFlow generator."""
    if any('ToRGB_lod' in name for name in network.variables):
        raise CheckpointError('a TensorFlow generator with one image layer per level of detail; these do not convert')
    kwargs = arguments_of(network.options, OPTIONS_G, IGNORED_G)
    if kwargs['mapping_kwargs']['w_avg_beta'] is None:
        kwargs['mapping_kwargs']['w_avg_beta'] = 1      # A w_avg that never moves.
    state = _translate(network.variables, ROWS_G)
    for name, value in network.variables.items():
        if match := re.fullmatch(r'synthesis/noise(\d{1,2})', name):
            layer = int(match[1]) + 1                   # 4x4 has layer 1 only, 8x8 has 2 and 3, ...
            key = f'synthesis.b{4 << layer // 2}.conv{layer % 2}.noise_const'
            state[key] = _tensor(value[0, 0])
    return with_filters(NetworkRecord('training.networks.Generator', kwargs, state))


def discriminator(network: Network) -> NetworkRecord:
    """The record of a TensorFlow discriminator."""
    kwargs = arguments_of(network.options, OPTIONS_D, IGNORED_D)
    kwargs['mapping_kwargs'].update(embed_features=kwargs['cmap_dim'], layer_features=kwargs['cmap_dim'],
                                    activation=kwargs['block_kwargs']['activation'])
    kwargs['epilogue_kwargs']['activation'] = kwargs['block_kwargs']['activation']
    variables = dict(network.variables)
    if any('FromRGB_lod' in name for name in variables):
        kwargs['architecture'] = 'orig'
        res = kwargs['img_resolution']
        variables.update({name.replace('FromRGB_lod0', f'{res}x{res}/FromRGB'): value
                          for name, value in variables.items() if name.startswith('FromRGB_lod0/')})
    return with_filters(NetworkRecord('training.networks.Discriminator', kwargs,
                                      _translate(variables, ROWS_D)))


def _translate(variables: dict[str, np.ndarray], rows: list[Row]) -> dict[str, torch.Tensor]:
    """Our state dict; variables that no row knows are bookkeeping of the training and are left out."""
    state = {}
    for name, value in variables.items():
        for pattern, key, transform in rows:
            if match := re.fullmatch(pattern, name):
                state[match.expand(key)] = _tensor(transform(value))
                break
    return state


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32, order='C'))
