"""Networks from any file that holds them: the native snapshot, or what related programs wrote.

Whatever the format, nothing that a file contains is executed. The formats are described in docs/formats.md.
"""
import copy
import os
import re
from collections.abc import Collection
from typing import Any, BinaryIO

import torch

import dnnlib.util
from dnnlib.download import discard_download
from dnnlib.kinds_of_file import not_a_network
from torch_utils import checkpoint, network_schema
from torch_utils.foreign import inert_pickle, reference, rosinality, tensorflow, tensors
from torch_utils.foreign.network_record import NetworkRecord

NETWORKS = ('G', 'D', 'G_ema')

# How files begin.
SAFETENSORS = b'\0\0\0\0{'  # From the fifth byte on; the four before are the length of a header, any number.
PICKLE = b'\x80'
TORCH_ARCHIVE = b'PK\x03\x04'
# Of torch.save before the archives, soon after PICKLE.
TORCH_STREAM = inert_pickle.dumps(tensors.MAGIC, 2)[2:-1]
START_BYTES = 32

NO_NETWORKS = {             # What downloads turn out to be, by how it begins.
    b'version https://git-lfs': 'a pointer of Git LFS, not the file itself (git lfs pull fetches it)',
    b'<': 'a web page, such as one that asks or warns before a download',
    b'\x1f\x8b': 'compressed by gzip; unpack it first',
    b'\x89HDF': 'HDF5, as Keras writes it'}


def load_network_pkl(f: str | os.PathLike | BinaryIO, force_fp16: bool = False,
                     only: Collection[str] | None = None) -> dict[str, Any]:
    """Reads a network file of any known format.

    Args:
        f: a path, or a file open for reading in binary mode.
        force_fp16: rebuild G, D and G_ema with the four highest resolutions in float16
            and activations clamped at 256.
        only: build no other networks than these, which is faster. None = all.

    Reads native snapshots, snapshots of the official PyTorch implementation,
    its GGDR fork and the StyleGAN3 code (with StyleGAN2 networks), the TensorFlow pickles before that, and
    rosinality's checkpoints; whole or a generator alone.

    Returns:
        At least 'G', 'D', 'G_ema', 'augment_pipe' (modules on the CPU, in eval mode, without gradients;
        None where the file has none) and 'training_set_kwargs' (dict or None).

    Raises:
        checkpoint.CheckpointError: the file is damaged or of no known format; one sentence.
        OSError: the file cannot be read.
    """
    if not hasattr(f, 'read'):
        with checkpoint.open_file(f) as file:
            return load_network_pkl(file, force_fp16, only)
    data = dict.fromkeys((*NETWORKS, 'augment_pipe', 'training_set_kwargs'))
    data.update(_read(f, only))
    if force_fp16:
        data.update({name: _with_fp16(data[name]) for name in NETWORKS if data[name] is not None})
    return data


def load_network(network: str | os.PathLike, force_fp16: bool = False,
                 only: Collection[str] | None = None) -> dict[str, Any]:
    """`load_network_pkl` for whatever a user may name: a file, a URL,
    or a run directory (its newest snapshot)."""
    if dnnlib.util.is_url(str(network), allow_file_urls=True):
        network = dnnlib.util.open_url(str(network), return_filename=True)
    if not os.path.exists(network):
        raise FileNotFoundError(f'No such file or directory: {network}')
    try:
        if os.path.isdir(network):
            network = checkpoint.newest_snapshot(network)
        return load_network_pkl(network, force_fp16, only)
    except (checkpoint.CheckpointError, FileNotFoundError) as error:
        if discard_download(network):
            raise checkpoint.CheckpointError(f'{error}; the download was not kept') from None
        if (sentence := not_a_network(network)) is not None:
            raise checkpoint.CheckpointError(sentence) from None
        raise


def _read(file: BinaryIO, only: Collection[str] | None) -> dict[str, Any]:
    """What `load_network_pkl` returns, as far as the file has it. The first bytes tell the format."""
    if not file.seekable():
        file = checkpoint.read_pipe(file)
    start = file.read(START_BYTES)
    file.seek(-len(start), os.SEEK_CUR)
    name = getattr(file, 'name', 'file')
    if start[4:9] == SAFETENSORS:
        return checkpoint.load_networks(file, only)
    if not start.startswith((TORCH_ARCHIVE, PICKLE)):
        raise checkpoint.CheckpointError(f'{name}: not a network file: {what_begins_with(start)}')
    try:
        records, num_bytes = _read_foreign(file, start, only)
        return _build(records, num_bytes, only)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        # A damaged or hostile file may cause any exception here. CheckpointError is a ValueError.
        kind = '' if isinstance(error, ValueError) else 'damaged: '
        raise checkpoint.CheckpointError(f'{name}: {kind}{checkpoint.first_line(error)}') from error


def _read_foreign(file: BinaryIO, start: bytes, only: Collection[str] | None) -> tuple[dict[str, Any], int]:
    """(records and plain data by name, size of the file) of a file that other programs wrote."""
    num_bytes = tensors.size_of(file)
    if is_torch_stream(start) or start.startswith(TORCH_ARCHIVE):
        return rosinality.load(file, start.startswith(TORCH_ARCHIVE), only), num_bytes
    try:
        content = inert_pickle.load(
            file, {**tensors.substitutes(num_bytes), **reference.SUBSTITUTES, **tensorflow.SUBSTITUTES})
    except inert_pickle.UnknownName as error:
        raise checkpoint.CheckpointError(f'{error}{reference.whose(error.module)}') from None
    if isinstance(content, (dict, reference.Module)):
        return reference.records(content, only), num_bytes
    if isinstance(content, (tuple, tensorflow.Network)):
        return tensorflow.records(content, only), num_bytes
    raise checkpoint.CheckpointError('the pickle holds no networks')


def what_begins_with(start: bytes) -> str:
    """What a file is that no reader knows, for a sentence."""
    if not start:
        return 'it is empty'
    known = next((words for begin, words in NO_NETWORKS.items() if start.lstrip().startswith(begin)), None)
    return f'it is {known}' if known else 'neither a native snapshot nor a pickle or checkpoint of a program that this one knows'


def is_torch_stream(start: bytes) -> bool:
    """Does a file begin as torch.save wrote it before the archives?

    Protocol, perhaps a frame, then its magic number.
    """
    return re.match(rb'\x80.(\x95.{8})?' + re.escape(TORCH_STREAM), start, re.S) is not None


def _build(records: dict[str, Any], num_bytes: int, only: Collection[str] | None) -> dict[str, Any]:
    """The records as networks; layers that methods added to them under 'grafts', as in native files."""
    data = {'grafts': {}}
    for name, record in records.items():
        if not isinstance(record, NetworkRecord):
            data[name] = record
            continue
        if only is not None and name not in only:
            continue
        try:
            network_schema.check_class(name, record.class_name)
            data[name] = record.build(num_bytes)
        except ValueError as error:
            raise checkpoint.CheckpointError(f'{name} cannot be rebuilt: {error}') from error
        if record.grafts:
            data['grafts'][name] = record.grafts
    return data


def _with_fp16(network: torch.nn.Module) -> torch.nn.Module:
    """The same weights in a network that computes its four highest resolutions in float16."""
    kwargs = copy.deepcopy(network.init_kwargs)
    options = kwargs.get('synthesis_kwargs', kwargs)        # Of a generator; of a discriminator.
    options.update(num_fp16_res=4, conv_clamp=256)
    return checkpoint.build_network(checkpoint.class_name_of(network), kwargs, network.state_dict())[0]
