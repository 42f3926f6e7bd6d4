"""Nested state (dicts, lists, tensors, plain values) in one file: tensors as tensors, the rest as JSON.

What optimizers and other objects return from `state_dict` fits in as it is.
The file itself is `checkpoint.py`'s.
"""
import os
from typing import Any

import numpy as np
import torch

from torch_utils import checkpoint

FORMAT = 'stylegan2-loss-zoo/state'
VERSION = 1


def save_state(path: str | os.PathLike, state: Any, **meta: Any) -> None:
    """Writes `state` and the free plain data `meta`, as safely as `checkpoint.save`. Raises like it."""
    tensors: dict[str, torch.Tensor] = {}
    packed = _pack(state, 'state', tensors)
    checkpoint.save(path, tensors, dict(format=FORMAT, version=VERSION, meta=meta, state=packed))


def load_state(path: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """(state, meta) that `save_state` wrote, tensors on the CPU. Raises like `checkpoint.load`."""
    tensors, document = checkpoint.load(path)
    _check(document, path)
    try:
        return _unpack(document['state'], tensors), document['meta']
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise checkpoint.CheckpointError(f'{path}: its description of the state is malformed') from error


def load_meta(path: str | os.PathLike) -> dict[str, Any]:
    """The free plain data alone, read in milliseconds. Raises like `checkpoint.load_document`."""
    document = checkpoint.load_document(path)
    _check(document, path)
    return document['meta']


def _check(document, path):
    if document.get('format') != FORMAT:
        raise checkpoint.CheckpointError(f'{path}: holds {document.get("format")!r}, not the state of a run')
    if document.get('version') != VERSION:
        raise checkpoint.CheckpointError(f'{path}: state of format version {document.get("version")}, this program '
                                         f'reads {VERSION}')
    if not isinstance(document.get('meta'), dict):
        raise checkpoint.CheckpointError(f'{path}: its description of the run is missing')


def _pack(value, name, tensors):
    """Plain values stay; containers and tensors become one-key objects that say what they are."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {'tensor': name}
    if isinstance(value, dict):     # As pairs: JSON would turn the keys into strings.
        return {'dict': [[key, _pack(item, f'{name}/{key}', tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(item, f'{name}/{i}', tensors) for i, item in enumerate(value)]}
    return value


def _unpack(value, tensors):
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == 'tensor':
        return tensors[content]
    if kind == 'dict':
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == 'tuple' else items
