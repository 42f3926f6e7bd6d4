"""Numbers of options: one place knows their ranges, and every command uses it."""
import importlib
import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib.numbers import LARGEST, SEED, Real, Whole, in_words, is_within

ROOT = Path(__file__).parents[2]
COMMANDS = ('calc_metrics', 'dataset_tool', 'directions', 'export', 'generate', 'projector', 'style_mixing',
            'tdgan_authority', 'tdgan_centre',
            'train', 'video')


@pytest.mark.parametrize(('within', 'inside', 'outside'), [
    ('[0, 1]', [0, 1, 0.5, 1e-30], [-1e-9, 1.0000001, math.nan, math.inf, -math.inf, 1e-308, 5e-324]),
    ('(0, 1)', [0.5, 1e-9], [0, 1, -0.0]),
    ('[-1, 1]', [-1, 0, 1], [-1.1, 1.1]),
    ('(0, inf)', [1e-9, 1e9], [0, -1, 1e308, math.inf, 1.1e9, math.nan]),
    ('(-inf, inf)', [-1e9, 0, 1e9], [-1e308, 1e308, math.inf, -math.inf, math.nan]),
    (SEED, [0, 2 ** 32 - 1], [-1, 2 ** 32]),
])
def test_an_interval_holds_what_it_says(within, inside, outside):
    assert [value for value in inside if not is_within(value, within)] == []
    assert [value for value in outside if is_within(value, within)] == []


@pytest.mark.parametrize(('within', 'value', 'words'), [
    ('[0, 1)', -1, 'at least 0 and less than 1'),
    ('(0, inf)', -1, 'more than 0'),
    ('[0, inf)', 1e308, f'at least 0 and at most {LARGEST:.0f}'),
    ('(-inf, inf)', -1e308, 'at least -1000000000'),
    ('(-inf, inf)', math.nan, 'finite'),
    (SEED, -1, 'at least 0 and at most 4294967295'),
    ('[0, inf)', 1e-300, '0, or further from 0 than 1e-30'),
])
def test_an_interval_in_words(within, value, words):
    assert in_words(within, value) == words


@pytest.mark.parametrize(('kind', 'text', 'value'), [
    (Whole('[0, 9]'), '7', 7), (Whole('[0, 9]'), ' +7 ', 7), (Whole('[-9, 9]'), '-7', -7),
    (Whole('[0, 9]'), 7, 7),
    (Real('[0, 9]'), '7', 7.0), (Real('[0, 9]'), '1e-3', 0.001), (Real('[0, 9]'), 0.5, 0.5),
])
def test_numbers_are_read(kind, text, value):
    read = kind.convert(text, None, None)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(('kind', 'text', 'sentence'), [
    (Whole('[1, 9]'), '0', '--number=0: must be at least 1 and at most 9'),
    (Whole('[1, 9]'), '1' * 30, f'--number={int("1" * 30):g}: must be at least 1 and at most 9'),
    (Whole('[1, 9]'), '1.5', '--number=1.5: must be a whole number, at least 1 and at most 9'),
    (Whole('[1, inf)'), '9' * 5000, f'--number={"9" * 40}...: must be a whole number, at least 1'),
    (Whole('[1, 9]'), '٣', '--number=٣: must be a whole number, at least 1 and at most 9'),
    (Whole('[1, 9]'), 'True', '--number=True: must be a whole number, at least 1 and at most 9'),
    (Real('[0, 9]'), '1_0', '--number=1_0: must be a number, at least 0 and at most 9'),
    (Real('[0, 9]'), '１', '--number=１: must be a number, at least 0 and at most 9'),
    (Real('[0, inf)'), 'nan', '--number=nan: must be a number, at least 0'),
    (Real('[0, inf)'), '1e308', '--number=1e+308: must be at least 0 and at most 1000000000'),
    (Real('(0, inf)'), 'inf', '--number=inf: must be more than 0 and at most 1000000000'),
    (Real('(-inf, inf)'), '1e999', '--number=inf: must be at most 1000000000'),
    (Real('[0, 1]'), '', '--number=: must be a number, at least 0 and at most 1'),
])
def test_what_is_wrong_is_one_sentence_that_names_the_option(kind, text, sentence):
    command = click.Command('command', params=[click.Option(['-n', '--number'], type=kind)], callback=lambda number: None)
    result = CliRunner().invoke(command, ['--number', text])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f'Error: {sentence}'


def test_a_wrong_interval_is_found_where_it_is_written():
    with pytest.raises(AssertionError, match='no interval'):
        Whole('0..5')


@pytest.mark.parametrize('name', COMMANDS)
def test_every_number_of_a_command_has_its_range_here(name):
    """No option takes a bare integer or float, of which NaN, infinity and 2^64 would be good ones."""
    main = importlib.import_module(name).main
    bare = [param.opts[0] for param in main.params
            if param.type in (click.INT, click.FLOAT) or isinstance(param.type, (click.IntRange, click.FloatRange))]
    assert bare == []


@pytest.mark.parametrize('name', COMMANDS)
@pytest.mark.parametrize('text', ['nan', 'inf', '-inf', '1e308', '-1e308', str(2 ** 64), str(-2 ** 64)])
def test_no_option_of_a_command_takes_a_number_that_means_nothing(name, text):
    for param in importlib.import_module(name).main.params:
        if isinstance(param.type, (Whole, Real)):
            with pytest.raises(click.BadParameter, match='must be'):
                param.type.convert(text, param, None)
