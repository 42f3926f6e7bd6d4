"""R1 and path length are methods like the others: options of their own, any interval, every recipe."""
import json

import pytest
from click.testing import CliRunner
from tiny import ALL_PHASES, make_config, make_dataset, run_iterations

import train
from training.config.schema import Config


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'faces.zip', num=8)


def dry_run(data, *args):
    """(configuration, all output)"""
    result = CliRunner().invoke(train.main, ['--outdir=runs', f'--data={data}', '--cfg=tiny', *ALL_PHASES, '-n', *args])
    assert result.exit_code == 0, result.output
    entries = json.loads(result.stdout[result.stdout.index('{'):result.stdout.rindex('}') + 1])
    return Config.from_json(entries), result.output


def test_options_of_the_base_terms_reach_the_configuration(data):
    config, output = dry_run(data, '--r1_gamma=3', '--pl_weight=0.5', '--pl_decay=0.1', '--pl_batch_shrink=4',
                             '--r1_interval=8', '--pl_interval=2')
    assert config['loss_kwargs'] == dict(r1_gamma=3, style_mixing_prob=0.9, pl_weight=0.5, pl_decay=0.1, pl_batch_shrink=4,
                                         pl_interval=2, r1_interval=8, game='logistic')
    assert config['D_reg_interval'] == 8 and config['G_reg_interval'] == 2
    assert 'r1_gamma3' in config['run_dir'] and 'pl_interval2' in config['run_dir']


def test_two_names_of_one_option_must_agree(data):
    assert dry_run(data, '--gamma=3')[0]['loss_kwargs'] == dry_run(data, '--gamma=3', '--r1_gamma=3')[0]['loss_kwargs']
    result = CliRunner().invoke(train.main, ['--outdir=runs', f'--data={data}', '-n', '--gamma=3', '--r1_gamma=4'])
    assert result.exit_code == 2 and '--r1_gamma and --gamma are two names of one option' in result.output


def test_defaults_given_by_name_make_no_other_run(data):
    usual = dry_run(data)[0].to_json()
    given = dry_run(data, '--r1_interval=16', '--pl_interval=4', '--pl_decay=0.01', '--pl_batch_shrink=2')[0].to_json()
    for typed in ('command', 'argv'):
        usual.pop(typed), given.pop(typed)
    assert given == usual


@pytest.mark.parametrize('args', [[], ['--reg_type=r2'], ['--loss=osgan'], ['--reg_type=gp', '--gamma=0']])
def test_r1_and_path_length_in_every_step(data, args):
    """Then nothing is lazy: no phase of their own (but for one-stage training), and Adam as it is given."""
    config, output = dry_run(data, '--r1_interval=1', '--pl_interval=1', *args)
    assert config['D_reg_interval'] is config['G_reg_interval'] is None and '16/17' not in output
    phases = output.split('\nPhase ')[1].split('\n\n')[0].splitlines()[1:]
    names = [line.split()[0] for line in phases if line.split()[1:2] == ['1']]
    assert names[:3] == (['GDmain', 'Greg', 'Dreg'] if '--loss=osgan' in args else ['Gboth', 'Dboth'])
    small = make_config(data, G_reg_interval=None, D_reg_interval=None, loss=config['loss'])
    small['loss_kwargs'].update(config['loss_kwargs'])
    small.update({key: config[key] for key in ('regularizers', 'loss_options') if key in config})
    run, _ = run_iterations(small, 1)
    assert ('R1' in [type(r).__name__ for r in run.game.regularizers]) == ('--gamma=0' not in args)


def test_a_weight_of_zero_leaves_no_trace(data):
    config = make_config(data)
    config['loss_kwargs'].update(r1_gamma=0, pl_weight=0)
    run, _ = run_iterations(config, 1)
    assert run.game.regularizers == [] and [phase.name for phase in run.phases] == ['Gmain', 'Dmain']
