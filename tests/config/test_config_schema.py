"""The declared configuration of a run: what it takes, also
of earlier runs, and what it refuses with a sentence."""
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from training.config.arguments import as_arguments, as_entries
from training.config.methods import is_possible, zoo_fields
from training.config.options import OPTIONS
from training.config.run_dirs import differences
from training.config.schema import PLACES, RENAMED, Config, may_change, option_name, problem_of
from training.config.setting import NO, WITH_OVERRIDE, YES, leaves

RUNS = sorted((Path(__file__).parents[1] / 'fixtures' / 'runs').glob('*/run/training_options.json'))


def saved(path=RUNS[0]):
    return json.loads(path.read_text())


def without_nulls(values):
    return {name: without_nulls(value) if isinstance(value, dict) else value for name, value in values.items()
            if value is not None}


@pytest.mark.parametrize('path', RUNS, ids=lambda path: path.parts[-3])
def test_what_earlier_runs_saved_is_taken_under_the_names_of_options(path):
    """Read like a dictionary every value is still there, and beside
    them only what came later; what is written then is read as it is."""
    config, before = Config.from_json(saved(path)), saved(path)
    names = {'kimg': 'total_kimg', 'tick': 'kimg_per_tick', 'snap': 'network_snapshot_ticks', 'log': 'logs',
             'seed': 'random_seed', 'gpus': 'num_gpus', 'batch': 'batch_size', 'p': 'augment_p', 'target': 'ada_target'}
    later = {'cuda_graphs': 'auto', 'deterministic': False, 'exchange': 'fp32'}
    assert without_nulls({names.get(name, name): value for name, value in config.items()}) == without_nulls({
        **later, **{name: value for name, value in before.items() if name != 'image_snapshot_ticks'}})
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config == pickle.loads(pickle.dumps(config))
    assert differences(config, Config.from_json({**before, 'total_kimg': 5})) == {}


def test_an_option_is_called_the_same_in_the_file():
    """What were arguments under names of their own, in tables, are entries with the names of options."""
    config = Config.from_json(saved())
    said, tables = config.to_json(), saved()
    assert said['mirror'] is tables['training_set_kwargs']['xflip'] is config.mirror
    assert said['glr'] == tables['G_opt_kwargs']['lr'] and said['gamma'] == tables['loss_kwargs']['r1_gamma']
    assert said['cbase'] == tables['G_kwargs']['synthesis_kwargs']['channel_base'] == tables['D_kwargs']['channel_base']
    assert said['nobench'] is not tables['cudnn_benchmark'] and said['workers'] == tables['data_loader_kwargs']['num_workers']
    assert said['G'] == 'Generator' and said['data'] == tables['data_paths']
    old = {path.rpartition('.')[2] for paths in PLACES.values() for path in paths} - {'labels_from'}
    left = {name.rpartition('.')[2] for name, _ in leaves({**said, 'command': {}})}
    assert old & left <= {'num_layers', 'class_name', 'xflip'}    # Of D's mapping network, other classes, augmentation.


@pytest.mark.parametrize('entry, option', [
    ('regularizers.ggdr.weight', 'ggdr_weight'),
    ('regularizers.tdgan.remind_interval', 'tdgan_remind_interval'),
    ('loss_kwargs.pl_weight', 'pl_weight'), ('loss_kwargs.game', 'loss_kwargs.game'),
    ('keep.newest', 'keep.newest'),
    ('mirror', 'mirror')])
def test_options_of_methods_are_shown_as_they_are_typed(entry, option):
    assert option_name(entry) == option
    assert option_name(entry) == entry or option in OPTIONS


@pytest.mark.parametrize('tables, entry', [
    ({'D_kwargs': {'epilogue_kwargs': {'mbstd_group_size': 1, 'mbstd_num_channels': 0}}}, {'mbstd_group': 0}),
    ({'G_kwargs': {'synthesis_kwargs': {'channel_base': 8}}, 'D_kwargs': {'channel_base': 16}}, {}),
    ({'training_set_kwargs': None, 'centre_kwargs': {'xflip': True}}, {'mirror': True}),
    ({'resume_pkl': 'a.pkl'}, {'resume': 'a.pkl'})])
def test_arguments_and_entries_become_each_other(tables, entry):
    entries = as_entries(tables, PLACES)
    assert {name: value for name, value in entries.items() if name in PLACES} == entry
    assert as_arguments(entries, PLACES) == tables


@pytest.mark.parametrize('change, sentence', [
    (dict(image_snapshot_ticks=2), 'image_snapshot_ticks=2 and network_snapshot_ticks=1 are two names of one entry'),
    (dict(kimg=7), 'total_kimg=1 and kimg=7 are two names of one entry'),
    (dict(mirror=True), 'training_set_kwargs.xflip=False and mirror=True are two names of one entry')])
def test_an_old_name_and_a_new_one_say_the_same(change, sentence):
    assert problem_of({**saved(), **change}) == sentence


def test_every_old_name_has_an_entry_and_is_none():
    assert {*RENAMED.values()} <= {*Config.__dataclass_fields__} and not {*RENAMED} & {*Config.__dataclass_fields__}


def test_a_configuration_is_read_by_name_and_like_a_dictionary():
    config = Config.from_json(saved())
    assert config.kimg == config['kimg'] == {**config}['kimg'] == 1
    assert config.held_out is None and config.get('held_out') is None and 'held_out' not in config
    assert config.ema_rampup is None and 'ema_rampup' in config     # No ramp-up is something that a file says.
    with pytest.raises(KeyError):
        config['held_out']
    with pytest.raises(FrozenInstanceError):
        config.kimg = 2


def test_an_older_file_may_lack_what_was_not_there_then():
    values = Config.from_json(saved()).to_json()
    for name in ('ops', 'log'):
        del values[name]
    config = Config.from_json(values)
    assert config.ops == 'auto' and config.log == [] and config.data_num_images is None


@pytest.mark.parametrize('change, sentence', [
    (dict(kimg=-3), 'kimg=-3: must be more than 0'),
    (dict(kimg=float('nan')), 'kimg=NaN: must be more than 0'),
    (dict(kimg=True), 'kimg=true: must be a number'),
    (dict(batch=48.5), 'batch=48.5: must be a whole number'),
    (dict(seed=-1), 'seed=-1: must be at least 0'),
    (dict(ema_rampup='x'), 'ema_rampup=x: must be a number or null'),
    (dict(G_reg_interval=0), 'G_reg_interval=0: must be at least 1'),
    (dict(target=7), 'target=7: must be at least 0 and at most 1'),
    (dict(device='tpu'), 'device=tpu: must be one of auto, cpu, cuda, mps'),
    (dict(metrics=[1]), 'metrics=[1]: must be a list of texts'),
    (dict(data_shape=dict(c_dim=0, img_channels=3)), 'data_shape.img_resolution is missing'),
    (dict(data_shape=dict(c_dim=0, img_resolution='8', img_channels=3)), 'data_shape.img_resolution=8: must be a whole number'),
    (dict(keep=dict(newest=0, best=True, every_kimg=None)), 'keep.newest=0: must be at least 1'),
    (dict(keep=dict(newest=1, best=True, every_kimg=None, oldest=1)), 'there is no entry keep.oldest'),
    (dict(data_paths='a' * 1000), f'data={"a" * 40}...: must be a list of texts'),
    (dict(colour='red'), 'there is no entry colour'),
    (dict(augment_kwargs=dict(class_name='os.system')), 'augment_kwargs.class_name=os.system is none of its classes')])
def test_what_is_wrong_is_named_in_one_sentence(change, sentence):
    with pytest.raises(ValueError) as error:
        Config.from_json({**Config.from_json(saved()), **change})
    assert str(error.value).startswith(sentence) and '\n' not in str(error.value)


@pytest.mark.parametrize('values', [None, [], 'text', 7, {}])
def test_what_is_no_configuration_at_all(values):
    assert problem_of(values) in (f'it holds {json.dumps(values)}, no configuration'.replace('"', ''), 'command is missing')


def test_what_a_run_that_goes_on_may_change():
    changes = {name: may_change(name) for name, _ in leaves(Config.from_json(saved()).to_json())}
    assert changes['kimg'] == changes['keep.newest'] == changes['data'] == YES
    assert changes['batch'] == changes['G_kwargs.z_dim'] == may_change('of_a_later_version') == WITH_OVERRIDE
    assert {name for name, answer in changes.items() if answer == NO} == {
        'data_shape.c_dim', 'data_shape.img_resolution', 'data_shape.img_channels'}


@pytest.mark.parametrize(('method', 'field'), [*zoo_fields()], ids=lambda value: getattr(value, 'name', value))
def test_every_option_of_a_method_may_be_what_it_says_and_nothing_else(method, field):
    assert all(is_possible(value, field) for value in (field.default, *field.choices))
    for value in ([], {}, [0.5], *['junk'] * bool(field.choices), *[float('nan'), 10 ** 400] * bool(field.within)):
        assert not is_possible(value, field), value


def test_a_number_or_a_word_is_one_of_both():
    field = next(field for method, field in zoo_fields() if (method, field.name) == ('apa', 'p'))
    assert all(is_possible(value, field) for value in (None, 0, 0.5, 1, 'shared'))
    assert not any(is_possible(value, field) for value in (2, -1, True, 'junk', '0.5', float('inf'), 10 ** 400))


def test_it_comes_without_torch():
    code = 'import sys, training.config.schema, training.config.run_dirs; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[2]).returncode == 0
