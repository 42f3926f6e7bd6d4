"""What the options of a script name: networks, folders, labels, latents.

Whatever is wrong is a usage error.
"""
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib import writing
from drawing.sizes import check_latents

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np
    import torch

CHANNELS = (1, 3)           # Of images that can be written: grey, RGB.


def output_folder(outdir: str) -> Path:
    """The output directory, made until the command ends, and for good if something is in it then; a usage error if
    pictures cannot be written there."""
    try:
        folder = click.get_current_context().with_resource(writing.made_folder(outdir))
    except OSError as error:
        raise click.BadParameter(f'{outdir} cannot be created: {error.strerror}', param_hint='--outdir') from None
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f'{outdir} is not writable', param_hint='--outdir')
    return folder


def load_generator(network: str, device: str) -> 'torch.nn.Module':
    """G_ema of a network file, URL or run directory, on the device; a usage error if there is none."""
    return load_snapshot(network, device)['G_ema']


def load_with_styles(network: str, device: str) -> 'torch.nn.Module':
    """The same for what is done with styles; a usage error if the network has none."""
    G = load_generator(network, device)
    if not getattr(G, 'has_styles', True):
        raise click.BadParameter(f'{network} has a {type(G).__name__}, which has no styles, and so no W: this works with '
                                 'those of StyleGAN2', param_hint='--network')
    return G


def load_snapshot(network: str, device: str) -> dict[str, Any]:
    """What a network file, URL or run directory holds, only G_ema built, on the device;
    a usage error without it."""
    from torch_utils.allocator import keep_freed_memory
    from torch_utils.distributed import pick_device
    from torch_utils.network_file import load_network
    from torch_utils.ops import backend
    try:
        where = pick_device(device)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint='--device') from None
    try:
        backend.check_default(where.type)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint='--ops') from None
    try:
        snapshot = load_network(network, only=['G_ema'])
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint='--network') from None
    G = snapshot['G_ema']
    if G is None:
        raise click.BadParameter(f'{network} has no averaged generator (G_ema)', param_hint='--network')
    if G.img_channels not in CHANNELS:
        raise click.BadParameter(f'{network} makes images of {G.img_channels} channels; only 1 and 3 can be written',
                                 param_hint='--network')
    keep_freed_memory()
    return {**snapshot, 'G_ema': G.to(where)}


def class_label(G: 'torch.nn.Module', class_idx: int | None,
                label: Sequence[float] | None = None) -> 'torch.Tensor':
    """The label [1, c_dim] that --class (one-hot) or --label says;
    a usage error where these and the network do not fit."""
    import torch
    c = torch.zeros([1, G.c_dim])
    if G.c_dim == 0:
        for name, value in (('--class', class_idx), ('--label', label)):
            if value is not None:
                click.echo(f'Note: {name} has no effect: this network is not conditional.', err=True)
        return c
    require_one(class_idx, label)
    if label is not None:
        return vector_label(label, G.c_dim)
    if class_idx is None:
        raise click.UsageError(f'--class is missing: this network is conditional, choose from 0 to {G.c_dim - 1}; if its labels '
                               f'are vectors, give --label={example_label(G.c_dim)}')
    if not 0 <= class_idx < G.c_dim:
        raise click.BadParameter(f'{class_idx} is not a class of this network: 0 to {G.c_dim - 1}',
                                 param_hint='--class')
    c[0, class_idx] = 1
    return c


def require_one(class_idx: int | None, label: Sequence[float] | None) -> None:
    """A usage error if a class and a vector are given."""
    if class_idx is not None and label is not None:
        raise click.UsageError('--class and --label exclude each other: a label is a class or a vector')


def vector_label(label: Sequence[float], width: int) -> 'torch.Tensor':
    """The label [1, width] of --label; a usage error if it has another width."""
    import torch
    if len(label) != width:
        raise click.BadParameter(f'{len(label)} numbers, this network takes labels of {width}, as {example_label(width)}',
                                 param_hint='--label')
    return torch.tensor([label], dtype=torch.float32)


def example_label(width: int) -> str:
    """What a vector looks like on the command line."""
    return ','.join(['0.5'] * min(width, 3) + ['...'] * (width > 3))


def labels_of_seeds(G: 'torch.nn.Module', seeds: Sequence[int], class_idx: int | None, centre: str | None,
                    centres: list[dict[str, Any]], vector: Sequence[float] | None = None) -> 'torch.Tensor':
    """Labels [N, c_dim] of seeds, or one [1, c_dim] for all: of a class or vector, of a centre, or of both.

    `centres`: what a snapshot says of the data centres that G has learnt (docs/formats.md).
    """
    import numpy as np
    import torch
    if centre is None and (not centres or (class_idx is not None and G.c_dim == len(centres[0]['code']))):
        return class_label(G, class_idx, vector)  # Without classes of its own, a centre's code is its class.
    require_one(class_idx, vector)
    by_index = {str(entry['index']): entry for entry in centres}
    if not centres or (centre != 'mix' and centre not in by_index):
        valid = f'choose from {", ".join(by_index)}, mix' if centres else 'this network knows of no data centres'
        raise click.BadParameter(f'{"missing" if centre is None else centre}: {valid}', param_hint='--centre')
    num_classes = G.c_dim - len(centres[0]['code'])
    if class_idx is not None and not 0 <= class_idx < num_classes:
        raise click.BadParameter(f'{class_idx} is not a class of this network: 0 to {num_classes - 1}',
                                 param_hint='--class')
    own = None if class_idx is None else np.eye(num_classes)[class_idx]
    if vector is not None:
        own = vector_label(vector, num_classes)[0].numpy()
    rows = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])      # Not the numbers of the seed's latent.
        entry = rng.choice(centres, p=shares([e['num'] for e in centres])) if centre == 'mix' else by_index[centre]
        values, counts = zip(*entry['labels'])
        c = values[rng.choice(len(values), p=shares(counts))] if own is None else own
        c = np.eye(num_classes)[c] if isinstance(c, int) else c
        rows.append(np.concatenate([c, entry['code']]).astype(np.float32))
    return torch.from_numpy(np.stack(rows))


def shares(counts: Sequence[int]) -> 'np.ndarray':
    """Counts [N] divided by their sum."""
    import numpy as np
    return np.asarray(counts) / np.sum(counts)


def load_ws(path: str, G: 'torch.nn.Module') -> 'torch.Tensor':
    """The array `w` [K, num_ws, w_dim] of an .npz file; a usage error if it is not that."""
    import numpy as np
    import torch
    hint = '--projected-w'
    try:
        shape, dtype = array_in_npz(path, 'w')
        ws = None
        # An array of another shape is not read, since it may be of any size.
        if shape[1:] == (G.num_ws, G.w_dim) and dtype.kind == 'f':
            check_latents(shape[0], G, hint)
            with np.load(path, allow_pickle=False) as arrays, np.errstate(over='ignore'):
                ws = arrays['w'].astype(np.float32)
    except click.UsageError:
        raise
    except OSError as error:
        raise click.BadParameter(f'{path} cannot be read: {error.strerror or error}', param_hint=hint) from None
    except Exception:       # NumPy and zipfile raise many things on a file that is something else.
        raise click.BadParameter(f'{path} is not an .npz file with an array "w"', param_hint=hint) from None
    if ws is None:
        raise click.BadParameter(f'{path}: "w" is {dtype} {list(shape)}, this network takes floats '
                                 f'[K, {G.num_ws}, {G.w_dim}]', param_hint=hint)
    if len(ws) == 0:
        raise click.BadParameter(f'{path}: "w" is empty; it needs the latents of one picture at least', param_hint=hint)
    if not np.isfinite(ws).all():
        raise click.BadParameter(f'{path}: "w" is not finite everywhere, as float32', param_hint=hint)
    return torch.from_numpy(ws)


def array_in_npz(path: str, name: str) -> 'tuple[tuple[int, ...], np.dtype]':
    """Shape and type of an array as its header in the archive says them.

    Raises like zipfile and NumPy, or OSError.
    """
    import zipfile

    from numpy.lib import format as npy

    from torch_utils.checkpoint import open_file
    with open_file(path) as file, zipfile.ZipFile(file) as archive, archive.open(f'{name}.npy') as array:
        read_header = npy.read_array_header_1_0 if npy.read_magic(array) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(array)
    if dtype.hasobject:
        raise ValueError('objects, which would have to be unpickled')
    return shape, dtype
