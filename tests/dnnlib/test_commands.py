"""Sentences name a program as it is called where it runs: a checkout, or the one installed command."""
import ast
import re

import pytest
from source_files import ROOT, project_files

from dnnlib import commands
from loss_zoo.command import PROGRAMS
from training.config.data_sets import example
from training.dataset import DatasetError, ImageFolderDataset

SCRIPTS = '|'.join(path.stem for path in ROOT.glob('*.py'))


def test_names_are_those_of_the_command():
    assert {program: PROGRAMS[name].module for program, name in commands.SUBCOMMANDS.items()} == {
        program: program for program in commands.SUBCOMMANDS}


@pytest.mark.parametrize('argv0, train, dataset', [
    ('train.py', 'python train.py', 'python dataset_tool.py'),
    ('/usr/bin/loss-zoo', 'loss-zoo train', 'loss-zoo dataset'),
    ('loss-zoo.exe', 'loss-zoo train', 'loss-zoo dataset')])
def test_an_installed_program_is_called_by_the_command(monkeypatch, tmp_path, argv0, train, dataset):
    monkeypatch.setattr('sys.argv', [argv0])
    assert f'{train} --outdir=runs' in example() and f'({train} --help' in example()
    (tmp_path / 'x.png').write_bytes(b'no picture')
    with pytest.raises(DatasetError, match=re.escape(f'{dataset} --check --source=')):
        ImageFolderDataset(str(tmp_path)).require_trainable()


def test_a_wheel_is_known_by_its_folder(monkeypatch):
    monkeypatch.setattr('sys.argv', ['-c'])
    assert commands.call_of('report') == 'python report.py'
    assert commands.how_to_build() == 'python -m torch_utils.ops build'
    monkeypatch.setattr(commands, '__file__', 'loss_zoo/_programs/dnnlib/commands.py')
    assert commands.call_of('report') == 'loss-zoo report'
    assert commands.how_to_build() == 'loss-zoo doctor --build'


def said(tree):
    """Texts in the bodies of functions, but for docstrings: what is printed or raised."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            for node in (node for statement in body for node in ast.walk(statement)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_no_sentence_names_a_file_that_is_not_there_once_installed():
    call = rf'python (-m|\w+\.py)|\b({SCRIPTS})\.py --'
    found = [(file, text) for file, source in project_files().items() if not file.startswith('benchmarks/')
             for text in said(ast.parse(source)) if re.search(call, text)]
    found = [pair for pair in found if pair[0] not in ('dnnlib/commands.py', 'loss_zoo/command.py')]
    assert found == []
