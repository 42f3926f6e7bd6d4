"""Do two checkouts train the same numbers? For every change that should not change any.

    git worktree add --detach ../before COMMIT
    python benchmarks/same_numbers.py ../before .
    python benchmarks/same_numbers.py ../before . "--only=base;osgan+lecam"

Each checkout runs the same short trainings (8 pixels, networks of a few thousand weights,
21 iterations) through its own `train.py`, in a process of its own with one thread. The states at their ends
are then compared tensor by tensor, by name and bit by bit: weights, moments of the optimizers, running means,
strength of augmentation, statistics. Names of files and what stands in headers may differ; times may, too.
Exit status 1 if any tensor differs, is missing or is new, or a training fails.
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import safetensors
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from tiny import make_dataset  # noqa: E402

from benchmarks.timing import SMALL  # noqa: E402
from torch_utils.checkpoint import save_networks  # noqa: E402
from training.networks import Discriminator, Generator  # noqa: E402

# Files of small networks that trainings start from.
START, LABELLED = 'start.safetensors', 'labelled.safetensors'
COMMON = ['--outdir=runs', '--kimg=1', '--batch=48', '--seed=3', '--snap=99', '--workers=0', '--device=cpu',
          '--ops=reference', '--log=none', '--metrics=none', '--new']
DATA = ['--data=a.zip', f'--init-from={START}']
CLASSES = ['--data=a.zip', '--cond=1', f'--init-from={LABELLED}']
FIXED = ['--aug=fixed', '--p=0.6']
NO_AUG = ['--aug=noaug']
TRAININGS = {
    'fresh': ['--data=a.zip', *SMALL, '--gamma=0.25', '--batch=256'],
    'base': CLASSES,
    'fixed': [*CLASSES, *FIXED, '--batch-gpu=24'],
    'ggdr,diggan,r2': [*CLASSES, *FIXED, '--reg_type=ggdr,diggan,r2', '--diggan_ema=0.5'],
    'r2 in main steps': [*DATA, '--reg_type=r2', '--r2_interval=3', '--gamma=1'],
    'osgan+lecam': [*CLASSES, '--loss=osgan', '--reg_type=lecam', '--lecam_start=4', '--lecam_weight=0.1'],
    'osgan, ratio': [*DATA, '--loss=osgan', '--osgan_form=simple', '--osgan_game=saturating',
                     '--reg_type=diggan'],
    'tdgan': ['--cond=1', f'--init-from={LABELLED}', '--allow-partial', *FIXED, '--reg_type=tdgan',
              '--tdgan_data=a.zip,b.zip', '--tdgan_schedule=0:0.4,1:0.3,0+1:0.3'],
    'genco': [*CLASSES, *FIXED, '--reg_type=genco'],
    'weco, fresh fakes': [*DATA, '--reg_type=weco', '--genco_fakes=fresh', '--weco_both=1'],
    'apa': [*DATA, *NO_AUG, '--reg_type=apa', '--apa_kimg=0.2'],
    'apa, fixed, r2': [*CLASSES, '--reg_type=apa,r2', '--apa_p=0.4'],
    'wgan+gp': [*DATA, *NO_AUG, '--loss=wgan', '--reg_type=gp', '--gamma=0'],
    'gp in main steps': [*DATA, *FIXED, '--reg_type=gp', '--gamma=0', '--gp_interval=2'],
    'saturating': [*DATA, '--loss=saturating', '--DiffAugment=color,translation'],
    'hinge': [*DATA, '--loss=hinge'],
    'lsgan': [*DATA, '--loss=lsgan', '--gamma=0'],
    'relativistic': [*CLASSES, *FIXED, '--loss=relativistic'],
}


def write_inputs(folder: Path) -> None:
    """Two data sets with two classes, and networks to start from."""
    make_dataset(folder / 'a.zip', num=24, res=8, num_classes=2)
    make_dataset(folder / 'b.zip', num=16, res=8, num_classes=2, seed=1)
    save_small_networks(folder / START)
    save_small_networks(folder / LABELLED, c_dim=2)


def save_small_networks(path: Path, c_dim: int = 0, width: int = 8) -> None:
    """G and D with `width` channels everywhere, for images of 8 pixels: trained from with --init-from."""
    torch.manual_seed(0)
    shape, channels = dict(c_dim=c_dim, img_resolution=8, img_channels=3), dict(channel_base=64, channel_max=width)
    G = Generator(z_dim=width, w_dim=width, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels,
                  **shape)
    D = Discriminator(mapping_kwargs=dict(num_layers=2), **channels, **shape)
    save_networks(path, dict(G=G, D=D, G_ema=G), nimg=0)


def train(checkout: Path, name: str, folder: Path) -> str | None:
    """Runs one training in `folder`; returns the last line that it said if it failed."""
    command = [sys.executable, str(checkout / 'train.py'), *COMMON, *TRAININGS[name]]
    environment = {**os.environ, 'PYTHONPATH': str(checkout), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ['no message'])[-1]


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """{name: bytes} of the newest state below a folder, without what depends on the clock."""
    path = max(folder.glob('**/training-state-*.safetensors'),
               key=lambda path: int(re.findall(r'\d+', path.name)[-1]))
    with safetensors.safe_open(path, 'pt') as file:
        names = [name for name in file.keys() if '/Timing/' not in name and '/Resources/' not in name]  # noqa: SIM118
        return {name: file.get_tensor(name).contiguous().flatten().view(torch.uint8).numpy()
                for name in names}


def compare(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    """What B has lost or changed, in words. What it remembers besides is no difference."""
    found = [f'only in A: {name}' for name in sorted(a.keys() - b.keys())]
    return found + [f'differs: {name}' for name in a if name in b and not np.array_equal(a[name], b[name])]


@click.command()
@click.argument('checkouts', nargs=2, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option('--only', metavar='NAME;...',
              help=f'Some of the trainings, apart by semicolons: {"; ".join(TRAININGS)}')
def main(checkouts, only):
    """Compares the checkouts A and B."""
    names = only.split(';') if only else list(TRAININGS)
    unknown = [name for name in names if name not in TRAININGS]
    if unknown:
        raise click.UsageError(f'--only={only}: there is no {unknown[0]}; there are {"; ".join(TRAININGS)}')
    different = 0
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            states, failures = [], []
            for side, checkout in zip('AB', checkouts):
                folder = Path(temporary, side)
                folder.mkdir()
                write_inputs(folder)
                failure = train(checkout.resolve(), name, folder)
                failures += [f'{side} failed: {failure}'] * bool(failure)
                states.append({} if failure else tensors_of(folder))
        problems = failures or compare(*states)
        different += bool(problems)
        print(f'{name:20}  {len(states[0]):4} tensors  {"DIFFERENT" if problems else "equal"}', flush=True)
        for problem in problems[:5]:
            print(f'    {problem}')
        if len(problems) > 5:
            print(f'    and {len(problems) - 5} more')
    sys.exit(different > 0)


if __name__ == '__main__':
    main()
