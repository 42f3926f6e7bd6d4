"""`train.py --resume=DIR` where training_options.json was
edited at random: it goes on, or says one sentence."""
import copy
import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import train

RUNS = Path(__file__).parents[1] / 'fixtures' / 'runs'
JUNK = [None, -1, 0, 1, 3, 2 ** 40, 1e308, 0.5, float('nan'), 'x', '', '\0', [], [1], ['a'], {}, {'a': 1}, True, False, '1',
        [[[]]], 'training.networks.Generator', 'auto', {'class_name': 'torch.optim.Adam'}]
NUM = 25                    # Of each kind of run.


def places(value, at=()):
    """Where something stands in nested tables and lists."""
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def edited(options, rng):
    """The same options with an entry removed, added or of another type, sometimes two."""
    options = copy.deepcopy(options)
    for _ in range(rng.choice([1, 1, 1, 2])):
        at = rng.choice(list(places(options)))
        table = options
        for key in at[:-1]:
            table = table[key]
        kind = rng.random()
        if kind < 0.2:
            del table[at[-1]]
        elif kind < 0.3 and isinstance(table, dict):
            table[rng.choice(['junk', 'weight', 'class_name', 'data', 'interval', 'c_dim'])] = rng.choice(JUNK)
        else:
            table[at[-1]] = rng.choice(JUNK)
    return options


@pytest.mark.parametrize('name, args', [
    ('base', ['--kimg=2', '--override']), ('genco', []), ('ggdr,diggan,r2', []), ('osgan,lecam', ['--gpus=2']), ('tdgan', [])])
def test_options_edited_at_random_end_in_one_sentence(name, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                 # The data sets are named by relative paths.
    for path in RUNS.glob('*.zip'):
        shutil.copy(path, tmp_path)
    (tmp_path / 'run').mkdir()
    options, rng, refused = json.loads((RUNS / name / 'run' / 'training_options.json').read_text()), random.Random(name), 0
    for option in ('init_from', 'allow_partial'):       # That network is not here.
        options['command'].pop(option, None)
    for _ in range(NUM):
        changed = edited(options, rng)
        (tmp_path / 'run' / 'training_options.json').write_text(json.dumps(changed))
        result = CliRunner().invoke(train.main, ['--resume=run', '--dry-run', *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), (changed, result.exc_info)
        assert result.exit_code in (0, 2) and 'Traceback' not in result.output
        refused += result.exit_code == 2 and result.output.count('Error: ') == 1
    assert refused > NUM / 3


@pytest.mark.parametrize('at, value, sentence', [
    (['loss'], 'junk', 'loss=junk is none of logistic, '),
    (['D_kwargs', 'epilogue_kwargs'], None, 'mbstd_group is missing'),
    (['D_kwargs'], {}, 'mbstd_group is missing'),
    (['D_kwargs', 'epilogue_kwargs', 'mbstd_group_size'], -1, 'mbstd_group=-1: must be at least 0'),
    (['G_opt_kwargs', 'weight'], 1, 'there is no entry G_opt_kwargs.weight'),
    (['training_set_kwargs', 'junk'], 1, 'there is no entry training_set_kwargs.junk'),
    (['loss_options', 'junk'], 1, 'osgan has no option junk'),
    (['regularizers', 'lecam', 'weight'], 'x', 'lecam.weight has a value that this option cannot have'),
    (['regularizers', 'magic'], {}, 'regularizers.magic is none of '),
    (['loss_kwargs', 'game'], 'chess', 'chess'),
    (['G_kwargs', 'mapping_kwargs', 'num_layers'], 10 ** 9, 'ValueError: 1000000000 layers'),
    (['data_paths'], ['a\0.zip'], 'a text in it has a character that no name has')])
def test_what_is_wrong_is_named(at, value, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(RUNS / 'a.zip', tmp_path)
    (tmp_path / 'run').mkdir()
    options = json.loads((RUNS / 'osgan,lecam' / 'run' / 'training_options.json').read_text())
    table = options
    for key in at[:-1]:
        table = table[key]
    table[at[-1]] = value
    (tmp_path / 'run' / 'training_options.json').write_text(json.dumps(options))
    result = CliRunner().invoke(train.main, ['--resume=run', '--dry-run'])
    output = ' '.join(result.output.split())
    assert result.exit_code == 2 and 'run/training_options.json was not written by this program: ' in output, output
    assert sentence in output.split('was not written by this program: ')[1]
