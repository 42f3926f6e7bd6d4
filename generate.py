"""Pictures from a trained generator: one file per seed, or grids."""
from collections.abc import Sequence
from itertools import chain

import click

from dnnlib import output
from drawing.files import ImageWriter
from drawing.named import labels_of_seeds, load_snapshot, load_ws, output_folder
from drawing.options import GridSize, NumberList, SeedList, common_options
from drawing.pictures import images_of_seeds, images_of_ws, tile, tile_all


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


def check_choices(seeds: Sequence[int] | None, projected_w: str | None, grid: tuple[int, int] | None,
                  psis: list[float] | None) -> None:
    """A usage error for options that are missing or contradict each other."""
    if projected_w is None and seeds is None:
        raise click.UsageError('--seeds is missing: which pictures shall be drawn? For example --seeds=0-15')
    if psis is not None and (projected_w is not None or grid is not None):
        raise click.UsageError(f'--trunc-sheet is a sheet of seeds: leave out --{"grid" if grid else "projected-w"}')


if __name__ == '__main__':
    output.prepare()
    main()
