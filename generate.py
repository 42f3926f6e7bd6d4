"""Pictures from a trained generator: one file per seed, or grids."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from collections.abc import Sequence
from itertools import chain

import click

from dnnlib import output
from dnnlib.numbers import PSI
from dnnlib.program import Maker
from drawing.named import labels_of_seeds, load_snapshot, load_ws, output_folder
from drawing.output_files import ImageWriter, require_free
from drawing.pictures import images_of_seeds, images_of_ws, tile, tile_all
from drawing.sizes import check_picture
from drawing.tool_options import MAX_COLUMNS, GridSize, NumberList, SeedList, common_options


@click.command(cls=Maker, epilog='Example: python generate.py --network=runs/00000-cats --seeds=0-31 --trunc=0.7 --grid=8x4 '
                      '--outdir=out')
@common_options
@click.option('--seeds', type=SeedList(), metavar='A-B,C,..',
              help='Which pictures: a seed always gives the same one.')
@click.option('--projected-w', '--projected_w', 'projected_w', metavar='FILE',
              help='Show the array "w" [K, num_ws, w_dim] of this .npz file instead of seeds.')
@click.option('--grid', type=GridSize(), metavar='WxH',
              help='Tile the pictures into grid00.png, grid01.png, ..., W across and H down, instead of a file each.')
@click.option('--trunc-sheet', 'psis', type=NumberList(PSI, MAX_COLUMNS), metavar='A,B,..',
              help='Make truncation.png instead: a row per seed, a column per psi.')
@click.option('--centre', metavar='INDEX|mix',
              help='Data centre to imitate (networks of --reg_type=tdgan), or mix: each '
              'seed a centre, large ones more often. Classes follow the data of the centre unless --class is given.')
def main(network: str, seeds: Sequence[int] | None, truncation_psi: float, class_idx: int | None,
         label: list[float] | None, noise_mode: str, projected_w: str | None, outdir: str,
         grid: tuple[int, int] | None, psis: list[float] | None, centre: str | None, batch: int,
         device: str) -> None:
    """Make pictures with a trained generator.

    Each seed becomes seedNNNN.png (each row of --projected-w becomes projNN.png) in the output directory.
    """
    check_choices(seeds, projected_w, grid, psis)
    folder = output_folder(outdir)
    snapshot = load_snapshot(network, device)
    G = snapshot['G_ema']
    if projected_w is not None:
        if truncation_psi != 1 or any(given is not None for given in (seeds, class_idx, label, centre)):
            click.echo('Note: --seeds, --class, --label, --centre and --trunc have no effect together with --projected-w.',
                       err=True)
        ws = load_ws(projected_w, G)
        names = [f'proj{idx:02d}' for idx in range(len(ws))]
        images = images_of_ws(G, ws, batch, noise_mode)
    elif psis is not None:
        check_picture(len(psis), len(seeds), G, '--trunc-sheet')
        c = labels_of_seeds(G, seeds, class_idx, centre, snapshot.get('centre_labels', []), label)
        columns = [images_of_seeds(G, seeds, c, batch, psi, noise_mode) for psi in psis]
        names, images = ['truncation'], (tile(chain.from_iterable(zip(*columns)), len(psis), len(seeds))
                                         for _ in range(1))
    else:
        if grid is None:
            seeds = list(dict.fromkeys(seeds))          # A file each.
        names = [f'seed{seed:04d}' for seed in seeds]
        c = labels_of_seeds(G, seeds, class_idx, centre, snapshot.get('centre_labels', []), label)
        images = images_of_seeds(G, seeds, c, batch, truncation_psi, noise_mode)
    if grid is not None:
        check_picture(*grid, G, '--grid')
        names, images = tile_all(images, grid, len(names))
    require_free(folder, (f'{name}.png' for name in names))
    with ImageWriter(len(names)) as writer:
        for name, image in zip(names, images):
            writer.write(folder / f'{name}.png', image)


def check_choices(seeds: Sequence[int] | None, projected_w: str | None, grid: tuple[int, int] | None,
                  psis: list[float] | None) -> None:
    """A usage error for options that are missing or contradict each other."""
    if projected_w is None and seeds is None:
        raise click.UsageError('--seeds is missing: which pictures shall be made? For example --seeds=0-15')
    if psis is not None and (projected_w is not None or grid is not None):
        raise click.UsageError(f'--trunc-sheet is a sheet of seeds: leave out --{"grid" if grid else "projected-w"}')


if __name__ == '__main__':
    output.prepare()
    main()
