"""Every command of the pages that makes or shows something is run to its end, as it stands there.

In a folder that has what it names: pictures as people have them, and runs of a few iterations. Left to other tests are
training (test_commands_in_docs.py makes its dry runs), scores of thousands of pictures, and what needs a network.
"""
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_commands_in_docs import COMMANDS, ROOT, script_and_arguments
from tiny import make_dataset

RUN = {'generate', 'style_mixing', 'video', 'projector', 'directions', 'report', 'export', 'convert', 'dataset_tool'}
LINES = [line for line in COMMANDS if script_and_arguments(line)[0] in RUN and 'hf://' not in line and 'cifar-10' not in line]
SHORTER = {'projector': ['--num-steps=20'], 'video': ['--frames=3']}


def photograph(path, mode='RGB', size=(80, 64), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = {'RGB': 3, 'RGBA': 4, 'CMYK': 4, 'L': 1, 'I;16': 2}[mode]
    Image.frombytes(mode, size, np.random.RandomState(seed).bytes(num_bytes * size[0] * size[1])).save(path)


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    """A folder with all that the commands name."""
    folder = tmp_path_factory.mktemp('room')
    for seed, mode in enumerate(['RGB', 'RGB', 'RGBA', 'CMYK', 'L']):
        photograph(folder / f'photos/{seed}.{"tif" if mode == "CMYK" else "png"}', mode, (80 + seed, 64), seed)
        photograph(folder / f'100-shot-obama/{seed}.jpg', size=(256, 256), seed=seed)
        photograph(folder / f'ffhq/0/{seed}.png', size=(512, 512), seed=seed)
        photograph(folder / f'pets/{"cat" if seed % 2 else "dog"}/{seed}.jpg', seed=seed)
        photograph(folder / f'xrays/{seed}.png', 'I;16' if seed % 2 else 'L', seed=seed)
        photograph(folder / f'icons/{seed}.png', 'RGBA', (64, 64), seed)
    for name in ('cat', 'dog'):
        photograph(folder / f'{name}.png', size=(32, 32))
    (folder / 'sets').mkdir()
    for name, classes in dict(cats=0, pets=3, a=0, b=0, c=0).items():
        make_dataset(folder / f'sets/{name}.zip', num=8, res=32 if name == 'cats' else 16, num_classes=classes)
    made = [trained(folder, '--data=sets/cats.zip'), trained(folder, '--data=sets/pets.zip', '--cond=1'),
            trained(folder, '--tdgan_data=sets/a.zip,sets/b.zip,sets/c.zip', '--reg_type=tdgan')]
    for name in named_runs():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copytree(made[2 if 'tdgan' in name else 1 if 'cond' in name else 0], folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in ('python convert.py --network=runs/00000-cats --out=stranger.pkl',
                     'python projector.py --network=runs/00000-cats --target=cat.png --outdir=out',
                     'python dataset_tool.py --source=photos --dest=photos-256.zip --transform=center-crop --width=8 --height=8'):
            run_line(line, folder)
    return folder


def trained(folder, *options):
    """A run of four iterations."""
    few = ['--outdir=made', '--cfg=tiny', '--kimg=1', '--batch=256', '--metrics=none', '--aug=noaug', '--workers=0']
    subprocess.run([sys.executable, ROOT / 'train.py', *few, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.glob('made/0*'))[-1]


def named_runs():
    """Directories of runs that the commands name; a pattern as two of them."""
    words = {word.partition('=')[2] or word for line in LINES for word in script_and_arguments(line)[1]}
    names = {word for word in words if word.startswith(('runs/', 'compare/', 'RUN_DIR'))}
    return sorted(names - {'compare/0*'})


def run_line(line, folder):
    script, arguments = script_and_arguments(line)
    words = [name for word in arguments
             for name in (sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if '*' in word else [word])]
    return CliRunner().invoke(importlib.import_module(script).main, [*words, *SHORTER.get(script, [])])


@pytest.mark.slow
@pytest.mark.parametrize('line', LINES)
def test_a_command_runs_to_its_end(line, room, monkeypatch):
    monkeypatch.chdir(room)
    for word in line.split():
        if word.startswith('--out=') and 'convert.py' in line:          # It writes over nothing.
            Path(word.partition('=')[2]).unlink(missing_ok=True)
    result = run_line(line, room)
    if '--check' in line:           # Status 1 means that it has found something.
        assert result.exit_code in (0, 1) and (result.exit_code == 0) == ('nothing wrong' in result.output)
        return
    if result.exit_code and 'needs the extra' in ' '.join(result.output.split()):
        pytest.skip('needs an extra that is not installed')
    assert result.exit_code == 0, result.output


def test_the_commands_are_many():
    assert len(LINES) > 25 and {script_and_arguments(line)[0] for line in LINES} == RUN
    assert Path('runs/00000-cats') in map(Path, named_runs())
