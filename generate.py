"""Pictures from a trained generator: one file per seed, or grids."""
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np
    import torch

MAX_SEED = 2 ** 32 - 1
MODES = {1: 'L', 3: 'RGB'}      # Channels -> Pillow's name.


class SeedList(click.ParamType):
    """`a-b` (both included) or `a,b,c`; seeds are 0 to 2^32 - 1."""
    name = 'seeds'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sequence[int]:
        if not isinstance(value, str):
            return value
        if span := re.fullmatch(r'(\d+)-(\d+)', value.strip()):
            seeds: Sequence[int] = range(int(span[1]), int(span[2]) + 1)
        elif re.fullmatch(r'\s*\d+\s*(,\s*\d+\s*)*', value):
            seeds = [int(seed) for seed in value.split(',')]
        else:
            self.fail(f'{value!r} is neither a range like 0-7 nor a list like 1,5,9', param, ctx)
        if not seeds:
            self.fail(f'{value!r} is empty: the first number must not be above the second', param, ctx)
        if max(seeds) > MAX_SEED:
            self.fail(f'{max(seeds)} is too large: at most {MAX_SEED}', param, ctx)
        return seeds


class GridSize(click.ParamType):
    """`WxH`: tiles across and down."""
    name = 'WxH'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,3})x([1-9]\d{0,3})', value)
        if not match:
            self.fail(f'{value!r} is not a size like 8x4 (tiles across x tiles down)', param, ctx)
        return int(match[1]), int(match[2])


class NumberList(click.ParamType):
    """`a,b,c`: numbers."""
    name = 'numbers'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if not isinstance(value, str):
            return value
        try:
            return [float(number) for number in value.split(',')]
        except ValueError:
            self.fail(f'{value!r} is not a list of numbers like 0,0.5,1', param, ctx)


def choose_ops(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Sets what operators run on, for this process. `load_generator` checks that it can be had."""
    if name != 'auto':
        from torch_utils.ops import backend
        backend.set_default(name)


ops_option = click.option(
    '--ops', type=click.Choice(['auto', 'native', 'reference']), default='auto', show_default=True, expose_value=False,
    callback=choose_ops, help='Operators: compiled (native), plain tensor operations (reference), or what there is.')


def common_options(command: Any) -> Any:
    """The options of every script that draws with a generator."""
    for option in reversed([
        click.option('--network', required=True, metavar='FILE|URL|DIR',
                     help='Network file, its URL, or a run directory (its newest snapshot is taken).'),
        click.option('--trunc', 'truncation_psi', type=float, default=1, show_default=True,
                     help='Truncation psi: below 1 trades variety for quality, 0 is the average picture.'),
        click.option('--class', 'class_idx', type=int, metavar='INDEX', help='Class to draw (conditional networks).'),
        click.option('--noise-mode', type=click.Choice(['const', 'random', 'none']), default='const',
                     show_default=True, help='Noise inputs: the stored ones, fresh ones, or zero.'),
        click.option('--outdir', required=True, metavar='DIR', help='Where pictures go; created if missing.'),
        click.option('--batch', type=click.IntRange(min=1), default=8, show_default=True,
                     help='Pictures computed at a time. Does not change them.'),
        click.option('--device', type=click.Choice(['auto', 'cpu', 'cuda', 'mps']), default='auto', show_default=True,
                     help='What computes.'),
        ops_option,
    ]):
        command = option(command)
    return command


@click.command(epilog='Example: python generate.py --network=runs/00000-cats --seeds=0-31 --trunc=0.7 --grid=8x4 '
                      '--outdir=out')
@common_options
@click.option('--seeds', type=SeedList(), metavar='A-B|A,B,..',
              help='Which pictures: a seed always gives the same one.')
@click.option('--projected-w', '--projected_w', 'projected_w', metavar='FILE',
              help='Draw the array "w" [K, num_ws, w_dim] of this .npz file instead of seeds.')
@click.option('--grid', type=GridSize(), metavar='WxH',
              help='Tile the pictures into grid00.png, grid01.png, ..., W across and H down, instead of a file each.')
@click.option('--trunc-sheet', 'psis', type=NumberList(), metavar='A,B,..',
              help='Draw truncation.png instead: a row per seed, a column per psi.')
@click.option('--centre', metavar='INDEX|mix', help='Data centre to draw as (networks of --reg_type=tdgan), or mix: each '
              'seed a centre, large ones more often. Classes follow the data of the centre unless --class is given.')
def main(network: str, seeds: Sequence[int] | None, truncation_psi: float, class_idx: int | None, noise_mode: str,
         projected_w: str | None, outdir: str, grid: tuple[int, int] | None, psis: list[float] | None,
         centre: str | None, batch: int, device: str) -> None:
    """Draw pictures with a trained generator.

    Each seed becomes seedNNNN.png (each row of --projected-w becomes projNN.png) in the output directory.
    """
    check_choices(seeds, projected_w, grid, psis)
    folder = output_folder(outdir)
    snapshot = load_snapshot(network, device)
    G = snapshot['G_ema']
    if projected_w is not None:
        if seeds is not None or class_idx is not None or centre is not None or truncation_psi != 1:
            click.echo('Note: --seeds, --class, --centre and --trunc have no effect together with --projected-w.', err=True)
        ws = load_ws(projected_w, G)
        names = [f'proj{idx:02d}' for idx in range(len(ws))]
        images = images_of_ws(G, ws, batch, noise_mode)
    elif psis is not None:
        c = labels_of_seeds(G, seeds, class_idx, centre, snapshot.get('centre_labels', []))
        columns = [images_of_seeds(G, seeds, c, batch, psi, noise_mode) for psi in psis]
        names, images = ['truncation'], [tile(list(chain(*zip(*columns))), len(psis), len(seeds))]
    else:
        names = [f'seed{seed:04d}' for seed in seeds]
        c = labels_of_seeds(G, seeds, class_idx, centre, snapshot.get('centre_labels', []))
        images = images_of_seeds(G, seeds, c, batch, truncation_psi, noise_mode)
    if grid is not None:
        names, images = tile_all(images, grid, len(names))
    with ImageWriter() as writer:
        for idx, (name, image) in enumerate(zip(names, images)):
            click.echo(f'{name}.png ({idx}/{len(names)})')
            writer.write(folder / f'{name}.png', image)


# ---------------------------------------------------------------------------------------------------------------------
# What the user named.

def check_choices(seeds: Sequence[int] | None, projected_w: str | None, grid: tuple[int, int] | None,
                  psis: list[float] | None) -> None:
    """A usage error for options that are missing or contradict each other."""
    if projected_w is None and seeds is None:
        raise click.UsageError('--seeds is missing: which pictures shall be drawn? For example --seeds=0-15')
    if psis is not None and (projected_w is not None or grid is not None):
        raise click.UsageError(f'--trunc-sheet is a sheet of seeds: leave out --{"grid" if grid else "projected-w"}')


def output_folder(outdir: str) -> Path:
    """The output directory, created; a usage error if pictures cannot be written there."""
    folder = Path(outdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f'{outdir} cannot be created: {error.strerror}', param_hint='--outdir') from None
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f'{outdir} is not writable', param_hint='--outdir')
    return folder


def load_generator(network: str, device: str) -> 'torch.nn.Module':
    """G_ema of a network file, URL or run directory, on the device; a usage error if there is none."""
    return load_snapshot(network, device)['G_ema']


def load_snapshot(network: str, device: str) -> dict[str, Any]:
    """What a network file, URL or run directory holds, only G_ema built, on the device; a usage error without it."""
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
    if G.img_channels not in MODES:
        raise click.BadParameter(f'{network} makes images of {G.img_channels} channels; only 1 and 3 can be written',
                                 param_hint='--network')
    keep_freed_memory()
    return {**snapshot, 'G_ema': G.to(where)}


def class_label(G: 'torch.nn.Module', class_idx: int | None) -> 'torch.Tensor':
    """The one-hot label [1, c_dim] of a class; a usage error where the network and the option do not fit."""
    import torch
    c = torch.zeros([1, G.c_dim])
    if G.c_dim == 0:
        if class_idx is not None:
            click.echo('Note: --class has no effect: this network is not conditional.', err=True)
        return c
    if class_idx is None:
        raise click.UsageError(f'--class is missing: this network is conditional, choose from 0 to {G.c_dim - 1}')
    if not 0 <= class_idx < G.c_dim:
        raise click.BadParameter(f'{class_idx} is not a class of this network: 0 to {G.c_dim - 1}',
                                 param_hint='--class')
    c[0, class_idx] = 1
    return c


def labels_of_seeds(G: 'torch.nn.Module', seeds: Sequence[int], class_idx: int | None, centre: str | None,
                    centres: list[dict[str, Any]]) -> 'torch.Tensor':
    """Labels [N, c_dim] of seeds, or one [1, c_dim] for all: of a class, of a centre, or of both.

    `centres`: what a snapshot says of the data centres that G has learnt (docs/formats.md).
    """
    import numpy as np
    import torch
    if centre is None and (not centres or (class_idx is not None and G.c_dim == len(centres[0]['code']))):
        return class_label(G, class_idx)            # Without classes of its own, a centre's code is its class.
    by_index = {str(entry['index']): entry for entry in centres}
    if centre != 'mix' and centre not in by_index:
        valid = f'choose from {", ".join(by_index)}, mix' if centres else 'this network knows of no data centres'
        raise click.BadParameter(f'{"missing" if centre is None else centre}: {valid}', param_hint='--centre')
    num_classes = G.c_dim - len(centres[0]['code'])
    if class_idx is not None and not 0 <= class_idx < num_classes:
        raise click.BadParameter(f'{class_idx} is not a class of this network: 0 to {num_classes - 1}',
                                 param_hint='--class')
    rows = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])      # Not the numbers of the seed's latent.
        entry = rng.choice(centres, p=shares([e['num'] for e in centres])) if centre == 'mix' else by_index[centre]
        values, counts = zip(*entry['labels'])
        label = values[rng.choice(len(values), p=shares(counts))] if class_idx is None else class_idx
        c = np.eye(num_classes)[label] if isinstance(label, int) else label
        rows.append(np.concatenate([c, entry['code']]))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


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
        with np.load(path, allow_pickle=False) as arrays:
            ws = arrays['w']
    except OSError as error:
        raise click.BadParameter(f'{path} cannot be read: {error.strerror or error}', param_hint=hint) from None
    except Exception:       # NumPy and zipfile raise many things on a file that is something else.
        raise click.BadParameter(f'{path} is not an .npz file with an array "w"', param_hint=hint) from None
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim) or ws.dtype.kind != 'f':
        raise click.BadParameter(f'{path}: "w" is {ws.dtype} {list(ws.shape)}, this network takes floats '
                                 f'[K, {G.num_ws}, {G.w_dim}]', param_hint=hint)
    return torch.from_numpy(ws.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.

def seed_z(seed: int, z_dim: int) -> 'np.ndarray':
    """The latent [1, z_dim] of a seed: the same whatever else is drawn."""
    import numpy as np
    return np.random.RandomState(seed).randn(1, z_dim)


def seeds_to_z(seeds: Iterable[int], G: 'torch.nn.Module') -> 'torch.Tensor':
    """Latents [N, z_dim] of seeds, float32, on the device of G."""
    import numpy as np
    import torch
    z = np.concatenate([seed_z(seed, G.z_dim) for seed in seeds])
    return torch.from_numpy(z.astype(np.float32)).to(device_of(G))


def images_of_seeds(G: 'torch.nn.Module', seeds: Sequence[int], c: 'torch.Tensor', batch: int = 8,
                    truncation_psi: float = 1, noise_mode: str = 'const') -> Iterator['np.ndarray']:
    """One uint8 picture [H, W, C] per seed, with labels c [N, c_dim] or [1, c_dim], computed `batch` at a time."""
    c = c.expand(len(seeds), -1)
    for start in range(0, len(seeds), batch):
        z = seeds_to_z(seeds[start:start + batch], G)
        ws = to_ws(G, z, c[start:start + batch], truncation_psi)
        yield from images_of_ws(G, ws, batch, noise_mode)


def to_ws(G: 'torch.nn.Module', z: 'torch.Tensor', c: 'torch.Tensor', truncation_psi: float = 1) -> 'torch.Tensor':
    """Mapped latents [N, num_ws, w_dim] of z [N, z_dim] and labels [N, c_dim], or one [1, c_dim] for all."""
    import torch
    with torch.inference_mode():
        return G.mapping(z, c.to(z.device).expand(len(z), -1), truncation_psi=truncation_psi)


def images_of_ws(G: 'torch.nn.Module', ws: 'torch.Tensor', batch: int = 8,
                 noise_mode: str = 'const') -> Iterator['np.ndarray']:
    """One uint8 picture [H, W, C] per row of ws [K, num_ws, w_dim]. Half precision is for CUDA only."""
    import torch
    device = device_of(G)
    for rows in ws.split(batch):
        with torch.inference_mode():
            img = G.synthesis(rows.to(device), noise_mode=noise_mode, force_fp32=device.type != 'cuda')
            pictures = to_uint8(img).cpu().numpy()
        yield from pictures


def to_uint8(img: 'torch.Tensor') -> 'torch.Tensor':
    """[N, C, H, W] in -1..1 to uint8 [N, H, W, C]: x * 127.5 + 128, clamped, truncated."""
    import torch
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def device_of(G: 'torch.nn.Module') -> 'torch.device':
    """Where the network computes."""
    return next(G.parameters()).device


def tile(images: Sequence['np.ndarray'], columns: int, rows: int) -> 'np.ndarray':
    """One picture [rows * H, columns * W, C] of at most columns * rows pictures [H, W, C], row by row, rest black."""
    import numpy as np
    height, width, channels = images[0].shape
    canvas = np.zeros([rows, columns, height, width, channels], dtype=np.uint8)
    for idx, image in enumerate(images):
        canvas[divmod(idx, columns)] = image
    return canvas.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def tile_all(images: Iterator['np.ndarray'], grid: tuple[int, int], num_images: int) \
        -> tuple[list[str], Iterator['np.ndarray']]:
    """(file names, pictures) of the grids that hold `images`, in order."""
    columns, rows = grid
    names = [f'grid{idx:02d}' for idx in range(-(-num_images // (columns * rows)))]
    return names, (tile(list(islice(images, columns * rows)), columns, rows) for _ in names)


class ImageWriter:
    """Encodes and writes pictures in the background; leaving the `with` block waits for all and raises what failed."""

    def __init__(self, num_threads: int = 4, max_waiting: int = 64):
        self._pool = ThreadPoolExecutor(num_threads)
        self._max_waiting = max_waiting
        self._waiting: list[Future] = []

    def write(self, path: Path, image: 'np.ndarray') -> None:
        """Saves a uint8 picture [H, W, C], C = 1 or 3. Blocks while too many are waiting, so memory stays bounded."""
        if len(self._waiting) >= self._max_waiting:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(save_image, path, image))

    def __enter__(self) -> 'ImageWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


def save_image(path: Path, image: 'np.ndarray') -> None:
    """Writes a uint8 picture [H, W, C], C = 1 or 3. A click error, for users, if that fails."""
    from PIL import Image
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    try:
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise click.ClickException(f'{path} cannot be written: {error.strerror or error}') from None


if __name__ == '__main__':
    main()
