"""Files that hold tensors and a description of them, written so that a crash never costs the previous one.

A file is a plain safetensors file; the metadata in its header has one JSON `document`
and a checksum of everything. `save` and `load` deal with any tensors. `save_networks` and `load_networks` use
them for the native snapshot: whole networks that can be rebuilt from the file alone. Nothing in a file is
ever imported or executed: class names are only accepted from `network_schema.CLASSES`. The format is
described in docs/formats.md.
"""
import io
import json
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

import dnnlib.util
from dnnlib import writing
from torch_utils import network_schema

SNAPSHOT_FORMAT = 'stylegan2-loss-zoo/networks'
SNAPSHOT_VERSION = 1
SNAPSHOT_NAME = re.compile(r'network-snapshot-(\d+)\.(safetensors|pkl)')

DTYPES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.bool: 'BOOL',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8',
}

# Keys of a snapshot's document that `meta` cannot use.
RESERVED = ('format', 'version', 'networks', 'grafts')
MAX_HEADER_BYTES = 100_000_000      # The safetensors limit.
MAX_HEADER_ITEMS = 1_000_000        # Its commas and brackets: the objects take more memory than the text.
MAX_PIPE_BYTES = 1 << 33  # Limit for what comes through a pipe, whose length is not known beforehand.
MAX_MESSAGE = 1000                  # Characters of an error, since text from a file may be of any length.
PIECE_BYTES = 1 << 24


class CheckpointError(ValueError):
    """A file that is damaged, foreign, from a newer version, or does not hold what it claims.
    The text is for users. It may quote the file, so characters that control a terminal, or that it cannot
    show, are replaced.
    """

    def __init__(self, message: str):
        super().__init__(''.join(c if c.isprintable() else '?' for c in message[:MAX_MESSAGE]))


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading in binary.

    CheckpointError for a device, a pipe, or whatever else has no end.
    """
    def opener(name, flags):
        return os.open(name, flags | getattr(os, 'O_NONBLOCK', 0))  # Opening a pipe would wait for a writer.

    file = open(path, 'rb', opener=opener)  # noqa: SIM115 (closed by the caller)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise CheckpointError(f'{path}: not a regular file (a device, a pipe or a socket)')


def read_pipe(file: BinaryIO) -> io.BytesIO:
    """Everything that comes out of a file that cannot be searched. CheckpointError if it does not end."""
    pieces, left = [], MAX_PIPE_BYTES
    while piece := file.read(PIECE_BYTES):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise CheckpointError(f'{_name_of(file)}: more than {MAX_PIPE_BYTES >> 30} GB without an end')
    return io.BytesIO(b''.join(pieces))


# ---------------------------------------------------------------------------------------------------------------------
# Any tensors with a document.

def save(path: str | os.PathLike, tensors: dict[str, torch.Tensor], document: dict[str, Any]) -> None:
    """Writes `tensors` (any device and memory format, may share memory) and `document` (plain data)
    to `path`.

    The file appears complete or not at all: it is written under a temporary name
    in the same directory, synced, read back, and renamed. Tensors go to disk one at a time, so no second copy
    of them is held in memory.

    Raises:
        OSError: the file could not be written; whatever was at `path` before is still there.
        TypeError: `document` holds something that JSON cannot say,
            or a tensor has a type without a name in the format.
    """
    text = document_to_json(document)
    with writing.atomic(path, 'any', sync=True) as file:
        crc = zlib.crc32(_header(tensors, text))
        file.write(_header(tensors, text))
        for tensor in tensors.values():
            data = _bytes_of(tensor)
            crc = zlib.crc32(data, crc)
            file.write(data)
        file.seek(0)
        file.write(_header(tensors, text, crc))     # Same length: only the checksum changes.
        file.seek(0)
        if document_to_json(_read_header(file, path)[0]) != text:
            raise OSError(f'{path}: what was written does not read back; is the disk failing?')


def load(path_or_file: str | os.PathLike | BinaryIO) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads what `save` wrote: (tensors by name, on the CPU, contiguous; document). Every byte is checked.

    Raises:
        CheckpointError: one sentence on what is wrong with the file.
        OSError: the file cannot be opened or read.
    """
    if not hasattr(path_or_file, 'read'):
        with open_file(path_or_file) as file:
            return load(file)
    name = _name_of(path_or_file)
    file = path_or_file if path_or_file.seekable() else read_pipe(path_or_file)
    document, header, crc = _read_header(file, name)
    contents = header + file.read()             # `_read_header` has compared their length with the file's.
    data = memoryview(contents)[len(header):]
    if zlib.crc32(data, zlib.crc32(header.replace(_crc_field(crc), _crc_field(0), 1))) != crc:
        raise CheckpointError(f'{name}: damaged: the contents do not match the checksum; use another copy')
    try:
        return safetensors.torch.load(contents), document
    except Exception as error:      # The library names no common base for what it raises.
        raise CheckpointError(f'{name}: not a valid safetensors file: {first_line(error)}') from None


def load_document(path_or_file: str | os.PathLike | BinaryIO) -> dict[str, Any]:
    """The document alone, read from the header (milliseconds, whatever the size). Raises like `load`."""
    if hasattr(path_or_file, 'read'):
        return _read_header(path_or_file, _name_of(path_or_file))[0]
    with open_file(path_or_file) as file:
        return _read_header(file, path_or_file)[0]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The elements in row-major order, little endian."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy())


def _crc_field(crc: int) -> bytes:
    """The checksum as it stands in the header.

    Inside the document its quotes would be escaped: it occurs once.
    """
    return f'"crc32":"{crc:08x}"'.encode()


def _header(tensors: dict[str, torch.Tensor], document: str, crc: int = 0) -> bytes:
    """Everything before the data: the length of the JSON text (uint64) and the text,
    padded to a multiple of 8."""
    entries: dict[str, Any] = {'__metadata__': {'crc32': f'{crc:08x}', 'document': document}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f'tensor {name} has type {tensor.dtype}, which cannot be saved')
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {'dtype': DTYPES[tensor.dtype], 'shape': list(tensor.shape),
                         'data_offsets': [begin, end]}
    text = json.dumps(entries, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text


def _read_header(file: BinaryIO, name: Any) -> tuple[dict[str, Any], bytes, int]:
    """(document, all bytes of the header, checksum) from the start of `file`; leaves it at the data.

    Everything that a length in it promises is compared with the size of the file before it is read.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, 'little')
    if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise CheckpointError(f'{name}: not a safetensors file')
    if file.seekable() and _bytes_left(file) < length:
        raise CheckpointError(f'{name}: truncated, or not a safetensors file')
    text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f'{name}: truncated, or not a safetensors file')
    if sum(map(text.count, (b',', b'[', b'{'))) > MAX_HEADER_ITEMS:
        raise CheckpointError(f'{name}: refused: its header has more than {MAX_HEADER_ITEMS} items')
    try:
        entries = json.loads(text)
        metadata = entries['__metadata__']
        crc = int(metadata['crc32'], 16)
        document = document_from_json(metadata['document'])
        expected = max((entry['data_offsets'][1] for key, entry in entries.items() if key != '__metadata__'),
                       default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise CheckpointError(f'{name}: not a file of this program: its header lacks the description of the '
                              'contents') from None
    if file.seekable() and (found := _bytes_left(file)) != expected:
        raise CheckpointError(f'{name}: truncated or damaged: {found} bytes of tensors, expected {expected}')
    return document, prefix + text, crc


def _bytes_left(file: BinaryIO) -> int:
    here, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here


def first_line(error: Exception) -> str:
    """What an error says, without the pages that some libraries append."""
    return str(error).partition('\n')[0]


def _name_of(file: BinaryIO) -> str:
    return str(getattr(file, 'name', 'file'))


# ---------------------------------------------------------------------------------------------------------------------
# Plain data as JSON.

def document_to_json(document: dict[str, Any]) -> str:
    """Strict JSON of plain data. Tuples become lists, NumPy scalars numbers;
    NaN and infinities are {'$float': 'nan'}.

    Raises TypeError, naming the place, for anything else.
    """
    if not isinstance(document, dict):
        raise TypeError(f'the document is a {type(document).__name__}, expected a dict')
    return json.dumps(_plain(document, 'document'), allow_nan=False, separators=(',', ':'))


def document_from_json(text: str) -> dict[str, Any]:
    """Inverse of `document_to_json`. Raises ValueError if `text` is no JSON object."""
    document = json.loads(text, object_hook=lambda d: float(d['$float']) if set(d) == {'$float'} else d)
    if not isinstance(document, dict):
        raise ValueError('the document is not a JSON object')
    return document


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {'$float': repr(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f'{where}[{i}]') for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) and key != '$float' for key in value):
        return {key: _plain(item, f'{where}.{key}') for key, item in value.items()}
    raise TypeError(f'{where}: {value!r} is not plain data (numbers, strings, lists, dicts with string keys)')


# ---------------------------------------------------------------------------------------------------------------------
# Networks.

def save_networks(path: str | os.PathLike, networks: dict[str, torch.nn.Module | None],
                  grafts: dict[str, dict[str, torch.Tensor]] | None = None, **meta: Any) -> None:
    """Writes a snapshot: networks by name ('G', 'D', 'G_ema', 'augment_pipe', further critics),
    and `meta`, plain data.

    Each module must be of one of `network_schema.CLASSES` and rebuildable from its `init_kwargs`. Tensors
    that it has beyond that (layers that a method grafted on) are kept and come back from `load_networks`
    under 'grafts'; those of a loaded file can be handed on as `grafts`.
    `meta` usually has `training_set_kwargs`. Raises like `save`,
    and TypeError for a module that could not be rebuilt.
    """
    assert not set(meta) & {*RESERVED, *networks}, f'names with a meaning of their own among {sorted(meta)}'
    entries: dict[str, Any] = dict.fromkeys(networks)
    tensors = {}
    for name, module in networks.items():
        if module is None:
            continue
        state = module.state_dict()
        entries[name] = {'class_name': class_name_of(module), 'kwargs': dict(module.init_kwargs)}
        try:
            _extra_tensors(**entries[name], state=state)
        except ValueError as error:
            raise TypeError(f'{name} does not equal what its init_kwargs build: {error}') from error
        tensors.update({f'{name}/{key}': tensor for key, tensor in state.items()})
    for name, extra in (grafts or {}).items():
        tensors.update({f'{name}/{key}': tensor for key, tensor in extra.items()})
    document = {'format': SNAPSHOT_FORMAT, 'version': SNAPSHOT_VERSION, 'networks': entries, **meta}
    save(path, tensors, document)


def without_place(dataset_kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of a data set with the last part of its path only: networks are shared,
    and folders name their owners."""
    if not isinstance(dataset_kwargs, dict) or not isinstance(dataset_kwargs.get('path'), str):
        return dataset_kwargs
    return {**dataset_kwargs, 'path': re.split(r'[/\\]', dataset_kwargs['path'].rstrip('/\\'))[-1]}


def load_networks(path_or_file: str | os.PathLike | BinaryIO,
                  only: Collection[str] | None = None) -> dict[str, Any]:
    """Reads a snapshot: every network by its name, rebuilt, on the CPU, in eval mode,
    without gradients (or None).

    The dict also has `training_set_kwargs` (None if the file has none),
    everything else that was saved as `meta`, and 'grafts': {network: {key: tensor}} for tensors that the
    network's class does not have. With `only`, other networks than these are not built; None stands for them.
    The caller's random state is untouched. Raises like `load`.
    """
    name = path_or_file if not hasattr(path_or_file, 'read') else _name_of(path_or_file)
    tensors, document = load(path_or_file)
    entries = _check_snapshot(document, name)
    result: dict[str, Any] = {'training_set_kwargs': None, 'grafts': {}}
    result.update({key: value for key, value in document.items() if key not in RESERVED})
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, key = key.partition('/')
        states.setdefault(network, {})[key] = tensor
    for network, entry in entries.items():
        result[network] = None
        if entry is None or (only is not None and network not in only):
            continue
        try:
            network_schema.check_class(network, entry['class_name'])
            result[network], grafts = build_network(**entry, state=states.get(network, {}))
        except ValueError as error:
            raise CheckpointError(f'{name}: {network} cannot be rebuilt: {error}') from error
        if grafts:
            result['grafts'][network] = grafts
    return result


def build_network(class_name: str, kwargs: dict[str, Any], state: dict[str, torch.Tensor]) \
        -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """(a network of class `class_name` that holds `state`,
    the tensors of `state` that the class has no place for).

    All shapes are compared before memory for the network is taken,
    so untrusted arguments cannot ask for more than the file holds. Raises ValueError.
    """
    grafts = _extra_tensors(class_name, kwargs, state)
    with torch.random.fork_rng(devices=[]), _Undrawn():
        module = dnnlib.util.get_obj_by_name(class_name)(**kwargs)
    module.load_state_dict({key: tensor for key, tensor in state.items() if key not in grafts})
    return module.eval().requires_grad_(False), {key: state[key] for key in grafts}


def skeleton(class_name: str, kwargs: dict[str, Any], max_layers: int) -> dict[str, torch.Tensor]:
    """The state dict of the network that these arguments build. Only filters hold values;
    the rest takes no memory.

    Raises ValueError for a class that is not in `network_schema.CLASSES`, arguments that it does not accept
    (their ranges are in network_schema.py), or more layers than `max_layers`: a network has no more layers
    than tensors, which stops arguments that would build without end.
    """
    network_schema.require_known(class_name)
    _limit_layers(kwargs, max_layers)
    network_schema.check_options(kwargs)
    try:
        with _ShapesOnly():
            return dnnlib.util.get_obj_by_name(class_name)(**kwargs).state_dict()
    except Exception as error:      # Arguments of any kind may fail in any way inside the constructor.
        raise ValueError(f'{class_name} does not accept its arguments: {first_line(error)}') from error


class _Undrawn(TorchFunctionMode):
    """While active, constructors leave tensors uninitialised and draw no random numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return torch.empty(*args) if func is torch.randn else func(*args, **(kwargs or {}))


class _ShapesOnly(TorchFunctionMode):
    """While active, tensors that constructors draw or fill have a shape but no memory.

    Within `torch.device('meta')` the same functions first load a compiler, which takes seconds.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.randn, torch.empty, torch.zeros, torch.ones):
            return torch.empty(*args, device='meta')
        if func is torch.full:
            return torch.empty(args[0], device='meta')
        if func in (torch.Tensor.div, torch.Tensor.__truediv__) and args[0].is_meta:
            return torch.empty(args[0].shape, device='meta')
        return func(*args, **(kwargs or {}))


def class_name_of(module: torch.nn.Module) -> str:
    """The full name of the module's class. Raises TypeError if it is none of `network_schema.CLASSES`."""
    name = f'{type(module).__module__}.{type(module).__qualname__}'
    if name not in network_schema.CLASSES:
        raise TypeError(f'{name} cannot be saved; known are {", ".join(network_schema.CLASSES)}')
    return name


def newest_snapshot(run_dir: str | os.PathLike) -> Path:
    """The snapshot with the highest number in a run directory. Raises FileNotFoundError if there is none."""
    found = snapshots(run_dir)
    if not found:
        raise FileNotFoundError(f'{run_dir}: no network-snapshot-*.safetensors in this directory')
    return found[-1]


def snapshots(run_dir: str | os.PathLike) -> list[Path]:
    """The snapshots in a run directory by number, of each the native file
    if there are several formats of it."""
    found = sorted((int(match[1]), match[2] == 'safetensors', path) for path in Path(run_dir).iterdir()
                   if (match := SNAPSHOT_NAME.fullmatch(path.name)))
    return list({number: path for number, _, path in found}.values())


def _check_snapshot(document: dict[str, Any], name: Any) -> dict[str, Any]:
    """The table of networks of a snapshot's document, once it is known to be one that this version reads."""
    if document.get('format') != SNAPSHOT_FORMAT:
        raise CheckpointError(f'{name}: holds {document.get("format")!r}, not a network snapshot')
    version, entries = document.get('version'), document.get('networks')
    if isinstance(version, int) and version > SNAPSHOT_VERSION:
        raise CheckpointError(f'{name}: format version {version} is newer than {SNAPSHOT_VERSION}, which this program '
                              'reads; update the program')
    if version != SNAPSHOT_VERSION:
        raise CheckpointError(f'{name}: the description of its networks is malformed')
    others = {key: value for key, value in document.items() if key not in RESERVED}
    try:
        network_schema.check_document(entries, others, RESERVED)
    except ValueError as error:
        raise CheckpointError(f'{name}: {error}') from None
    return entries


def _extra_tensors(class_name: str, kwargs: dict[str, Any],
                   state: dict[str, torch.Tensor]) -> dict[str, None]:
    """Names, as keys, of the tensors in `state` that the described network lacks.

    ValueError unless all others fit.
    """
    expected = skeleton(class_name, kwargs, len(state))
    for key, tensor in expected.items():
        if key not in state:
            raise ValueError(f'tensor {key} is missing')
        if state[key].shape != tensor.shape:
            raise ValueError(f'tensor {key} is {list(state[key].shape)}, its arguments say {list(tensor.shape)}')
    return {key: None for key in state if key not in expected}


def _limit_layers(kwargs: dict[str, Any], max_layers: int) -> None:
    for key, value in kwargs.items():
        if isinstance(value, dict):
            _limit_layers(value, max_layers)
        elif key == 'num_layers' and isinstance(value, (int, float)) and value > max_layers:
            raise ValueError(f'{value} layers, but the file has {max_layers} tensors')
