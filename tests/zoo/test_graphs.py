"""Phases that are captured and replayed train the same numbers as phases that run."""
import pytest
import torch
from graphs_on_cpu import CpuRecorder
from test_zoo import zoo_config
from tiny import Silent, assert_same_bits, make_dataset

from torch_utils import training_stats
from training import graphs, setup
from training.augment import PIPES
from training.training_loop import training_loop

ADA = dict(augment_kwargs=dict(class_name='training.augment.AugmentPipe', **PIPES['bgc']), p=0.2, target=0.6, ada_kimg=0.05)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, res=8, num_classes=2, seed=i) for i in range(2)]


def trained(config, num, recorder):
    """The state after `num` iterations with a recorder of graphs, or without (None), and all that was reported."""
    training_stats.reset()
    for player in 'GD':
        config[f'{player}_opt_kwargs']['fused'] = True
    run = setup.build({**config, 'ops': 'reference'}, torch.device('cpu'))
    if hasattr(run.game.augment, 'margin_shares'):
        run.game.augment.margin_shares = graphs.MARGINS
    if recorder is not None:
        run.graphs = graphs.PhaseGraphs(run.randomness, recorder)
    run.stages[-1].end_nimg = 10 ** 6
    training_loop(run, Silent(num * config['batch']))
    return run.state_dict(), run.local_state_dict(), training_stats.reported()


def config_of(data, names=(), loss='logistic', **changes):
    config = zoo_config(data, names, loss, 'logistic', res=8, **changes)
    config.update(G_reg_interval=2, D_reg_interval=2)
    for name, options in dict(diggan=dict(interval=2, ema=0.5), lecam=dict(start=2)).items():
        config['regularizers'].get(name, {}).update(options)
    config['data_shape']['c_dim'] = 2
    config['training_set_kwargs'].update(resolution=8, use_labels=True)
    return config


CASES = {
    'ada': ((), ADA), 'accumulated': ((), dict(batch_gpu=2)), 'ggdr': (('ggdr',), ADA), 'genco': (('genco',), ADA),
    'lecam, apa': (('lecam', 'apa'), {}), 'diggan': (('diggan',), {}), 'osgan, gp': (('gp',), dict(loss='osgan')),
}


@pytest.mark.parametrize('names, changes', CASES.values(), ids=CASES)
def test_replayed_phases_train_the_same_bits(data, capsys, names, changes):
    recorder = CpuRecorder()
    num = 9 if 'diggan' in names else 7         # It acts in every second iteration.
    replayed = trained(config_of(data, names, **changes), num, recorder)
    expected = trained(config_of(data, names, **changes), num, None)
    assert_same_bits(replayed, expected)
    assert 'without' not in capsys.readouterr().out
    assert recorder.num_replayed > recorder.num_captured > 0
