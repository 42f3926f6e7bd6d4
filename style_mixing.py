"""A table of pictures: each row's latent with some layers replaced by each column's."""
from collections.abc import Sequence

import click

from generate import (
    ImageWriter,
    SeedList,
    class_label,
    common_options,
    images_of_ws,
    load_generator,
    output_folder,
    seeds_to_z,
    tile,
    to_ws,
)


@click.command(epilog='Example: python style_mixing.py --network=runs/00000-cats --rows=85,100,75 --cols=55,82 '
                      '--styles=0-3 --outdir=out')
@common_options
@click.option('--rows', 'row_seeds', type=SeedList(), required=True, metavar='A-B|A,B,..', help='Seed of each row.')
@click.option('--cols', 'col_seeds', type=SeedList(), required=True, metavar='A-B|A,B,..', help='Seed of each column.')
@click.option('--styles', type=SeedList(), default='0-6', show_default=True, metavar='A-B|A,B,..',
              help='Layers that are taken from the column.')
def main(network: str, row_seeds: Sequence[int], col_seeds: Sequence[int], styles: Sequence[int],
         truncation_psi: float, class_idx: int | None, noise_mode: str, outdir: str, batch: int, device: str) -> None:
    """Mix the styles of two sets of seeds.

    Writes R-C.png for every row seed R and column seed C, S-S.png for every seed by itself, and all of it as grid.png
    with the column seeds' own pictures on top and the row seeds' own at the left.
    """
    import torch
    folder = output_folder(outdir)
    G = load_generator(network, device)
    if max(styles) >= G.num_ws:
        raise click.BadParameter(f'layer {max(styles)} does not exist: this network has 0 to {G.num_ws - 1}',
                                 param_hint='--styles')
    c = class_label(G, class_idx)
    seeds = list(dict.fromkeys([*row_seeds, *col_seeds]))
    all_w = torch.cat([to_ws(G, seeds_to_z(seeds[i:i + batch], G), c, truncation_psi)
                       for i in range(0, len(seeds), batch)])       # [len(seeds), num_ws, w_dim]
    w = dict(zip(seeds, all_w))
    ws = {(seed, seed): w[seed] for seed in seeds}                  # A seed mixed with itself is itself.
    ws.update({(row, col): mix(w[row], w[col], styles) for row in row_seeds for col in col_seeds if row != col})

    images = {}
    with ImageWriter() as writer:
        for idx, (key, image) in enumerate(zip(ws, images_of_ws(G, torch.stack(list(ws.values())), batch,
                                                                noise_mode))):
            name = '{}-{}.png'.format(*key)
            click.echo(f'{name} ({idx}/{len(ws)})')
            writer.write(folder / name, image)
            images[key] = image
        click.echo('grid.png')
        writer.write(folder / 'grid.png', mixing_table(images, row_seeds, col_seeds))


def mix(w_row, w_col, styles: Sequence[int]):
    """w_row [num_ws, w_dim] with the listed layers of w_col."""
    mixed = w_row.clone()
    mixed[list(styles)] = w_col[list(styles)]
    return mixed


def mixing_table(images: dict, row_seeds: Sequence[int], col_seeds: Sequence[int]):
    """One picture of all of them: first row and column the seeds' own, the corner black."""
    tiles = [0 * images[row_seeds[0], row_seeds[0]], *(images[col, col] for col in col_seeds)]
    for row in row_seeds:
        tiles += [images[row, row], *(images[row, col] for col in col_seeds)]
    return tile(tiles, len(col_seeds) + 1, len(row_seeds) + 1)


if __name__ == '__main__':
    main()
