"""Videos of walks from picture to picture, through z or w."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from dnnlib import output
from dnnlib.numbers import Whole
from dnnlib.program import Maker
from drawing.named import class_label, load_generator, load_ws, output_folder
from drawing.output_files import require_free
from drawing.pictures import device_of, images_of_ws, seeds_to_z, tile, to_ws
from drawing.sizes import check_latents, check_video
from drawing.tool_options import GridSize, SeedList, common_options
from drawing.video_writer import FORMATS, VideoWriter, pick_format

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np
    import torch

PATHS = ('linear', 'spherical', 'spline')
SPHERE_EPS = 1e-6           # Below this angle, in radians, an arc is a line.


@click.command(cls=Maker, epilog='Example: python video.py --network=runs/00000-cats --seeds=1-6 --loop=1 --trunc=0.7 '
                      '--outdir=out')
@common_options
@click.option('--seeds', type=SeedList(), metavar='A-B,C,..', help='Pictures to pass through, in this order.')
@click.option('--projected-w', '--projected_w', 'projected_w', metavar='FILE',
              help='Pass through the array "w" [K, num_ws, w_dim] of this .npz file instead.')
@click.option('--space', type=click.Choice(['z', 'w']), default='w', show_default=True,
              help='Where to walk: w is smoother, in z every picture on the way is a typical one.')
@click.option('--path', 'path_kind', type=click.Choice(PATHS), default='spline', show_default=True,
              help='Straight from picture to picture, along arcs (in z), or along a curve without corners.')
@click.option('--easing', type=bool, default=False, show_default=True, help='Slow down at every picture?')
@click.option('--loop', type=bool, default=False, show_default=True, help='Return to the first picture?')
@click.option('--grid', type=GridSize(), default='1x1', metavar='WxH',
              help='Walks side by side; each takes its share of the pictures, in order [default: 1x1]')
@click.option('--frames', 'num_frames', type=Whole('[1, 100000]'), default=60, show_default=True,
              help='Frames from one picture to the next.')
@click.option('--fps', type=Whole('[1, 120]'), default=30, show_default=True, help='Frames in a second.')
@click.option('--format', 'video_format', type=click.Choice(['auto', *FORMATS]), default='auto', show_default=True,
              help='png: a file per frame; auto: mp4 if the extra "video" is installed, else webp.')
def main(network: str, seeds: Sequence[int] | None, projected_w: str | None, truncation_psi: float,
         class_idx: int | None, label: list[float] | None, noise_mode: str, space: str, path_kind: str,
         easing: bool, loop: bool, grid: tuple[int, int], num_frames: int, fps: int, video_format: str,
         outdir: str, batch: int, device: str) -> None:
    """Make a video that walks through pictures of a trained generator.

    Writes video.mp4 (or .webp, .gif, or frame00000.png and so on) into the output directory.
    """
    check_choices(seeds, projected_w, space, path_kind)
    video_format = pick_format(video_format)
    folder = output_folder(outdir)
    G = load_generator(network, device)
    columns, rows = grid
    size = columns * G.img_resolution, rows * G.img_resolution
    # Before a long list is drawn.
    check_video(video_format, *size, len(seeds or ()) // (columns * rows) * num_frames)
    keys = key_latents(G, seeds, projected_w, class_idx, label, truncation_psi, space)
    walks = split_walks(keys, columns * rows)                           # [walks, K, ...]
    num_parts = walks.shape[1] - (not loop)
    check_video(video_format, *size, num_parts * num_frames + (not loop))
    times = frame_times(walks.shape[1], num_frames, loop, easing)
    require_free(folder, (f'frame{idx:05d}.png' for idx in range(len(times))) if video_format == 'png' else
                 [f'video.{video_format}'])
    images = images_of_frames(G, way(walks, path_kind, loop), times,
                              label_of_walk(G, class_idx, label, space), truncation_psi, batch, noise_mode)
    with VideoWriter(folder / 'video', video_format, fps) as writer:
        for _ in times:
            writer.add(tile([next(images) for _ in range(columns * rows)], columns, rows))
    click.echo(f'{writer.path} ({len(times)} frames)')     # Complete, and under its name.


# ---------------------------------------------------------------------------------------------------------------------
# What the user named.

def check_choices(seeds: Sequence[int] | None, projected_w: str | None, space: str, path_kind: str) -> None:
    """A usage error for options that contradict each other."""
    if (seeds is None) == (projected_w is None):
        raise click.UsageError('give either --seeds or --projected-w: which pictures shall be passed through?')
    if projected_w is not None and space == 'z':
        raise click.UsageError('--projected-w holds latents of w; --space=z needs --seeds')
    if path_kind == 'spherical' and space == 'w':
        raise click.UsageError('--path=spherical needs --space=z: only there do latents lie on a sphere')


def key_latents(G: 'torch.nn.Module', seeds: Sequence[int] | None, projected_w: str | None,
                class_idx: int | None, label: Sequence[float] | None, truncation_psi: float,
                space: str) -> 'np.ndarray':
    """The pictures to pass through: z [K, z_dim] or w [K, num_ws, w_dim], float64."""
    if projected_w is not None:
        if class_idx is not None or label is not None or truncation_psi != 1:
            click.echo('Note: --class, --label and --trunc have no effect together with --projected-w.',
                       err=True)
        return load_ws(projected_w, G).double().numpy()
    check_latents(len(seeds), G, '--seeds')
    z = seeds_to_z(seeds, G)
    c = class_label(G, class_idx, label)
    return (z if space == 'z' else to_ws(G, z, c, truncation_psi)).double().cpu().numpy()


def split_walks(keys: 'np.ndarray', num_walks: int) -> 'np.ndarray':
    """[num_walks, K, ...]: each walk takes as many of the pictures [num_walks * K,
    ...] as the others, in order."""
    num_keys, rest = divmod(len(keys), num_walks)
    if num_walks == 1 and num_keys < 2:
        raise click.UsageError('a walk needs at least two pictures, and only one was named')
    if num_keys < 2 or rest:
        raise click.UsageError(f'{len(keys)} pictures cannot be passed through by {num_walks} walks: each needs the '
                               f'same number, at least two; give {max(num_keys, 2) * num_walks}, for example')
    return keys.reshape(num_walks, num_keys, *keys.shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# The way.

def frame_times(num_keys: int, num_frames: int, loop: bool, easing: bool = False) -> 'np.ndarray':
    """When each frame is taken; picture k is passed at time k.
    A loop ends a frame before it would begin again."""
    import numpy as np
    num_parts = num_keys if loop else num_keys - 1
    times = np.arange(num_parts * num_frames + (not loop)) / num_frames
    if easing:
        t = times % 1
        times = np.floor(times) + t * t * (3 - 2 * t)
    return times


def along(keys: 'np.ndarray', times: 'np.ndarray', kind: str, loop: bool) -> 'np.ndarray':
    """Latents [frames, walks, ...] at the given times of walks through keys [walks, K, ...];
    `kind` is one of PATHS."""
    return way(keys, kind, loop)(times)


def way(keys: 'np.ndarray', kind: str, loop: bool) -> 'Callable[[np.ndarray], np.ndarray]':
    """What `along` makes of times, as a function: a long video asks for a few frames at a time."""
    import numpy as np
    keys = np.moveaxis(keys, 1, 0)                  # [K, walks, ...]
    if loop:
        keys = np.concatenate([keys, keys[:1]])
    if kind == 'spline':
        from scipy.interpolate import CubicSpline
        return CubicSpline(np.arange(len(keys)), keys, bc_type='periodic' if loop else 'natural')
    between = slerp if kind == 'spherical' else lerp

    def latents(times):
        start = np.minimum(np.floor(times).astype(int), len(keys) - 2)
        return between(keys[start], keys[start + 1], (times - start).reshape(-1, *[1] * (keys.ndim - 1)))

    return latents


def lerp(a: 'np.ndarray', b: 'np.ndarray', t: 'np.ndarray') -> 'np.ndarray':
    """From a to b along a line."""
    return a + (b - a) * t


def slerp(a: 'np.ndarray', b: 'np.ndarray', t: 'np.ndarray') -> 'np.ndarray':
    """From a to b [..., D] along an arc around 0, the length going from that of a to that of b."""
    import numpy as np
    length_a, length_b = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    a, b = a / length_a, b / length_b
    angle = np.arccos((a * b).sum(axis=-1, keepdims=True).clip(-1, 1))
    sine = np.sin(angle)
    is_arc = sine > SPHERE_EPS
    safe = np.where(is_arc, sine, 1)
    arc = np.where(is_arc, np.sin((1 - t) * angle) / safe * a + np.sin(t * angle) / safe * b, lerp(a, b, t))
    return arc * lerp(length_a, length_b, t)


def label_of_walk(G: 'torch.nn.Module', class_idx: int | None, label: Sequence[float] | None,
                  space: str) -> 'torch.Tensor | None':
    """The label [1, c_dim] with which latents of z become pictures; None for those of w,
    which have it in them."""
    return class_label(G, class_idx, label) if space == 'z' else None


def images_of_frames(G: 'torch.nn.Module', latents: 'Callable[[np.ndarray], np.ndarray]', times: 'np.ndarray',
                     c: 'torch.Tensor | None', truncation_psi: float, batch: int,
                     noise_mode: str) -> Iterator['np.ndarray']:
    """One picture per walk and frame, frame by frame, of latents(times) [frames, walks, ...]."""
    import numpy as np
    import torch
    for part in np.array_split(times, -(-len(times) // batch)):
        for rows in torch.from_numpy(latents(part)).float().flatten(0, 1).split(batch):
            if c is not None:
                rows = to_ws(G, rows.to(device_of(G)), c, truncation_psi)
            yield from images_of_ws(G, rows, batch, noise_mode)


if __name__ == '__main__':
    output.prepare()
    main()
