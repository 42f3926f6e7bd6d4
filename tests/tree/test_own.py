"""A method, a game, a network, a critic, a metric of
one's own: as their pages say, one file and one line each.

The pages are followed to the letter, in a copy of the program.
"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ALL_PHASES, make_dataset

from torch_utils import checkpoint

ROOT = Path(__file__).parents[2]
PAGES = ['docs/methods/README.md', 'docs/own/game.md', 'docs/own/network.md', 'docs/own/metric.md']
FILE = re.compile(r'^`([\w/]+\.py)`:\n\n```python\n(.*?)^```', re.S | re.M)
LINE = re.compile(r'^The line, in `(\w+)` of `([\w/]+\.py)`:\n\n```python\n([^\n]*\n)```', re.M)


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """A copy of the program in which all the pages were followed, and a small data set."""
    folder = tmp_path_factory.mktemp('copy')
    rooms = [path.name for path in ROOT.iterdir() if (path / '__init__.py').exists() and path.name != 'tests']
    for room in rooms:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns('__pycache__', 'csrc'))
    for path in ROOT.glob('*.py'):
        shutil.copy(path, folder)
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding='utf-8')
        files, lines = FILE.findall(text), LINE.findall(text)
        assert len(files) == len(lines) >= 1, page
        found += files
        for name, content in files:
            assert not (folder / name).exists()
            (folder / name).write_text(content)
        for table, name, line in lines:
            add_line(folder / name, table, line)
    assert len(found) == 5
    make_dataset(folder / 'data.zip', num=16, num_classes=2)
    return folder


def add_line(path, table, line):
    """Puts a line at the beginning of a table."""
    text, num = re.subn(rf'^({table}\b[^\n]*= {{\n)', lambda match: match[1] + line, path.read_text(), flags=re.M)
    assert num == 1, f'{path}: no table {table}'
    path.write_text(text)


def call(folder, program, *args, status=0):
    """What a program of the copy says."""
    result = subprocess.run([sys.executable, f'{program}.py', *args], cwd=folder, capture_output=True, text=True, check=False,
                            env={'PATH': '', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(folder)})
    assert result.returncode == status, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


OWN = ['--G=PlainGenerator', '--D=PlainCritic', '--loss=squared_hinge', '--reg_type=small,diggan', '--metrics=contrast1k']
COMMON = ['--outdir=runs', '--data=data.zip', '--cond=1', '--cfg=tiny', *ALL_PHASES, '--batch=256', '--workers=0', '--device=cpu',
          '--ops=reference', '--log=none']


def test_all_of_them_train_go_on_draw_and_are_scored(copy):
    """All at once. None of the tools has to be told again
    what the networks are; elsewhere their file is refused."""
    call(copy, 'train', *COMMON, *OWN, '--kimg=1', '--snap=1', '--keep=1,best')
    run, = (copy / 'runs').iterdir()
    assert 'PlainGenerator-PlainCritic' in run.name and 'squared_hinge' in run.name and 'small' in run.name
    said = call(copy, 'train', f'--resume={run}', '--kimg=2')
    assert 'Best so far by contrast1k' in said
    scores = json.loads((run / 'scores.json').read_text())
    assert all(entry['score'] == -entry['metrics']['contrast1k'] for entry in scores.values() if entry['score'] is not None)
    call(copy, 'generate', f'--network={run}', '--outdir=out', '--seeds=0-3', '--class=1', '--trunc=0.7')
    assert len(list((copy / 'out').glob('*.png'))) == 4
    assert '"contrast1k"' in call(copy, 'calc_metrics', f'--network={run}', '--metrics=contrast1k', '--data=data.zip')
    # Here its class is in no table: the snapshot is refused, and nothing is imported.
    snapshot = checkpoint.newest_snapshot(run)
    with pytest.raises(checkpoint.CheckpointError, match="class 'training.plain_generator.PlainGenerator' is not one of"):
        checkpoint.load_networks(snapshot)
    assert 'training.plain_generator' not in sys.modules


@pytest.mark.slow
def test_other_tools_need_not_be_told_what_the_networks_are(copy):
    call(copy, 'train', *COMMON, *OWN[:2], '--metrics=none', '--kimg=1', '--snap=1', '--seed=1')
    run = next(path for path in (copy / 'runs').iterdir() if 'squared' not in path.name)
    call(copy, 'style_mixing', f'--network={run}', '--outdir=mixed', '--rows=1', '--cols=2', '--styles=0', '--class=0')
    said = call(copy, 'directions', f'--network={run}', '--outdir=dirs', '--seeds=0-1', '--class=0', status=2)
    assert 'PlainGenerator' in said and 'Traceback' not in said
    said = call(copy, 'train', *COMMON[:3], f'--init-from={run}', '--device=cpu', '--metrics=none', '-n')
    assert '"G": "PlainGenerator"' in said and '"D": "PlainCritic"' in said
    said = call(copy, 'train', *COMMON[:3], f'--init-from={run}', '--G=PlainGenerator', '-n', status=2)
    assert '--G has no effect with --init-from' in said


@pytest.mark.slow
def test_what_does_not_fit_is_one_sentence(copy):
    said = call(copy, 'train', *COMMON, '--G=PlainGenerator', '--reg_type=ggdr', '-n', status=2)
    assert 'PlainGenerator' in said and 'ggdr' in said and 'Traceback' not in said
    said = call(copy, 'train', *COMMON, '--G=PlainGenerator', '--snapshot-format=native,pkl', '-n', status=2)
    assert '--G=PlainGenerator cannot be saved as pkl' in said
    assert 'PlainGenerator' in call(copy, 'train', *COMMON, '--G=Nobody', '-n', status=2)


@pytest.mark.slow
def test_a_game_of_ones_own_is_one_of_one_stage_training(copy):
    args = [*COMMON, '--loss=osgan', '--osgan_game=squared_hinge', '--aug=noaug', '-n']
    call(copy, 'train', *args)
    assert 'the ratio of the two losses' in call(copy, 'train', *args, '--osgan_form=simple', status=2)
