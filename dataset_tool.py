"""Makes a training set of images: equal squares with a power of two as their side,
in a zip archive or a folder."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import math

import click

from dnnlib import output
from dnnlib.numbers import Whole
from dnnlib.program import Program

MAX_SIDE = 8192                 # What is larger is not read as training data.
DARK = 2 ** 12 >> 8             # What is below everywhere may be 12 bits in 16.


@click.command(cls=Program, name='dataset_tool.py', context_settings={'max_content_width': 120},
               epilog='Example: python dataset_tool.py --source=photos/ --dest=photos.zip '
                      '--transform=center-crop '
                      '--width=256 --height=256 --color=rgb')
@click.option('--source', metavar='PATH', required=True,
              help='Folder, .zip archive, .tar or .parquet file or a folder of them, LSUN folder ..._lmdb, '
                   'cifar-10-python.tar.gz, train-images-idx3-ubyte.gz, or hf://datasets/USER/REPO[/FILE].')
@click.option('--dest', metavar='PATH',
              help='New folder or .zip archive; an archive that this program made is replaced.')
@click.option('--check', is_flag=True,
              help='Write nothing: decode every image, list those that would not do, and say why.')
@click.option('--report', metavar='FILE',
              help='Write no set, but an HTML page about the source: sizes, classes, duplicates, outliers, a contact sheet.')
@click.option('--max-images', metavar='N', type=Whole('[1, inf)'),
              help='Use only the first N images.  [default: all]')
@click.option('--transform', type=click.Choice(['center-crop', 'center-crop-wide']),
              help='What to crop to --width and --height: the middle square, or the middle rows on a black square.')
@click.option('--width', type=Whole(f'[8, {MAX_SIDE}]'),
              help='Of the result, in pixels.  [default: as it is]')
@click.option('--height', type=Whole(f'[1, {MAX_SIDE}]'),
              help='Of the result, in pixels.  [default: as it is]')
@click.option('--resize-filter', type=click.Choice(['box', 'lanczos']), default='lanczos', show_default=True,
              help='How pixels are averaged.')
@click.option('--color', type=click.Choice(['auto', 'rgb', 'gray']), default='auto', show_default=True,
              help='Convert to colour or to grey; auto leaves each image as it is.')
@click.option('--background', metavar='COLOR', default='white', show_default=True,
              help='What transparent images are laid on: a name, or #rrggbb.')
@click.option('--labels-from', type=click.Choice(['json', 'folders', 'none']), default='json', show_default=True,
              help='Take labels from dataset.json, make every subfolder a class, or write none.')
@click.option('--skip-bad', metavar='N', type=Whole('[0, inf)'),
              help='Leave out up to N images that cannot be read.  [default: 0; for LSUN, any number]')
@click.option('--max-pixels', metavar='N', type=Whole(f'[1, {2 ** 30}]'),
              help='Refuse larger images, for one pixel may take 16 bytes of memory.  [default: 67108864, as 8192x8192]')
def main(source, dest, check, report, max_images, background, labels_from, skip_bad, max_pixels, **transform_options):
    """Make a training set of images: equal squares with a power of two as their side.

    \b
    Examples:
    python dataset_tool.py --source=photos --dest=photos-256.zip --transform=center-crop --width=256 --height=256 --color=rgb
    python dataset_tool.py --source=photos-256.zip --check
    python dataset_tool.py --source=photos --report=photos.html
    """
    if bool(dest) + check + bool(report) != 1:
        raise click.UsageError('give one of --dest, the folder or .zip archive to write, --check, and --report')
    if dest:
        _require_apart(source, dest)
    _require_sizes(**transform_options)
    # Imported only now, so that --help need not wait for them.
    from dnnlib import hf_hub
    from dnnlib.picture_files import MAX_PIXELS, with_heif
    from training.data import packing, transforms
    from training.data.importers import open_originals
    click.get_current_context().with_resource(with_heif())
    try:
        transform = transforms.make_transform(**transform_options)
        source = hf_hub.fetch_set(source) if hf_hub.is_hub_address(source) else source
        originals = open_originals(source, labels_from, _parse_color(background), max_pixels or MAX_PIXELS)
        if not originals.count:
            raise click.ClickException(f'--source={source}: there are no images in it')
        if report:
            _write_report(originals, report, max_images)
        elif check:
            if originals.passed_over:
                click.echo(f'{originals.path}: {originals.passed_over}')
            _report_problems(originals, packing.outcomes(originals, transform, max_images))
        else:
            max_bad = skip_bad if skip_bad is not None else math.inf if originals.skips_bad else 0
            with output.finishing():
                summary = packing.pack(originals, dest, transform, max_images, max_bad)
            _report_summary(dest, summary)
            if originals.passed_over:
                click.echo(f'{originals.path}: {originals.passed_over}')
            _report_labels(summary.labels, originals)
    except OSError as error:
        raise click.ClickException(f'{error.filename}: {error.strerror}' if error.filename else str(error)) from error


def _require_apart(source: str, dest: str) -> None:
    """A usage error if a folder would be written into what it is made of. (An archive may replace itself.)"""
    from dnnlib import writing
    if not dest.lower().endswith('.zip') and writing.lies_in(dest, source):
        raise click.UsageError(f'--dest={dest} lies in the source, of whose images its own would be some the '
                               'next time; name a folder elsewhere')


def _write_report(originals, path: str, max_images: int | None) -> None:
    """Writes the page about a source, and says what is in it."""
    from dnnlib import writing
    from drawing.data_page import extra, write_page
    from training.data.survey import survey
    writing.require_place(path)
    found = survey(originals, max_images)
    write_page(found, path)
    click.echo(f'{originals.path}: {len(found.seen)} images, {len(found.unreadable)} that cannot be read; '
               f'{extra(found.duplicates)} duplicates, {extra(found.near)} near duplicates')
    if found.passed_over:
        click.echo(f'{originals.path}: {found.passed_over}')
    click.echo(f'Labels: {found.labels}')
    click.echo(path)


def _require_sizes(transform, width, height, **_) -> None:
    if transform and not (width and height):
        raise click.ClickException(f'--transform={transform}: needs --width and --height')
    if transform == 'center-crop-wide' and height > width:
        raise click.ClickException(f'--height={height}: must not exceed --width={width} with --transform={transform}')
    if width:
        _require_power_of_two('--width', width)
    if height and transform != 'center-crop-wide':
        _require_power_of_two('--height', height)
        if width and width != height:
            raise click.ClickException(f'--width={width} --height={height}: training needs squares; give both the same')


def _require_power_of_two(option: str, side: int) -> None:
    below = 2 ** (side.bit_length() - 1)
    if side != below or side < 8:
        nearest = f'the nearest are {below} and {2 * below}' if below >= 8 else 'the least is 8'
        raise click.ClickException(
            f'{option}={side}: training needs squares with a power of two as their side; {nearest}')


def _parse_color(name: str) -> tuple[int, int, int]:
    from PIL import ImageColor
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise click.ClickException(f'--background={name}: not a colour; use a name like black, or #rrggbb') from None


def _report_problems(originals, outcomes) -> None:
    """Prints a line per image that will not do; exit status 1 if there is any."""
    from tqdm import tqdm
    num_images, labels, remedies, brightest = 0, [], [], 0
    for outcome in outcomes:
        num_images += 1
        brightest = max(brightest, 0 if outcome.pixels is None else int(outcome.pixels.max()))
        labels.append(outcome.item.label)
        if outcome.problem:
            remedies.append(outcome.remedy)
            with tqdm.external_write_mode():        # Beside the progress bar.
                click.echo(output.printable(f'{outcome.item.name}: {outcome.problem}', keep=''))
    if remedies:
        raise click.ClickException('; '.join([
            f'{originals.path}: {len(remedies)} of {num_images} images will not do',
            *dict.fromkeys(remedies)]))
    click.echo(f'{originals.path}: {num_images} images, nothing wrong')
    _report_darkness(brightest)
    _report_labels(labels, originals)


def _report_summary(dest: str, summary) -> None:
    height, width, channels = summary.shape
    kind = 'RGB' if channels == 3 else 'grey'
    click.echo(f'{dest}: {summary.num_written} images, {width}x{height} {kind}; '
               f'{summary.num_dropped} dropped as too small, {summary.num_bad} skipped as unreadable')
    _report_darkness(summary.brightest)


def _report_darkness(brightest: int) -> None:
    """A word on sets that are as good as black."""
    if brightest < DARK:
        click.echo(f'Warning: of all pixels none is brighter than {brightest} of 255; of 16 bits the upper eight are '
                   'taken, so scale files that hold fewer bits first', err=True)


def _report_labels(labels: list, originals) -> None:
    """Prints what labels there are: the number of images of each class."""
    from training.data.labels import class_table, describe
    num_missing = sum(label is None for label in labels)
    if originals.label_note:
        click.echo(f'Note: {originals.label_note}', err=True)
    if 0 < num_missing < len(labels):
        click.echo(f'Warning: {num_missing} of {len(labels)} images have no label; labels are of use, and written, only if '
                   'all have one', err=True)
    click.echo(f'Labels: {"none" if num_missing else describe(labels)}')
    if not num_missing and not isinstance(labels[0], list):
        click.echo('\n'.join(f'  {line}' for line in class_table(labels, originals.class_names)))


if __name__ == '__main__':
    output.prepare()
    main()
