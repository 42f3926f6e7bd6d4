"""The tree stays small in its parts: what has to be read for one step, how long functions and files are."""
import ast
import re
import statistics
import sys
from pathlib import Path

import torch
from source_files import ROOT, project_files
from tiny import Silent, make_config, make_dataset
from torch.overrides import TorchFunctionMode

from training import setup, training_loop

STEP = ('training/loss.py', 'losses_ext/r1.py', 'losses_ext/path_length.py')
ITERATION = (*STEP, 'training/training_loop.py', 'training/ema.py')

MAX_FILE, MAX_FUNCTION = 450, 50        # Lines.
WIDE, MAX_SHARE_OF_WIDE = 110, 0.04     # Columns; of all lines, those of tests, too.
LONG_FILES = {
    'training/networks.py': 'both networks, in one file like the published ones, whose names they have',
    'torch_utils/foreign/portable.py': 'is written whole into files for other programs, networks and all',
}


# One step.


class FilesOfOperations(TorchFunctionMode):
    """Notes in which files of the project the operations on tensors
    stand, but for data, networks, augmentation, statistics.

    An operation inside torch_utils counts where it is asked for: those are parts by name, like torch's own.
    """

    def __init__(self):
        super().__init__()
        self.of_steps, self.of_loop = set(), set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        calls = list(project_calls(sys._getframe(1)))
        files = {file for file, _ in calls}
        aside = {'training/networks.py', 'training/layers.py', 'training/augment.py', 'torch_utils/training_stats.py',
                 'training/data/stages.py', 'training/run/health.py'}
        helpers = {('training/player.py', 'reported'), ('training/player.py', 'in_layout_of'),
                   ('training/context.py', 'randn_like'), ('training/both.py', 'takes_both')}
        if not files & aside and not helpers & set(calls):
            where = next(file for file, _ in calls if not file.startswith('torch_utils/'))
            (self.of_steps if 'training/loss.py' in files else self.of_loop).add(where)
        return function(*args, **(kwargs or {}))


def project_calls(frame):
    """(file, function) of what is being called, innermost
    first, as far as it is of the project and no test."""
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and 'tests' not in path.parts and 'site-packages' not in path.parts:
            yield path.relative_to(ROOT).as_posix(), frame.f_code.co_name
        frame = frame.f_back


def test_every_operation_of_a_step_stands_in_three_files(tmp_path):
    """All four phases of the base recipe: G, path length, D, R1. Then what the loop adds."""
    run = setup.build(make_config(make_dataset(tmp_path / 'a.zip')), torch.device('cpu'))
    run.enter_stage(0)
    assert [phase.name for phase in run.phases] == ['Gmain', 'Greg', 'Dmain', 'Dreg']
    ticks = Silent(4)
    with FilesOfOperations() as found:
        training_loop.run_iteration(run, ticks)
    assert found.of_steps == set(STEP)
    assert found.of_loop == set(ITERATION) - set(STEP)


def num_lines(file):
    return len((ROOT / file).read_text(encoding='utf-8').splitlines())


def test_a_step_is_read_in_350_lines():
    assert sum(map(num_lines, STEP)) <= 350


def test_contributing_says_what_to_read():
    text = ' '.join((ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8').split())
    for file in STEP:
        said = text.partition(f'`{file}` (')[2].partition(')')[0]
        assert said.isdigit() and abs(int(said) - num_lines(file)) <= 5, f'{file}: {said!r} lines, it has {num_lines(file)}'
    of_loop = sum(num_lines(file) for file in ITERATION if file not in STEP)
    assert abs(int(re.search(r'\((\d+) lines together\)', text)[1]) - of_loop) <= 10, f'the loop has {of_loop} lines'


# All of it.


def functions():
    """{file:name:line: lines from `def` to the end}"""
    lengths = {}
    for file, source in project_files().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f'{file}:{node.name}:{node.lineno}'] = node.end_lineno - node.lineno + 1
    return lengths


def test_no_file_is_long():
    others = [path for pattern in ('torch_utils/ops/csrc/*.*', 'drawing/*.html') for path in ROOT.glob(pattern)]
    files = [*project_files(), *(path.relative_to(ROOT).as_posix() for path in others)]
    assert [file for file in files if num_lines(file) > MAX_FILE and file not in LONG_FILES] == []


def test_functions_are_short():
    lengths = functions()
    assert [name for name, lines in lengths.items() if lines > MAX_FUNCTION] == []
    assert 5 <= statistics.median(lengths.values()) <= 8


def test_wide_lines_are_the_exception():
    sources = [*project_files().values(), *(path.read_text(encoding='utf-8') for path in (ROOT / 'tests').rglob('*.py'))]
    lines = [line for source in sources for line in source.splitlines()]
    share = sum(len(line) > WIDE for line in lines) / len(lines)
    assert share < MAX_SHARE_OF_WIDE, f'{share:.1%} of all lines have more than {WIDE} columns'
