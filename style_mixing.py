"""A table of pictures: each row's latent with some layers replaced by each column's."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click

from dnnlib import output
from dnnlib.program import Maker
from drawing.named import class_label, load_with_styles, load_ws, output_folder
from drawing.output_files import ImageWriter, require_free
from drawing.pictures import device_of, images_of_ws, seeds_to_z, tile, to_ws
from drawing.sizes import check_latents, check_picture
from drawing.tool_options import SeedList, common_options

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np
    import torch


DEFAULT_STYLES = 7      # The coarse ones of a network of 1024 pixels, which has 18.


@click.command(cls=Maker, epilog='Example: python style_mixing.py --network=runs/00000-cats --rows=85,100,75 --cols=55,82 '
                      '--styles=0-3 --outdir=out')
@common_options
@click.option('--rows', 'row_seeds', type=SeedList(), metavar='A-B,C,..', help='Seed of each row.')
@click.option('--cols', 'col_seeds', type=SeedList(), metavar='A-B,C,..', help='Seed of each column.')
@click.option('--projected-w', '--projected_w', 'projected_w', metavar='FILE',
              help='Take the array "w" [K, num_ws, w_dim] of this .npz file for --rows, --cols or both, whichever is not '
                   'given.')
@click.option('--styles', type=SeedList(), metavar='A-B,C,..',
              help='Layers that are taken from the column [default: 0-6, as far as the network has them]')
def main(network: str, row_seeds: Sequence[int] | None, col_seeds: Sequence[int] | None,
         projected_w: str | None, styles: Sequence[int] | None, truncation_psi: float, class_idx: int | None,
         label: list[float] | None, noise_mode: str, outdir: str, batch: int, device: str) -> None:
    """Mix the styles of two sets of pictures.

    Writes R-C.png for every row seed R and column seed C, S-S.png for every seed by itself, and all of it as
    grid.png with the column seeds' own pictures on top and the row seeds' own at the left. Projected pictures
    are called proj00, proj01, and so on.
    """
    check_choices(row_seeds, col_seeds, projected_w)
    folder = output_folder(outdir)
    G = load_with_styles(network, device)
    if styles is None:
        styles = range(min(DEFAULT_STYLES, G.num_ws))
    if max(styles) >= G.num_ws:
        raise click.BadParameter(f'layer {max(styles)} does not exist: this network has 0 to {G.num_ws - 1}',
                                 param_hint='--styles')
    w = {}                                                          # Name -> [num_ws, w_dim].
    if projected_w is not None:
        w.update((f'proj{idx:02d}', ws) for idx, ws in enumerate(load_ws(projected_w, G).to(device_of(G))))
    rows, cols = (list(w) if seeds is None else [str(seed) for seed in seeds]
                  for seeds in (row_seeds, col_seeds))
    check_picture(len(cols) + 1, len(rows) + 1, G, '--rows')
    check_latents(len(rows) + len(cols), G, '--rows')
    w.update(ws_of_seeds(G, [*(row_seeds or []), *(col_seeds or [])], class_idx, label, truncation_psi,
                         batch))
    pairs = [(name, name) for name in dict.fromkeys([*rows, *cols])]  # Mixed with itself, it is itself.
    pairs += dict.fromkeys((row, col) for row in rows for col in cols if row != col)
    require_free(folder, ['grid.png', *('{}-{}.png'.format(*pair) for pair in pairs)])

    images = {}
    with ImageWriter(len(pairs) + 1) as writer:
        for pair, image in zip(pairs, images_of_pairs(G, w, pairs, styles, batch, noise_mode)):
            writer.write(folder / '{}-{}.png'.format(*pair), image)
            images[pair] = image
        writer.write(folder / 'grid.png', mixing_table(images, rows, cols))


def check_choices(row_seeds: Sequence[int] | None, col_seeds: Sequence[int] | None,
                  projected_w: str | None) -> None:
    """A usage error unless it is said what rows and columns are, once."""
    if projected_w is None:
        for name, seeds in (('--rows', row_seeds), ('--cols', col_seeds)):
            if seeds is None:
                raise click.UsageError(f'{name} is missing: which pictures shall be mixed? For example {name}=0-3, or '
                                       '--projected-w=FILE')
    elif row_seeds is not None and col_seeds is not None:
        raise click.UsageError('--projected-w has no effect: rows and columns are those of --rows and --cols; leave out '
                               'one of the three')


def ws_of_seeds(G: 'torch.nn.Module', seeds: Sequence[int], class_idx: int | None,
                label: Sequence[float] | None, truncation_psi: float,
                batch: int) -> 'dict[str, torch.Tensor]':
    """{seed: [num_ws, w_dim]} of seeds, which may repeat; nothing is asked of the class if there are none."""
    import torch
    seeds = list(dict.fromkeys(seeds))
    if not seeds:
        return {}
    c = class_label(G, class_idx, label)
    ws = torch.cat([to_ws(G, seeds_to_z(seeds[i:i + batch], G), c, truncation_psi)
                    for i in range(0, len(seeds), batch)])
    return {str(seed): w for seed, w in zip(seeds, ws)}


def images_of_pairs(G: 'torch.nn.Module', w: 'dict[str, torch.Tensor]', pairs: Iterable[tuple[str, str]],
                    styles: Sequence[int], batch: int, noise_mode: str) -> Iterator['np.ndarray']:
    """One picture per pair (row, column) of names in w, `batch` at a time."""
    import torch
    pairs = iter(pairs)
    while part := list(islice(pairs, batch)):
        yield from images_of_ws(G, torch.stack([mix(w[row], w[col], styles) for row, col in part]), batch,
                                noise_mode)


def mix(w_row: 'torch.Tensor', w_col: 'torch.Tensor', styles: Sequence[int]) -> 'torch.Tensor':
    """w_row [num_ws, w_dim] with the listed layers of w_col."""
    mixed = w_row.clone()
    mixed[list(styles)] = w_col[list(styles)]
    return mixed


def mixing_table(images: 'dict[tuple[str, str], np.ndarray]', rows: Sequence[str],
                 cols: Sequence[str]) -> 'np.ndarray':
    """One picture [H, W, C] of all of them by (row, column):
    first row and column their own, the corner black."""
    tiles = [0 * images[rows[0], rows[0]], *(images[col, col] for col in cols)]
    for row in rows:
        tiles += [images[row, row], *(images[row, col] for col in cols)]
    return tile(tiles, len(cols) + 1, len(rows) + 1)


if __name__ == '__main__':
    output.prepare()
    main()
