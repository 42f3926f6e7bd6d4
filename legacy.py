"""Networks from any file that holds them: the native snapshot, or what related programs wrote.

Whatever the format, nothing that a file contains is executed. The formats are described in docs/formats.md.
"""
import copy
import os
from typing import Any, BinaryIO

import torch

import dnnlib.util
from torch_utils import checkpoint

NETWORKS = ('G', 'D', 'G_ema')


def load_network_pkl(f: str | os.PathLike | BinaryIO, force_fp16: bool = False) -> dict[str, Any]:
    """Reads a network file of any known format.

    Args:
        f: a path, or a file open for reading in binary mode.
        force_fp16: rebuild G, D and G_ema with the four highest resolutions in float16 and activations clamped at 256.

    Returns:
        At least 'G', 'D', 'G_ema', 'augment_pipe' (modules on the CPU, in eval mode, without gradients; None where the
        file has none) and 'training_set_kwargs' (dict or None).

    Raises:
        checkpoint.CheckpointError: the file is damaged or of no known format; one sentence.
        OSError: the file cannot be read.
    """
    if not hasattr(f, 'read'):
        with open(f, 'rb') as file:
            return load_network_pkl(file, force_fp16)
    data = dict.fromkeys((*NETWORKS, 'augment_pipe', 'training_set_kwargs'))
    data.update(_read(f))
    if force_fp16:
        data.update({name: _with_fp16(data[name]) for name in NETWORKS if data[name] is not None})
    return data


def load_network(source: str | os.PathLike, force_fp16: bool = False) -> dict[str, Any]:
    """`load_network_pkl` for whatever a user may name: a file, a URL, or a run directory (its newest snapshot)."""
    if dnnlib.util.is_url(str(source), allow_file_urls=True):
        with dnnlib.util.open_url(str(source)) as file:
            return load_network_pkl(file, force_fp16)
    if os.path.isdir(source):
        source = checkpoint.newest_snapshot(source)
    return load_network_pkl(source, force_fp16)


def _read(file: BinaryIO) -> dict[str, Any]:
    return checkpoint.load_networks(file)


def _with_fp16(network: torch.nn.Module) -> torch.nn.Module:
    """The same weights in a network that computes its four highest resolutions in float16."""
    kwargs = copy.deepcopy(network.init_kwargs)
    options = kwargs.get('synthesis_kwargs', kwargs)        # Of a generator; of a discriminator.
    options.update(num_fp16_res=4, conv_clamp=256)
    return checkpoint.build_network(checkpoint.class_name_of(network), kwargs, network.state_dict())[0]
