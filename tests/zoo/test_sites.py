"""TDGAN between sites: processes of their own for the centres, over gRPC and mutual TLS on this machine.

What is trained is compared, bit by bit, with a run that has all centres in one process.
"""
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import Silent, assert_same_bits, make_dataset

import train
from losses_ext.sites import hub as hubs
from torch_utils import training_stats
from torch_utils.state_file import load_state
from torch_utils.wire import certificates
from training import setup
from training.run import states
from training.training_loop import training_loop

ROOT = Path(__file__).parents[2]
NAMES = ('north', 'south')
BASE = ['--outdir=unused', '--reg_type=tdgan', '--cfg=tiny', '--cbase=64', '--cmax=4', '--batch=8', '--device=cpu',
        '--metrics=none', '--log=none', '--map-depth=2', '--workers=0']


class Sites:
    """The centres' processes, and what both kinds of runs are asked for."""

    def __init__(self, folder, num_classes=0):
        self.folder, self.num_classes, self.processes = folder, num_classes, {}
        self.data = [make_dataset(folder / f'{name}.zip', num=num, num_classes=num_classes, seed=i)
                     for i, (name, num) in enumerate(zip(NAMES, (24, 12)))]
        self.certificates = {path.name: path for path in certificates.make_authority(folder / 'certs', 'generator', ['localhost'],
                                                                                     NAMES)}
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            self.port = probe.getsockname()[1]
        for name in NAMES:
            self.start(name)

    def start(self, name):
        """The process of a centre."""
        index = NAMES.index(name)
        args = [self.port, name, self.data[index], self.folder / f'private-{name}', self.certificates[name],
                self.folder / f'wire-{name}']
        self.processes[name] = subprocess.Popen(
            [sys.executable, ROOT / 'tests/zoo/site_worker.py', *map(str, args)], cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})

    def config(self, remote, *args):
        """Of a run with these options."""
        labels = [f'--tdgan_labels={self.num_classes}'] * (remote and self.num_classes > 0)
        where = [f'--tdgan_data={",".join(self.data)}'] if not remote else [
            '--tdgan_mode=remote', f'--tdgan_centres={",".join(NAMES)}', f'--tdgan_listen=localhost:{self.port}',
            f'--tdgan_tls={self.certificates["generator"]}', '--tdgan_res=16', '--tdgan_patience=60', *labels]
        cond = ['--cond=1'] * (self.num_classes > 0)
        run_dir = self.folder / 'run'
        run_dir.mkdir(exist_ok=True)
        (run_dir / 'sites-run').unlink(missing_ok=True)
        return {**train.config_from_args([*BASE, *cond, *args, *where]), 'run_dir': run_dir}

    def critics(self, run):
        """{name: state} of the critics of the last stage, as their centres have saved them."""
        name, found = (self.folder / 'run/sites-run').read_text(), {}
        for centre in run.stage.sources:
            state, _ = load_state(states.state_path(self.folder / f'private-{NAMES[centre.index]}' / name, run.nimg))
            found |= state['critics']
        return found

    def train(self, remote, *args):
        """(run, statistics) at the end."""
        training_stats.reset()
        run = setup.build(self.config(remote, *args), torch.device('cpu'))
        collector = training_stats.Collector('(Loss|Progress)/.*')
        try:
            training_loop(run, Silent(10 ** 9))
            collector.update()
            for regularizer in run.game.having('before_save'):
                regularizer.before_save(run.nimg)
        finally:
            for hub in list(hubs.HUBS.values()):
                hub.close()
            hubs.HUBS.clear()
        return run, collector.as_dict()

    def close(self):
        """Ends what this has started."""
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope='module')
def sites(tmp_path_factory):
    found = Sites(tmp_path_factory.mktemp('sites'))
    yield found
    found.close()


def assert_equal_runs(sites, *args):
    """Both kinds of runs end with the same bits and statistics."""
    local, here = sites.train(False, *args)
    remote, apart = sites.train(True, *args)
    assert remote.nimg == local.nimg > 0
    assert_same_bits(remote.game.G.state_dict(), local.game.G.state_dict())
    assert_same_bits(remote.G_ema.state_dict(), local.G_ema.state_dict())
    assert_same_bits({name: G.state_dict() for name, G in remote.game.frozen.items()},
                     {name: G.state_dict() for name, G in local.game.frozen.items()})
    on_line = {critic.name: critic.state_dict() for source in range(len(local.stage.sources))
               for critic in local.game.critics_of(source)}
    assert_same_bits(sites.critics(remote), on_line)
    assert apart == here
    return remote


@pytest.mark.parametrize('args', [
    ['--tdgan_schedule=0:0.032'],
    ['--tdgan_schedule=0:0.016,0+1:0.016,1:0.016,0:0.016', '--tdgan_d=keep', '--batch-gpu=4', '--ada-kimg=0.1',
     '--r1_interval=2'],
], ids=['one centre', 'on line together, in turn, and back again'])
def test_a_run_between_sites_is_the_local_run_bit_for_bit(sites, args):
    assert_equal_runs(sites, *args)
