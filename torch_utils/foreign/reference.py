"""Snapshots of the official PyTorch implementation of StyleGAN2-ADA and its GGDR fork (`network-snapshot-*.pkl`).

The pickle holds a dict of modules; each module is a call to a function that would execute the Python source inside the
file. Here that function has a substitute that keeps the class name and the state, and the source is never looked at.
Layout: docs/formats.md.
"""
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import inert_pickle, portable, tensors
from torch_utils.foreign.inert_pickle import Call, Global, Substitutes
from torch_utils.foreign.record import MAX_DEPTH, MAX_ITEMS, NetworkRecord, plain_data

VERSION = 6
RECONSTRUCT = Global('torch_utils.persistence', '_reconstruct_persistent_obj')
CLASSES = {
    'Generator': 'training.networks.Generator', 'Discriminator': 'training.networks.Discriminator',
    'AugmentPipe': 'training.augment.AugmentPipe', 'AugmentPipeGFeat': 'training.augment.AugmentPipe',
}
POSITIONAL = {          # Names of arguments that may be given by position.
    'Generator': ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels', 'mapping_kwargs', 'synthesis_kwargs'),
    'Discriminator': ('c_dim', 'img_resolution', 'img_channels'),
}


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


SUBSTITUTES: Substitutes = {
    (RECONSTRUCT.module, RECONSTRUCT.name): Module,
    ('dnnlib.util', 'EasyDict'): lambda: {},
}


def records(content: dict[str, Any]) -> dict[str, Any]:
    """{'G', 'D', 'G_ema', 'augment_pipe': NetworkRecord or None, 'training_set_kwargs': dict or None}."""
    for name in ('G', 'D', 'G_ema'):
        if not isinstance(content.get(name), Module):
            raise CheckpointError(f'the pickle has no network {name}')
    result = {name: _record(content[name]) for name in ('G', 'D', 'G_ema')}
    pipe = content.get('augment_pipe')
    result['augment_pipe'] = _record(pipe) if isinstance(pipe, Module) else None
    return {**result, 'training_set_kwargs': plain_data(content.get('training_set_kwargs'))}


def _record(module: Module) -> NetworkRecord:
    if module.class_name not in CLASSES:
        raise CheckpointError(f'{inert_pickle.shorten(module.class_name)} is not a class of network that this program '
                              'has')
    arguments = plain_data(module.state.get('_init_args', ()))
    kwargs = plain_data(module.table('_init_kwargs'))
    kwargs.update(zip(POSITIONAL.get(module.class_name, ()), arguments or ()))
    state = state_dict(module)
    decoder = {key: state.pop(key) for key in list(state) if re.match(r'b\d+_dec\.', key)}
    if decoder:             # GGDR: the decoder belongs to the method, not to the class.
        for option in ('decoder_res', 'w_dim'):
            kwargs.pop(option, None)
    return NetworkRecord(CLASSES[module.class_name], kwargs, state, decoder)


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
                raise CheckpointError(f'damaged: {inert_pickle.shorten(prefix + str(name))} is not a tensor')
        for name, child in module.table('_modules').items():
            if isinstance(child, Module):
                visit(child, f'{prefix}{name}.', depth + 1)

    visit(module, '', 0)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

OWN_OPTIONS = {'reduced_dtype'}         # Options that the reference does not know; none changes a weight.


def write(file: BinaryIO, networks: dict[str, torch.nn.Module], training_set_kwargs: dict[str, Any] | None) -> None:
    """Writes G, D and G_ema (of `training.networks`) as a snapshot that the reference reads.

    The file brings its own source, `portable.py`, which a reader of that kind executes.
    """
    source = Path(portable.__file__).read_text(encoding='utf-8')
    content: dict[str, Any] = {'training_set_kwargs': training_set_kwargs}
    for name in ('G', 'D', 'G_ema'):
        network = networks[name]
        kwargs = _without_own_options(network.init_kwargs)
        twin = getattr(portable, type(network).__name__)(**kwargs)
        twin.load_state_dict(network.state_dict())
        content[name] = _module_call(twin.eval().requires_grad_(False), source, kwargs)
    file.write(inert_pickle.dumps({**content, 'augment_pipe': None}))


def _without_own_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_own_options(value) if isinstance(value, dict) else value
            for key, value in kwargs.items() if key not in OWN_OPTIONS}


def _module_call(module: torch.nn.Module, source: str, kwargs: dict[str, Any]) -> Call:
    """The call that rebuilds a module of `portable.py`: its attributes, with tensors and submodules as calls, too."""
    state: dict[str, Any] = {**vars(module), '_init_args': (), '_init_kwargs': kwargs}
    state['_non_persistent_buffers_set'] = Call(Global('builtins', 'set'), [])
    state['_parameters'] = {
        name: tensor if tensor is None else Call(
            Global('torch._utils', '_rebuild_parameter'), tensors.tensor_call(tensor), False, tensors.NO_HOOKS)
        for name, tensor in module._parameters.items()}
    state['_buffers'] = {name: tensor if tensor is None else tensors.tensor_call(tensor)
                         for name, tensor in module._buffers.items()}
    state['_modules'] = {name: child if child is None else _module_call(child, source, {})
                         for name, child in module._modules.items()}
    return Call(RECONSTRUCT, {'type': 'class', 'version': VERSION, 'module_src': source,
                              'class_name': type(module).__name__, 'state': state})
