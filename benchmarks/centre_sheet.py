"""Draws what a run of TDGAN draws for every centre after each of its stages.

    python benchmarks/centre_sheet.py zoo/tdgan/0*                        # Into docs/methods/tdgan_centres.webp.

A row for every centre: some of its images, then fakes of the average generator at the end
of every stage, from the same latents with the centre's code. What a generator would draw for centres that it
has not met yet is left out.
"""
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import click
from contact_sheet import ROOT, save_small, sheet
from PIL import Image

sys.path.insert(0, str(ROOT))

COLUMNS, ROWS = 6, 2        # Images per centre and stage.


def reals(path: str) -> Image.Image:
    """Images of a data set, evenly spread over it."""
    from drawing.pictures import tile
    from training.dataset import ImageFolderDataset
    dataset, num = ImageFolderDataset(path), COLUMNS * ROWS
    images = [dataset[i * len(dataset) // num][0].transpose(1, 2, 0) for i in range(num)]
    return Image.fromarray(tile(images, COLUMNS, ROWS)).convert('RGB')


def fakes(network: Path) -> dict[int, Image.Image]:
    """What the average generator of a network file draws for every centre that it has learnt, by index."""
    from drawing.named import labels_of_seeds, load_snapshot
    from drawing.pictures import images_of_seeds, tile
    snapshot, seeds, pictures = load_snapshot(str(network), 'auto'), range(COLUMNS * ROWS), {}
    for centre in snapshot['centre_labels']:
        c = labels_of_seeds(snapshot['G_ema'], seeds, None, str(centre['index']), snapshot['centre_labels'])
        images = images_of_seeds(snapshot['G_ema'], seeds, c)
        pictures[centre['index']] = Image.fromarray(tile(list(images), COLUMNS, ROWS)).convert('RGB')
    return pictures


def stage_ends(stage_kimg: list[float], batch_size: int) -> Iterator[int]:
    """Images shown when each stage was over: whole batches."""
    for kimg in accumulate(stage_kimg):
        yield -(-round(kimg * 1000) // batch_size) * batch_size


@click.command()
@click.argument('run_dir', type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option('--dest', default=ROOT / 'docs' / 'methods' / 'tdgan_centres.webp',
              type=click.Path(path_type=Path),
              help='Picture to write, .webp or .jpg [default: docs/methods/tdgan_centres.webp].')
def main(run_dir: Path, dest: Path) -> None:
    """Draw what a run of TDGAN draws for every centre after each of its stages."""
    from training.run.run_files import read_options
    config = read_options(run_dir)
    options = config['regularizers']['tdgan']
    paths, stages = options['data'].split(','), [stage.split(':') for stage in options['schedule'].split(',')]
    rows = [[(f'{centre}: {Path(path).stem}', reals(path))] for centre, path in enumerate(paths)]
    nothing = Image.new('RGB', rows[0][0][1].size, 'white')
    ends = stage_ends([float(kimg) for _, kimg in stages], config['batch'])
    for on_line, nimg in zip([ids.split('+') for ids, _ in stages], ends):
        pictures = fakes(run_dir / f'network-snapshot-{nimg // 1000:06d}.safetensors')
        for centre, row in enumerate(rows):
            text = f'{centre} after {nimg / 1000:.0f} kimg' + ', on line' * (str(centre) in on_line)
            row.append((text, pictures[centre]) if centre in pictures else ('', nothing))
    save_small(sheet([panel for row in rows for panel in row], 1 + len(stages)), dest)


if __name__ == '__main__':
    main()
