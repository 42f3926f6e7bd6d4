"""The option --ops of the scripts: it reaches what computes,
changes no run, and is refused before work is done."""
import pytest
import torch
from network_files import run, write_networks
from tiny import make_config, make_dataset

import calc_metrics
import generate
import projector
import train
from torch_utils.ops import backend
from training import setup
from training.config import run_dirs as resume


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = write_networks(tmp_path_factory.mktemp('networks'))
    make_dataset(folder / 'data.zip', num=24)
    return folder


COMMANDS = [
    (train.main, ['-n', '--outdir={}/runs', '--data={}/data.zip', '--cfg=tiny']),
    (generate.main, ['--outdir={}/out', '--network={}/run', '--seeds=1']),
    (projector.main, ['--outdir={}/out', '--network={}/run', '--target={}/none.png']),
    (calc_metrics.main, ['--network={}/run', '--data={}/data.zip', '--metrics=none', '--nearest={}/nearest.png']),
]


@pytest.mark.parametrize('command, args', COMMANDS)
def test_native_operators_that_cannot_be_had_are_refused(monkeypatch, folder, command, args):
    monkeypatch.setattr(backend, 'load', lambda device: 'no C++ compiler: c++ not found')
    status, output = run(command, *(arg.format(folder) for arg in args), '--device=cpu', '--ops=native')
    output = ' '.join(output.replace('│', ' ').split())
    assert status == 2 and '--ops' in output and 'no compiled operators: no C++ compiler: c++ not found' in output
    assert not (folder / 'runs').exists()


def test_native_operators_are_refused_for_a_precision_that_has_none(monkeypatch, folder):
    args = [arg.format(folder) for arg in COMMANDS[0][1]]
    status, output = run(train.main, *args, '--device=cpu', '--precision=fp16', '--ops=native')
    assert status == 2 and '--ops=native: no compiled operators: there are none for float16 on cpu' in output
    assert run(train.main, *args, '--device=cpu', '--precision=fp16')[0] == 0


def test_scripts_compute_with_what_was_asked_for(monkeypatch, folder):
    args = [arg.format(folder) for arg in COMMANDS[1][1]]
    assert run(generate.main, *args, '--ops=reference')[0] == 0
    assert not backend.use_native('auto', torch.ones(1))


def test_a_rank_that_builds_its_run_computes_with_what_was_asked_for(monkeypatch, folder):
    setup.build(make_config(str(folder / 'data.zip'), ops='reference'), torch.device('cpu'))
    assert not backend.use_native('auto', torch.ones(1))


def test_a_run_can_be_continued_with_other_operators():
    assert resume.differences(dict(ops='auto', seed=1), dict(ops='reference', seed=1)) == {}
