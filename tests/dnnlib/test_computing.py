"""The options --device and --ops: every command has the same choices, and they are written in one place."""
import importlib
import re

import click
import pytest
from source_files import project_files

from dnnlib.computing import DEVICES, OPERATORS

COMMANDS = ('calc_metrics', 'copied', 'directions', 'generate', 'loss_zoo.play', 'projector', 'style_mixing', 'tdgan_centre',
            'train', 'video')


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize(('option', 'choices'), [('device', DEVICES), ('ops', OPERATORS)])
def test_every_command_has_the_same_choices(command, option, choices):
    kinds = {param.name: param.type for param in importlib.import_module(command).main.params}
    if option == 'ops' and command in ('copied', 'loss_zoo.play', 'tdgan_centre'):
        assert option not in kinds
        return
    assert isinstance(kinds[option], click.Choice) and tuple(kinds[option].choices) == choices


@pytest.mark.parametrize('choices', ["'cuda', 'mps'", "'auto', 'native', 'reference'"])
def test_the_choices_are_written_once(choices):
    assert [file for file, source in project_files().items() if choices in source] == ['dnnlib/computing.py']


def test_no_other_file_declares_the_option_device():
    declared = [file for file, source in project_files().items() if re.search(r"option\(\s*'--device'", source)]
    assert declared == ['dnnlib/computing.py']


def test_no_other_file_lists_the_operators():
    listed = re.compile(r"'native', 'reference'[\])]")
    assert [file for file, source in project_files().items() if listed.search(source)] == ['dnnlib/computing.py']
