"""Publishes a network on the Hugging Face Hub, with a card that its run writes.

    loss-zoo push runs/00000-photos mia/photos --license=cc-by-4.0

The file holds the averaged generator alone unless more is asked for: a critic knows its training pictures better
than a generator does.
"""
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from dnnlib import hf_hub, writing
from dnnlib.computing import device_option
from dnnlib.numbers import PSI, Real
from dnnlib.program import Maker
from loss_zoo import __version__

REPO = r'[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}'
LICENSE = r'[A-Za-z0-9][A-Za-z0-9.+-]{0,60}'
GRID = 6, 4                 # Columns and rows of the pictures on the card.
MAX_SIDE = 256              # Pixels of one of them.


class Matching(click.ParamType):
    """Text of a form."""

    def __init__(self, name: str, pattern: str, example: str):
        self.name, self.pattern, self.example = name, pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(self.pattern, value):
            self.fail(f'{value!r} is not of the form {self.name}, as {self.example}', param, ctx)
        return value


@click.command(cls=Maker, epilog='''
\b
Examples:
  loss-zoo push runs/00000-photos mia/photos --out=card/ --license=cc-by-4.0      Write what would be sent, to be read first.
  loss-zoo push runs/00000-photos mia/photos --private
''')
@click.argument('run_dir', metavar='RUN_DIR')
@click.argument('repo', metavar='USER/REPO', type=Matching('USER/REPO', REPO, 'mia/photos'))
@click.option('--snapshot', metavar='NAME', help='Which of the run, a file name.  [default: the newest]')
@click.option('--license', 'license_', metavar='NAME', type=Matching('NAME', LICENSE, 'cc-by-4.0'),
              help='Of the network, as the Hub abbreviates licences.  [default: none is stated]')
@click.option('--data-license', metavar='NAME', type=Matching('NAME', LICENSE, 'cc-by-4.0'),
              help='Of the training pictures.  [default: the card says that it is not stated]')
@click.option('--whole', is_flag=True,
              help='Send D and everything else in the snapshot, too: others can fine-tune it better, and see more of your data.')
@click.option('--show-pairs', is_flag=True,
              help='Send the worst pairs that `loss-zoo copied` found, too: they show training pictures.')
@click.option('--trunc', 'psi', type=Real(PSI), default=1.0, show_default=True, help='Truncation of the pictures on the card.')
@click.option('--private', is_flag=True, help='Make the repository private, if it is new.')
@click.option('--out', metavar='DIR', help='Send nothing: write it all into this new folder.')
@device_option
def main(run_dir: str, repo: str, out: str | None, private: bool, **options: Any) -> None:
    """Publish a network of RUN_DIR on the Hugging Face Hub, with a model card of its run.

    The card says what it was trained on (fingerprint, number, licence), with which methods and command, its scores
    and their caveats, whether it copies (`loss-zoo copied`), and shows pictures. Folders of this machine are not named.
    It takes a token: HF_TOKEN, or `hf auth login`.
    """
    try:
        if out is not None:
            folder = Path(out)
            if os.path.lexists(folder):
                raise click.BadParameter(f'{out} is there already; name a new folder', param_hint='--out')
            with writing.made_folder(folder.parent):
                folder.mkdir()
                try:
                    prepare(Path(run_dir), repo, folder, **options)
                except BaseException:
                    shutil.rmtree(folder)           # Half of it looks like all of it.
                    raise
            click.echo(f'{out}: what `loss-zoo push` would send to {repo}')
            return
        if hf_hub.is_offline():
            raise click.UsageError('DNNLIB_OFFLINE or HF_HUB_OFFLINE is set, and sending needs the network; --out=DIR writes it '
                                   'into a folder')
        library = hf_hub.package(f'hf://{repo}')       # Before any work is done.
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(run_dir), repo, Path(folder), **options)
            click.echo(send(library, Path(folder), repo, private))
    except OSError as error:
        raise click.ClickException(f'{error.filename}: {error.strerror}' if error.filename else str(error)) from error


def prepare(run_dir: Path, repo: str, folder: Path, snapshot: str | None, license_: str | None, data_license: str | None,
            whole: bool, show_pairs: bool, psi: float, device: str) -> None:
    """Writes network, pictures, curve and card into the folder. A usage error for what is no run."""
    from convert import load, write
    from loss_zoo import card
    from metrics.plots import read_curves, svg
    from training.run import copies
    from training.run.run_files import RunFileError, read_options
    try:
        config = read_options(run_dir)
    except RunFileError as error:
        raise click.BadParameter(str(error), param_hint='RUN_DIR') from error
    path = snapshot_of(run_dir, snapshot)
    pairs = copies.pairs_of(run_dir, path.name)
    if show_pairs and not pairs.is_file():
        raise click.BadParameter(f'{pairs} is not there; `loss-zoo copied {run_dir}` makes it',
                                 param_hint='--show-pairs')
    data = load(str(path), None if whole else ['G_ema'], False, 'RUN_DIR')
    G = data['G_ema']
    if G is None:
        raise click.BadParameter(f'{path} has no averaged generator (G_ema)', param_hint='RUN_DIR')
    networks = {name: value for name, value in data.items() if hasattr(value, 'state_dict') and (whole or name == 'G_ema')}
    write(str(folder / path.name), 'native', networks, data)
    curves = read_curves(str(run_dir))
    if curves:
        writing.write_text(folder / 'metrics.svg', svg(curves))
    write_samples(folder / 'samples.png', data, psi, device)
    if show_pairs:
        write_pairs(folder / 'copied.png', pairs)
    facts = card.Facts(
        repo, config, curves, kimg=int(re.findall(r'\d+', path.name)[-1]), file=path.name, networks=list(networks),
        shape=f'{G.img_resolution}x{G.img_resolution} {"grey" if G.img_channels == 1 else "colour"} pictures'
              + (f' with labels of {G.c_dim} numbers' if G.c_dim else ''),
        copied=copies.latest(run_dir, path.name), has_pairs=show_pairs, license=license_, data_license=data_license, psi=psi,
        has_curve=bool(curves), version=__version__)
    writing.write_text(folder / 'README.md', card.card_of(facts))


def snapshot_of(run_dir: Path, name: str | None) -> Path:
    """The network file that is meant; a usage error if there is none."""
    from torch_utils.checkpoint import snapshots
    there = {path.name: path for path in snapshots(run_dir) if path.suffix == '.safetensors'}
    if not there:
        raise click.BadParameter(f'{run_dir} holds no network snapshots', param_hint='RUN_DIR')
    if name is not None and name not in there:
        raise click.BadParameter(f'{name} is none of {", ".join(there)}', param_hint='--snapshot')
    return there[name] if name else list(there.values())[-1]


def write_samples(path: Path, data: dict[str, Any], psi: float, device: str) -> None:
    """A grid of pictures of the first seeds; classes in turn."""
    import torch

    from drawing.named import labels_of_seeds
    from drawing.output_files import save_image
    from drawing.pictures import images_of_seeds, tile
    from torch_utils.distributed import pick_device
    columns, rows = GRID
    G, seeds = data['G_ema'].to(pick_device(device)), range(columns * rows)
    centres = data.get('centre_labels')
    if centres:
        c = labels_of_seeds(G, seeds, None, 'mix', centres)
    else:
        c = torch.eye(G.c_dim)[torch.tensor(seeds) % G.c_dim] if G.c_dim else torch.zeros([1, 0])
    step = -(-G.img_resolution // MAX_SIDE)
    save_image(path, tile((image[::step, ::step] for image in images_of_seeds(G, seeds, c, truncation_psi=psi)), columns, rows))


def write_pairs(path: Path, pairs: Path) -> None:
    """The worst pairs of the run, drawn anew: pixels alone are sent."""
    from dnnlib.picture_files import open_picture
    with open_picture(pairs, formats=['PNG']) as picture:
        writing.write_picture(path, picture.convert('RGB'))


def send(library: Any, folder: Path, repo: str, private: bool) -> str:
    """Puts the files of the folder into the repository, in one commit; answers in one sentence."""
    place = hf_hub.parse(f'hf://{repo}')
    with hf_hub.in_one_sentence(place):
        api = library.HfApi(endpoint=hf_hub.endpoint())
        api.create_repo(repo, private=private, exist_ok=True)
        files = [library.CommitOperationAdd(name, str(folder / name)) for name in sorted(os.listdir(folder))]
        commit = api.create_commit(repo, files, commit_message='Network and card, by loss-zoo push')
    return f'hf://{repo}: {len(files)} files ({commit.commit_url})'


if __name__ == '__main__':
    main()
