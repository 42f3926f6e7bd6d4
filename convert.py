"""Network files from one format to another."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from pathlib import Path
from typing import Any

import click

from dnnlib import output, writing
from dnnlib.program import Maker

FORMATS = {'.safetensors': 'native', '.pkl': 'reference', '.pt': 'rosinality'}
NETWORKS = ('G', 'D', 'G_ema')


@click.command(cls=Maker, epilog='Example: python convert.py --network=runs/00000-cats --out=cats.pkl')
@click.option('--network', required=True, metavar='FILE|URL|DIR',
              help='Network file of any format, its URL, or a run directory (its newest snapshot is taken).')
@click.option('--out', required=True, metavar='FILE', help='File to write.')
@click.option('--to', 'target', type=click.Choice(list(FORMATS.values())),
              help='Format to write: our own, that of the official PyTorch implementation, or rosinality\'s. '
                   '[default: by the name of the file: .safetensors, .pkl, .pt]')
@click.option('--only', metavar='NAME,..',
              help='Networks to write, of G, D and G_ema. [default: all there are]')
def main(network: str, out: str, target: str | None, only: str | None) -> None:
    """Convert network files.

    Reads our snapshots, those of the official PyTorch implementation of StyleGAN2-ADA and its GGDR fork,
    TensorFlow pickles of StyleGAN2, and rosinality's checkpoints. Nothing in a file is executed.
    """
    target = target or FORMATS.get(Path(out).suffix)
    if target is None:
        raise click.UsageError(f'--out={out}: the name ends in none of {", ".join(FORMATS)}; give the format with --to')
    require_place(out, '--out')
    convert(network, out, target, chosen_names(only))


@click.command(cls=Maker, epilog='Example: python legacy.py --source=stylegan2-cat-config-f.pkl --dest=cats.pkl')
@click.option('--source', required=True, metavar='FILE|URL|DIR', help='As --network of convert.py.')
@click.option('--dest', required=True, metavar='FILE',
              help='File to write: a .safetensors, a .pt, or else a pickle of the official PyTorch implementation.')
@click.option('--force-fp16', type=bool, metavar='BOOL', default=False, show_default=True,
              help='With the four highest resolutions in float16, on GPUs.')
def legacy(source: str, dest: str, force_fp16: bool) -> None:
    """Convert network files with the options of the reference's legacy.py; convert.py has more."""
    require_place(dest, '--dest')
    convert(source, dest, FORMATS.get(Path(dest).suffix, 'reference'), None, force_fp16, '--source')


def require_place(path: str, option: str) -> None:
    """A usage error if anything is there, as a network is never replaced, or no folder for it."""
    try:
        writing.require_place(path, 'none')
    except OSError as error:
        raise click.BadParameter(f'{path}: {error.strerror}', param_hint=option) from None


def convert(network: str, out: str, target: str, names: list[str] | None, force_fp16: bool = False,
            option: str = '--network') -> None:
    """Reads, chooses, writes, and says so; a usage error for what
    the option that names the file has brought."""
    data = load(network, names, force_fp16, option)
    networks = choose(network, data, target, names, option)
    try:
        write(out, target, networks, data)
    except (OSError, ValueError) as error:
        raise click.ClickException(f'{out} cannot be written: {getattr(error, "strerror", None) or error}') from None
    click.echo(f'{out}: {", ".join(networks)} in {target} format')


def chosen_names(only: str | None) -> list[str] | None:
    """The networks of `--only`, in the order of files; None if all are wanted."""
    if only is None:
        return None
    names = only.split(',')
    if unknown := [name for name in names if name not in NETWORKS]:
        raise click.BadParameter(f'{unknown[0]!r} is none of {", ".join(NETWORKS)}', param_hint='--only')
    return [name for name in NETWORKS if name in names]


def load(network: str, names: list[str] | None, force_fp16: bool, option: str) -> dict[str, Any]:
    """The contents of the file, of its networks only those of the names;
    a usage error if it cannot be read."""
    from torch_utils.network_file import load_network
    try:
        return load_network(network, force_fp16, only=names)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def choose(network: str, data: dict[str, Any], target: str, names: list[str] | None,
           option: str) -> dict[str, Any]:
    """The networks to write, by name; a usage error if they are not there or not what the format needs."""
    if target == 'reference' and names not in (None, list(NETWORKS)):
        raise click.BadParameter('a reference snapshot always has all of G, D and G_ema', param_hint='--only')
    wanted = names or NETWORKS
    missing = [name for name in wanted if data[name] is None]
    if missing and (names or target == 'reference'):
        raise click.BadParameter(f'{network} has no {" and no ".join(missing)}', param_hint=option)
    if target == 'native' and names is None:
        wanted = [name for name, value in data.items() if hasattr(value, 'state_dict')]
    return {name: data[name] for name in wanted if data[name] is not None}


def write(out: str, target: str, networks: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes `networks` and, where the format has a place for it, what else the file held."""
    from torch_utils import checkpoint
    from torch_utils.foreign import reference, rosinality
    data = without_places(data)
    grafts = {name: layers for name, layers in data['grafts'].items() if name in networks}
    if target == 'native':
        meta = {name: value for name, value in data.items()
                if name not in (*NETWORKS, 'augment_pipe', 'grafts') and not hasattr(value, 'state_dict')}
        checkpoint.save_networks(out, networks, grafts, **meta)
        return
    pipe = data['augment_pipe'] if target == 'reference' and type(data['augment_pipe']).__name__ == 'AugmentPipe' else None
    lost = [name for name, value in data.items()
            if hasattr(value, 'state_dict') and name not in NETWORKS and value is not pipe]
    lost += [f'what a method added to {name}' for name in grafts]
    if lost:
        click.echo(f'Note: this format has no place for {" and ".join(lost)}.', err=True)
    with writing.atomic(out, 'none', sync=True) as file:
        if target == 'reference':
            reference.write(file, networks, data['training_set_kwargs'], pipe)
        else:
            rosinality.write(file, networks)


def without_places(data: dict[str, Any]) -> dict[str, Any]:
    """What a file held, without the folders of its data sets, which files of earlier versions name."""
    from torch_utils.checkpoint import without_place
    data = {**data, 'training_set_kwargs': without_place(data['training_set_kwargs'])}
    # calc_metrics.py takes a centre without a path from the run directory.
    if isinstance(data.get('centres'), dict):
        data['centres'] = {name: [kwargs and {key: value for key, value in kwargs.items() if key != 'path'},
                                  code]
                           for name, (kwargs, code) in data['centres'].items()}
    return data


if __name__ == '__main__':
    output.prepare()
    main()
