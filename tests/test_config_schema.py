"""The declared configuration of a run: what it takes, also of earlier runs, and what it refuses with a sentence."""
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from training.config.schema import NO, WITH_OVERRIDE, YES, Config, leaves, may_change, problem_of

RUNS = sorted((Path(__file__).parent / 'fixtures' / 'runs').glob('*/run/training_options.json'))


def saved(path=RUNS[0]):
    return json.loads(path.read_text())


@pytest.mark.parametrize('path', RUNS, ids=lambda path: path.parts[-3])
def test_what_earlier_runs_saved_is_taken_and_written_again_as_it_was(path):
    config = Config.from_json(saved(path))
    assert config.to_json() == saved(path) and config == saved(path)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config == pickle.loads(pickle.dumps(config))


def test_a_configuration_is_read_by_name_and_like_a_dictionary():
    config = Config.from_json(saved())
    assert config.total_kimg == config['total_kimg'] == {**config}['total_kimg'] == 1
    assert config.held_out is None and config.get('held_out') is None and 'held_out' not in config
    assert config.ema_rampup is None and 'ema_rampup' in config     # No ramp-up is something that a file says.
    with pytest.raises(KeyError):
        config['held_out']
    with pytest.raises(FrozenInstanceError):
        config.total_kimg = 2


def test_an_older_file_may_lack_what_was_not_there_then():
    values = saved()
    for name in ('ops', 'logs'):
        del values[name]
    config = Config.from_json(values)
    assert config.ops == 'auto' and config.logs == [] and config.data_num_images is None


@pytest.mark.parametrize('change, sentence', [
    (dict(total_kimg=-3), 'total_kimg=-3: must be more than 0'),
    (dict(total_kimg=float('nan')), 'total_kimg=NaN: must be more than 0'),
    (dict(total_kimg=True), 'total_kimg=true: must be a number'),
    (dict(batch_size=48.5), 'batch_size=48.5: must be a whole number'),
    (dict(random_seed=-1), 'random_seed=-1: must be at least 0'),
    (dict(ema_rampup='x'), 'ema_rampup=x: must be a number or null'),
    (dict(G_reg_interval=0), 'G_reg_interval=0: must be at least 1'),
    (dict(ada_target=7), 'ada_target=7: must be at least 0 and at most 1'),
    (dict(device='tpu'), 'device=tpu: must be one of auto, cpu, cuda, mps'),
    (dict(metrics=[1]), 'metrics=[1]: must be a list of texts'),
    (dict(data_shape=dict(c_dim=0, img_channels=3)), 'data_shape.img_resolution is missing'),
    (dict(data_shape=dict(c_dim=0, img_resolution='8', img_channels=3)), 'data_shape.img_resolution=8: must be a whole number'),
    (dict(keep=dict(newest=0, best=True, every_kimg=None)), 'keep.newest=0: must be at least 1'),
    (dict(keep=dict(newest=1, best=True, every_kimg=None, oldest=1)), 'there is no entry keep.oldest'),
    (dict(data_paths='a' * 1000), f'data_paths={"a" * 40}...: must be a list of texts'),
    (dict(colour='red'), 'there is no entry colour'),
    (dict(augment_kwargs=dict(class_name='os.system')), 'augment_kwargs.class_name=os.system is none of its classes')])
def test_what_is_wrong_is_named_in_one_sentence(change, sentence):
    with pytest.raises(ValueError) as error:
        Config.from_json({**saved(), **change})
    assert str(error.value).startswith(sentence) and '\n' not in str(error.value)


@pytest.mark.parametrize('values', [None, [], 'text', 7, {}])
def test_what_is_no_configuration_at_all(values):
    assert problem_of(values) in (f'it holds {json.dumps(values)}, no configuration'.replace('"', ''), 'command is missing')


def test_what_a_run_that_goes_on_may_change():
    changes = {name: may_change(name) for name, _ in leaves(saved())}
    assert changes['total_kimg'] == changes['keep.newest'] == changes['data_paths'] == YES
    assert changes['batch_size'] == changes['G_kwargs.z_dim'] == may_change('of_a_later_version') == WITH_OVERRIDE
    assert {name for name, answer in changes.items() if answer == NO} == {
        'data_shape.c_dim', 'data_shape.img_resolution', 'data_shape.img_channels'}


def test_it_comes_without_torch():
    code = 'import sys, training.config.schema, training.config.run_dirs; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent.parent).returncode == 0
