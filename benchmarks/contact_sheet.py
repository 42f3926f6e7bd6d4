"""Draws the newest fakes of several runs side by side in one small picture.

    python benchmarks/contact_sheet.py zoo/*/0*/                          # Into docs/methods/contact_sheet.webp.
    python benchmarks/contact_sheet.py zoo/base/0* zoo/ggdr/0* --dest=two.webp --tiles=8x4

A run is named by the folder that it lies in, and by its images shown in thousands.
"""
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dnnlib.picture_files import open_picture  # noqa: E402

LABEL = 16                  # Height of the line of text above the fakes of a run, in pixels.
MARGIN = 8
MAX_BYTES = 300_000


def newest_fakes(run_dir: Path) -> tuple[int, Path] | None:
    """(kimg, file) of the last grid of fakes that a run has drawn."""
    found = [(int(match[1]), path) for path in run_dir.iterdir()
             if (match := re.fullmatch(r'fakes(\d+)\.png', path.name))]
    return max(found, default=None)


def cut_tiles(grid: Image.Image, res: int, columns: int, rows: int) -> Image.Image:
    """The first columns x rows images of a grid of images of `res` pixels."""
    return grid.convert('RGB').crop((0, 0, columns * res, rows * res))


def sheet(panels: Iterable[tuple[str, Image.Image]], across: int) -> Image.Image:
    """Pictures of one size with a line of text above each, `across` of them side by side."""
    panels = list(panels)
    width, height = panels[0][1].width + MARGIN, panels[0][1].height + LABEL + MARGIN
    canvas = Image.new('RGB', (across * width - MARGIN, -(-len(panels) // across) * height - MARGIN), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LABEL - 4)
    for index, (text, picture) in enumerate(panels):
        left, top = index % across * width, index // across * height
        draw.text((left, top), text, fill='black', font=font)
        canvas.paste(picture, (left, top + LABEL))
    return canvas


def save_small(picture: Image.Image, dest: Path) -> None:
    """Writes a picture in a lossy format; a click error if it got too large for documentation."""
    picture.save(dest, quality=80)
    click.echo(f'{dest}: {picture.width}x{picture.height}, {dest.stat().st_size / 1000:.0f} kB')
    if dest.stat().st_size > MAX_BYTES:
        raise click.ClickException(f'{dest} is larger than {MAX_BYTES // 1000} kB; give fewer --tiles')


def write_contact_sheet(run_dirs: dict[str, Path], dest: Path, res: int = 32,
                        tiles: tuple[int, int] = (12, 2), across: int = 2) -> None:
    """Writes the sheet of {name: run directory}; runs that have drawn nothing yet are left out."""
    panels = []
    for name, run_dir in run_dirs.items():
        if found := newest_fakes(run_dir):
            with open_picture(found[1], formats=['PNG']) as grid:
                panels.append((f'{name}, {found[0]} kimg', cut_tiles(grid, res, *tiles)))
    if not panels:
        raise click.ClickException('none of these directories has fakes*.png')
    save_small(sheet(panels, across), dest)


@click.command()
@click.argument('run_dirs', nargs=-1, required=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option('--dest', default=ROOT / 'docs' / 'methods' / 'contact_sheet.webp',
              type=click.Path(path_type=Path),
              help='Picture to write, .webp or .jpg [default: docs/methods/contact_sheet.webp].')
@click.option('--res', default=32, show_default=True, help='Size of the images of these runs.')
@click.option('--tiles', default='12x2', show_default=True, help='Images of each run, across and down.')
@click.option('--across', default=2, show_default=True, help='Runs side by side.')
def main(run_dirs: tuple[Path, ...], dest: Path, res: int, tiles: str, across: int) -> None:
    """Draw the newest fakes of several runs in one picture."""
    columns, rows = (int(number) for number in tiles.split('x'))
    write_contact_sheet({path.resolve().parent.name: path for path in run_dirs}, dest, res, (columns, rows),
                        across)


if __name__ == '__main__':
    main()
