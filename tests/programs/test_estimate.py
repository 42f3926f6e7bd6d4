"""`loss-zoo estimate`: what is measured of a run, how it is added up, and what is said."""
import json
import os
import sys
import time
from pathlib import Path

import click
import psutil
import pytest
import torch
from click.testing import CliRunner
from tiny import make_config, make_dataset

from loss_zoo import command, estimate
from training import setup

ROOT = Path(__file__).parents[2]


def test_every_kind_of_iteration_is_known_with_its_share(tmp_path):
    regularizers = dict(diggan=dict(weight=1.0, interval=3, pair='sample', wrt='aug', ema=0.0))
    run = setup.build(make_config(make_dataset(tmp_path / 'a.zip'), regularizers=regularizers), torch.device('cpu'))
    kinds = dict(estimate.kinds_of_iterations(run))
    assert [name for name in kinds if 'Dreg' in name and 'DigGAN' in name] == [next(iter(kinds))]
    of = {part: sum(share for name, (_, share) in kinds.items() if part in name.split())
          for part in ('Gmain', 'Greg', 'Dreg', 'DigGAN')}
    assert of == pytest.approx(dict(Gmain=1, Greg=1 / 4, Dreg=1 / 16, DigGAN=1 / 3))
    for name, (batch_idx, _) in kinds.items():
        assert ('Greg' in name.split()) == (batch_idx % 4 == 0) and ('DigGAN' in name) == (batch_idx % 3 == 0)


def measured(**changes):
    return estimate.Measured(**{**dict(device='cpu', secs={'all': [4.0, 6.0], 'main': [1.0, 1.5, 2.0]},
                                       shares={'all': 0.25, 'main': 0.75}, first_sec=9.0, host_bytes=2 * 10 ** 9,
                                       device_bytes=None, device_total=None, weight_bytes=10 ** 8), **changes})


def test_an_iteration_is_the_mean_of_a_period_with_its_range():
    assert measured().iteration() == 0.25 * 5 + 0.75 * 1.5
    assert (measured().iteration(min), measured().iteration(max)) == (1.75, 3.0)


def test_what_is_said_follows_from_it():
    config = make_config('none.zip', batch=50, gpus=2, metrics=['fd5k_efflite0'], kimg=400, tick=4, target=0.6)
    text = '\n'.join(estimate.sentences(config, measured(device_bytes=3 * 10 ** 9, device_total=80 * 10 ** 9), 400))
    assert 'of one of 2 processes, without what they exchange' in text
    assert 'Time: 47.5 s per kimg (35 to 60), 21.1 images per s.' in text
    assert '400 kimg: 5 h 17 min (3 h 53 min to 6 h 40 min' in text
    assert '100 ticks, 2 times the metrics fd5k_efflite0' in text and 'at p = 0.3' in text
    assert 'GPU memory: 3.0 of 80 GB' in text
    assert estimate.numbers(config, measured(), 400)['sec'] == pytest.approx(47.5 * 400)
    assert [estimate.in_words(sec) for sec in (59, 600, 3 * 86400)] == ['59 s', '10 min', '3.0 days']


def test_a_run_is_measured_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, 'MAX_ROUNDS', 1)
    monkeypatch.setattr(estimate, 'measure_apart', estimate.measure)
    make_dataset('a.zip', num=8)
    result = CliRunner().invoke(command.group, [
        'estimate', '--outdir=runs', '--data=a.zip', '--cfg=tiny', '--batch=4', '--cmax=8', '--workers=0', '--device=cpu',
        '--metrics=none', '--kimg=2', '--ops=reference'])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    assert found['kimg'] == 2 and 0 < found['sec'] == pytest.approx(2 * found['sec_per_kimg'])
    assert found['host_bytes'] > 10 ** 7 and found['weight_bytes'] > 1000 and 'Measured on cpu: ' in result.output
    assert os.listdir() == ['a.zip']


def test_several_processes_share_the_batch(tmp_path):
    from train import config_from_args
    config = config_from_args(['--data', make_dataset(tmp_path / 'a.zip'), '--cfg=tiny', '--gpus=2', '--batch=8', '--device=cpu'])
    one = estimate.of_one_process(config)
    assert (one['gpus'], one['batch'], one['batch_gpu']) == (1, 4, config['batch_gpu'])


def test_a_killed_measurement_is_one_sentence(monkeypatch):
    monkeypatch.setattr(estimate, 'measure', os._exit)
    with pytest.raises(click.ClickException, match='was killed, most likely because memory ran out: give a smaller --batch'):
        estimate.measure_apart(9)


def test_who_measures_ends_with_the_command():
    """Which a signal ended, or memory that ran out."""
    code = 'import time; from loss_zoo import estimate; estimate.measure = time.sleep; estimate.measure_apart(600)'
    process = psutil.Popen([sys.executable, '-c', code], cwd=ROOT)
    while not (found := [child for child in process.children() if 'spawn_main' in ' '.join(child.cmdline())]):
        time.sleep(0.1)
        assert process.poll() is None
    process.kill()
    process.wait()
    try:
        found[0].wait(60)
    except psutil.TimeoutExpired:
        found[0].kill()
        raise


def test_options_are_those_of_training(tmp_path):
    result = CliRunner().invoke(command.group, ['estimate', '--outdir', str(tmp_path), '--data=none.zip'])
    assert result.exit_code == 2 and 'none.zip' in result.output
    result = CliRunner().invoke(command.group, ['estimate', '--data=none.zip'])
    assert result.exit_code == 2 and '--outdir' in result.output


def test_a_dry_run_says_who_measures(tmp_path):
    import train
    data = make_dataset(tmp_path / 'a.zip', num=8)
    result = CliRunner().invoke(train.main, ['--outdir', str(tmp_path), '--data', data, '--cfg=tiny', '--device=cpu',
                                             '--metrics=none', '--dry-run'])
    assert result.exit_code == 0 and 'loss-zoo estimate, with the same options, measures it' in result.output
