"""Snapshots of the official PyTorch implementation of StyleGAN2-ADA, of its GGDR fork,
and of the StyleGAN3 code as far as they hold StyleGAN2 networks (`--cfg=stylegan2`):
`network-snapshot-*.pkl`.

The pickle holds a dict of modules; each module is a call to a function
that would execute the Python source inside the file. Here that function has a substitute that keeps the class
name and the state, and the source is never looked at. Layout: docs/formats.md.
"""
import re
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import inert_pickle, portable, tensors
from torch_utils.foreign.inert_pickle import Call, Global, Substitutes, Table, TypedDict, shorten
from torch_utils.foreign.network_record import MAX_DEPTH, MAX_ITEMS, NetworkRecord, plain_data

VERSION = 6
RECONSTRUCT = Global('torch_utils.persistence', '_reconstruct_persistent_obj')
OURS = {
    'Generator': 'training.networks.Generator', 'Discriminator': 'training.networks.Discriminator',
    'AugmentPipe': 'training.augment.AugmentPipe', 'AugmentPipeGFeat': 'training.augment.AugmentPipe',
}
POSITIONAL = {          # Names of arguments that may be given by position.
    'Generator': ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels', 'mapping_kwargs',
                  'synthesis_kwargs'),
    'Discriminator': ('c_dim', 'img_resolution', 'img_channels'),
}
NETWORKS = ('G', 'D', 'G_ema')
PARTS = {'Generator': {'mapping', 'synthesis'}, 'Discriminator': {'b8', 'b4'}}

# What the constructors of the StyleGAN3 code take if they are told nothing. Here, and in StyleGAN2-ADA, that
# is 0, none and 0.995.
STYLEGAN3_PRECISION = {'num_fp16_res': 4, 'conv_clamp': 256}
STYLEGAN3_W_AVG_BETA = 0.998
OF_SYNTHESIS = {'channel_base', 'channel_max', 'fused_modconv_default', 'architecture', 'resample_filter',
                'activation',
                # Its generator takes them beside the others.
                'use_noise', 'fp16_channels_last', *STYLEGAN3_PRECISION}

# Programs whose snapshots have the same form and other networks.
PROGRAM_OF_CLASS = {
    'TriPlaneGenerator': 'EG3D', 'DualDiscriminator': 'EG3D',
    'ProjectedDiscriminator': 'Projected GAN or StyleGAN-XL',
    'SuperresGenerator': 'StyleGAN-XL', 'FastganSynthesis': 'Projected GAN',
    'EDMPrecond': 'EDM, a diffusion model',
    'VPPrecond': 'EDM, a diffusion model', 'VEPrecond': 'EDM, a diffusion model',
    'Precond': 'EDM2, a diffusion model',
}
PROGRAM_OF_MODULE = {
    'R3GAN': 'It belongs to R3GAN',
    'timm': 'It belongs to networks with pretrained features, as those of Projected GAN',
    'torch.nn': 'Such layers are in networks of other programs (as R3GAN, EG3D, StyleGAN-XL)',
}
ONLY_STYLEGAN2 = 'this program has the networks of StyleGAN2 only'


class Module:
    """Substitute for a module: what the file says of it."""

    def __init__(self, meta: Any):
        if not isinstance(meta, dict) or meta.get('type') != 'class' or meta.get('version') != VERSION:
            raise CheckpointError(f'a module in a form other than version {VERSION}, which this program reads')
        self.class_name = meta.get('class_name')
        self.state = meta.get('state')
        if not isinstance(self.class_name, str) or not isinstance(self.state, dict):
            raise CheckpointError('damaged: a module without class name or state')

    def table(self, name: str) -> dict[str, Any]:
        """One of the tables of the state: `_parameters`, `_buffers`, `_modules`, `_init_kwargs`."""
        table = self.state.get(name, {})
        if not isinstance(table, dict):
            raise CheckpointError(f'damaged: a module whose {name} is not a table')
        return table


    def all_inside(self) -> Iterator['Module']:
        """This module and all inside it, each once however often the file names it."""
        found, left = {id(self)}, [self]
        while left:
            module = left.pop()
            yield module
            for child in module.table('_modules').values():
                if isinstance(child, Module) and id(child) not in found:
                    found.add(id(child))
                    left.append(child)


SUBSTITUTES: Substitutes = {
    (RECONSTRUCT.module, RECONSTRUCT.name): Module,
    ('dnnlib.util', 'EasyDict'): Table,
}


def records(content: Any, only: Collection[str] | None = None) -> dict[str, Any]:
    """{'G', 'D', 'G_ema', 'augment_pipe': NetworkRecord or None, 'training_set_kwargs': dict or None}.

    content: the dict of a snapshot, or a generator alone, which counts as G_ema. only:
    the networks that are wanted; what the others are does not matter.
    """
    content = {'G_ema': content} if isinstance(content, Module) else content
    modules = {name: content[name] for name in (*NETWORKS, 'augment_pipe')
               if isinstance(content.get(name), Module)}
    if not modules.keys() & set(NETWORKS):
        raise CheckpointError('the pickle has no network G, D or G_ema'
                              + ('' if 'ema' not in content else '; it may be of EDM, a diffusion model'))
    others = [shorten(str(name)) for name, value in content.items()
              if isinstance(value, Module) and name not in modules]
    if others and only is None:
        print(f'Note: the pickle also holds {", ".join(others)}; this program takes only G, D and G_ema out of pickles.',
              file=sys.stderr)
    of_stylegan3 = any(map(_is_of_stylegan3, modules.values()))
    result: dict[str, Any] = dict.fromkeys((*NETWORKS, 'augment_pipe'))
    for name, module in modules.items():
        if only is None or name in only:
            result[name] = _record(name, module, of_stylegan3)
    return {**result, 'training_set_kwargs': plain_data(content.get('training_set_kwargs'))}


def _record(name: str, module: Module, of_stylegan3: bool) -> NetworkRecord:
    if other := _other_kind(module):
        raise CheckpointError(f'{name} is {other}; {ONLY_STYLEGAN2}')
    kwargs = _arguments(module)
    if of_stylegan3:
        kwargs = _as_in_stylegan2_ada(module.class_name, kwargs)
    state = state_dict(module)
    parts = module.table('_modules').keys()
    if parts and not parts & PARTS.get(module.class_name, parts):
        raise CheckpointError(f'{name} is a {module.class_name} of another architecture (its parts: '
                              f'{shorten(", ".join(map(str, parts)))}); {ONLY_STYLEGAN2}')
    decoder = {key: state.pop(key) for key in list(state) if re.match(r'b\d+_dec\.', key)}
    if decoder:             # GGDR: the decoder belongs to the method, not to the class.
        for option in ('decoder_res', 'w_dim'):
            kwargs.pop(option, None)
    return NetworkRecord(OURS[module.class_name], kwargs, state, decoder)


def _arguments(module: Module) -> dict[str, Any]:
    """The arguments of the constructor, all by name."""
    given = plain_data(module.state.get('_init_args', ()))
    kwargs = plain_data(module.table('_init_kwargs'))
    kwargs.update(zip(POSITIONAL.get(module.class_name, ()), given or ()))
    return kwargs


def _other_kind(module: Module) -> str | None:
    """What a module is, in words, if it is no network that this program has."""
    name, parts = module.class_name, module.table('_modules')
    if name not in OURS:
        program = f' of {PROGRAM_OF_CLASS[name]}' if name in PROGRAM_OF_CLASS else ''
        return f'a {shorten(name)}{program}'
    if name == 'Generator' and {'NoiseDimension', 'WidthPerStage'} & module.table('_init_kwargs').keys():
        return 'a generator of R3GAN'
    synthesis = parts.get('synthesis')
    layers = synthesis.table('_modules') if isinstance(synthesis, Module) else {}
    if 'input' in layers or any(re.fullmatch(r'L\d+_\d+_\d+', str(layer)) for layer in layers):
        return 'an alias-free generator of StyleGAN3 (its --cfg=stylegan3-t or stylegan3-r, not stylegan2)'
    return None


def whose(module: str) -> str:
    """What a Python module that a pickle asks for says of the pickle: a sentence to be appended,
    or nothing."""
    found = [text for prefix, text in PROGRAM_OF_MODULE.items()
             if module == prefix or module.startswith(f'{prefix}.')]
    return f'. {found[0]}; {ONLY_STYLEGAN2}' if found else ''


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2 in the StyleGAN3 code: the same networks and tensors, and other constructors.

def _is_of_stylegan3(module: Module) -> bool:
    """Was the network built by the StyleGAN3 code?

    Its layers remember widths that those of StyleGAN2-ADA do not.
    """
    if module.class_name == 'Generator' and module.table('_init_kwargs').keys() & OF_SYNTHESIS:
        return True
    return any(part.class_name == 'FullyConnectedLayer' and 'in_features' in part.state
               or part.class_name == 'SynthesisBlock' and 'fused_modconv_default' in part.state
               for part in module.all_inside())


def _as_in_stylegan2_ada(class_name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments that mean for our constructors what the given ones mean for those of the StyleGAN3 code."""
    kwargs.pop('fused_modconv_default', None)               # Only about speed.
    mapping = kwargs.get('mapping_kwargs') or {}
    # Only about training.
    mapping = {key: value for key, value in mapping.items() if not key.startswith('freeze_')}
    if class_name == 'Generator':
        further = {key: kwargs.pop(key) for key in list(kwargs) if key not in POSITIONAL['Generator']}
        synthesis = {**STYLEGAN3_PRECISION, **(kwargs.get('synthesis_kwargs') or {}), **further}
        synthesis.pop('fused_modconv_default', None)
        return {**kwargs, 'mapping_kwargs': {'w_avg_beta': STYLEGAN3_W_AVG_BETA, **mapping},
                'synthesis_kwargs': synthesis}
    if class_name == 'Discriminator':
        return {**STYLEGAN3_PRECISION, **kwargs, 'mapping_kwargs': mapping}
    return kwargs


def state_dict(module: Module) -> dict[str, torch.Tensor]:
    """Tensors of a module and all inside it, by the names and in the order of torch's state dicts."""
    result: dict[str, torch.Tensor] = {}
    num_modules = 0

    def visit(module: Module, prefix: str, depth: int) -> None:
        nonlocal num_modules
        num_modules += 1
        if depth > MAX_DEPTH or num_modules > MAX_ITEMS or len(result) > MAX_ITEMS:
            raise CheckpointError('refused: modules that are nested too deeply, or too many')
        for name, tensor in [*module.table('_parameters').items(), *module.table('_buffers').items()]:
            if isinstance(tensor, torch.Tensor):
                result[f'{prefix}{name}'] = tensor
            elif tensor is not None:
                raise CheckpointError(f'damaged: {shorten(prefix + str(name))} is not a tensor')
        for name, child in module.table('_modules').items():
            if isinstance(child, Module):
                visit(child, f'{prefix}{name}.', depth + 1)

    visit(module, '', 0)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

OWN_OPTIONS = {'reduced_dtype'}         # Options that the reference does not know; none changes a weight.
# That it knows.
DATA_OPTIONS = ('class_name', 'path', 'use_labels', 'max_size', 'xflip', 'resolution', 'random_seed')
ORDERED_DICT = Global('collections', 'OrderedDict')
EASY_DICT = Global('dnnlib.util', 'EasyDict')


def write(file: BinaryIO, networks: dict[str, torch.nn.Module], training_set_kwargs: dict[str, Any] | None,
          augment_pipe: torch.nn.Module | None = None) -> None:
    """Writes G, D and G_ema (of `training.networks`) as a snapshot that the reference reads.

    The file brings its own source, `portable.py`, which a reader of that kind executes.
    Of the data set it says what the reference knows of (`DATA_OPTIONS`). augment_pipe: of `training.augment`;
    another one is left out.
    """
    source = Path(portable.__file__).read_text(encoding='utf-8')
    data = None if training_set_kwargs is None else \
        {key: training_set_kwargs[key] for key in DATA_OPTIONS if key in training_set_kwargs}
    content: dict[str, Any] = {'training_set_kwargs': data}
    for name in NETWORKS:
        content[name] = _network_call(networks[name], _explicit(networks[name].init_kwargs), source)
    is_known = type(augment_pipe).__name__ == 'AugmentPipe'
    pipe = _network_call(augment_pipe, augment_pipe.init_kwargs, source) if is_known else None
    file.write(inert_pickle.dumps({**content, 'augment_pipe': pipe}))


def _explicit(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments without options of our own, and with those whose defaults differ between programs."""
    kwargs = _without_own_options(kwargs)
    options = {'num_fp16_res': 0, 'conv_clamp': None}
    if 'synthesis_kwargs' not in kwargs:
        return {**options, **kwargs}
    return {**kwargs, 'mapping_kwargs': {'w_avg_beta': 0.995, **kwargs['mapping_kwargs']},
            'synthesis_kwargs': {**options, **kwargs['synthesis_kwargs']}}


def _without_own_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_own_options(value) if isinstance(value, dict) else value
            for key, value in kwargs.items() if key not in OWN_OPTIONS}


def _network_call(network: torch.nn.Module, kwargs: dict[str, Any], source: str) -> Call:
    twin = getattr(portable, type(network).__name__)(**kwargs)
    state = network.state_dict()
    twin.load_state_dict({key: state[key] for key in twin.state_dict()})        # Without what methods added.
    return _module_call(twin.eval().requires_grad_(False), source, kwargs)


def _module_call(module: torch.nn.Module, source: str, kwargs: dict[str, Any]) -> Call:
    """The call that rebuilds a module of `portable.py`: its attributes,
    with tensors and submodules as calls, too.

    Tables of hooks must be OrderedDicts, to which hooks keep weak references, and options EasyDicts,
    whose entries some readers set as attributes.
    """
    state: dict[str, Any] = {name: TypedDict(ORDERED_DICT, value) if isinstance(value, OrderedDict) else value
                             for name, value in vars(module).items()}
    state.update(_init_args=(), _init_kwargs=_easy(kwargs))
    state['_non_persistent_buffers_set'] = Call(Global('builtins', 'set'), [])
    state['_parameters'] = TypedDict(ORDERED_DICT, {
        name: tensor if tensor is None else Call(
            Global('torch._utils', '_rebuild_parameter'), tensors.tensor_call(tensor), False,
            tensors.NO_HOOKS)
        for name, tensor in module._parameters.items()})
    state['_buffers'] = TypedDict(ORDERED_DICT, {
        name: tensor if tensor is None else tensors.tensor_call(tensor)
        for name, tensor in module._buffers.items()})
    state['_modules'] = TypedDict(ORDERED_DICT, {
        name: child if child is None else _module_call(child, source, {})
        for name, child in module._modules.items()})
    return Call(RECONSTRUCT, {'type': 'class', 'version': VERSION, 'module_src': source,
                              'class_name': type(module).__name__, 'state': state})


def _easy(value: Any) -> Any:
    """The value with all dicts in it as EasyDicts."""
    return TypedDict(EASY_DICT, {key: _easy(item) for key, item in value.items()}) if isinstance(value, dict) else value
