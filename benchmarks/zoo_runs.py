"""Trains a short run of every method of the zoo on the bundled images, the most wanted first.

    OMP_NUM_THREADS=2 python benchmarks/zoo_runs.py --kimg=100 --outdir=zoo
    python benchmarks/zoo_runs.py --kimg=100 --outdir=zoo --only=tdgan --centres=a.zip,b.zip,c.zip,d.zip

Every method has a folder under `--outdir`. Call it again whenever you like:
finished runs are skipped, unfinished ones continued, and with a larger `--kimg` finished ones go on (but for
TDGAN, whose stages `--kimg` decides). After each run OUTDIR/contact_sheet.webp shows all that there is so far
(`contact_sheet.py` and `centre_sheet.py` draw those in docs/). All runs have the same seed, and their
pictures the same latents.
"""
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from contact_sheet import write_contact_sheet

ROOT = Path(__file__).parent.parent
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
COMMON = ['--cfg=tiny', '--mirror=1', '--aug=noaug', '--seed=0']
TDGAN = 'tdgan'
RUNS = {
    'base': [],
    'ggdr': ['--reg_type=ggdr'],
    'diggan': ['--reg_type=diggan'],
    'osgan': ['--loss=osgan'],
    'genco': ['--reg_type=genco'],
    TDGAN: ['--reg_type=tdgan'],
    'ggdr+diggan': ['--reg_type=ggdr,diggan'],
    'lecam': ['--reg_type=lecam'],
    'apa': ['--reg_type=apa'],
    'r2': ['--reg_type=r2'],
    'hinge': ['--loss=hinge'],
    'lsgan': ['--loss=lsgan'],
    'wgan+gp': ['--loss=wgan', '--reg_type=gp', '--gamma=0', '--gp_interval=4'],
    'relativistic+r2': ['--loss=relativistic', '--reg_type=r2'],
    'weco': ['--reg_type=weco'],
    'daco': ['--reg_type=daco'],
    'osgan-simple': ['--loss=osgan', '--osgan_form=simple', '--osgan_force=1'],
    'osgan+ggdr': ['--loss=osgan', '--reg_type=ggdr'],
    'saturating': ['--loss=saturating'],
    'gp': ['--reg_type=gp', '--gamma=0'],
    'cr': ['--reg_type=cr'],
    'bcr': ['--reg_type=bcr'],
    'bcr+zcr': ['--reg_type=bcr,zcr'],
    'insgen': ['--reg_type=insgen', '--aug=ada'],
    'fakeclr': ['--reg_type=fakeclr', '--aug=ada'],
    'vision': ['--reg_type=vision', '--metrics=none'],
    'diffusion': ['--aug=diffusion'],
    'osgan+ggdr+diggan+genco': ['--loss=osgan', '--reg_type=ggdr,diggan,genco'],
}


def run_dir(folder: Path) -> Path | None:
    """The run in a method's folder, if one was started."""
    return max(folder.glob('0*-*/'), default=None)


def command(name: str, folder: Path, kimg: int, centres: str | None) -> list[str]:
    """How to start a method's run, or to go on with it.

    `train.py` itself finds out whether there is anything to do.
    """
    started = run_dir(folder)
    if started and name != TDGAN:
        options = [f'--resume={started}']
    else:
        data = f'--tdgan_data={centres}' if name == TDGAN else f'--data={DATA}'
        options = [f'--outdir={folder}', data, *COMMON, *RUNS[name]]
    return [sys.executable, str(ROOT / 'train.py'), *options, f'--kimg={kimg}']


def train(name: str, folder: Path, arguments: list[str]) -> bool:
    """Runs a command with its output in FOLDER/output.txt; says how it ended, and whether well."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'output.txt'
    with log.open('a', encoding='utf-8') as file:
        status = subprocess.run(arguments, stdout=file, stderr=file, check=False).returncode
    click.echo(f'{name}: finished' if status == 0 else f'{name}: exit status {status}, see {log}')
    return status == 0


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--kimg', type=click.IntRange(min=1), default=100, show_default=True,
              help='Length of each run.')
@click.option('--outdir', required=True, type=click.Path(path_type=Path), help='Where the runs go.')
@click.option('--only', metavar='LIST', help=f'Comma list of runs [default: all of {", ".join(RUNS)}].')
@click.option('--centres', metavar='LIST',
              help='Data sets for TDGAN, separated by commas; without them it is left out.')
@click.option('--jobs', type=click.IntRange(min=1), default=1, show_default=True, help='Runs at a time.')
@click.option('--sheet', type=click.Path(path_type=Path),
              help='The picture of all runs [default: OUTDIR/contact_sheet.webp].')
@click.pass_context
def main(ctx: click.Context, kimg: int, outdir: Path, only: str | None, centres: str | None, jobs: int,
         sheet: Path | None) -> None:
    """Train a short run of every method. Further options go to train.py as they are."""
    names = [name.strip() for name in only.split(',')] if only else [name for name in RUNS if name != TDGAN or centres]
    if unknown := [name for name in names if name not in RUNS]:
        raise click.UsageError(f'--only: there is no run {unknown[0]!r}; there are {", ".join(RUNS)}')
    if TDGAN in names and not centres:
        raise click.UsageError(f'--only={TDGAN} needs --centres, the data sets of the centres')

    def train_named(name: str) -> bool:
        return train(name, outdir / name, [*command(name, outdir / name, kimg, centres), *ctx.args])

    results = []
    with ThreadPoolExecutor(jobs) as pool:
        for ok in pool.map(train_named, names):
            results.append(ok)
            drawn = {name: path for name in RUNS if name != TDGAN and (path := run_dir(outdir / name))}
            if drawn:
                write_contact_sheet(drawn, sheet or outdir / 'contact_sheet.webp')
    sys.exit(not all(results))


if __name__ == '__main__':
    main()
