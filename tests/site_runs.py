"""Runs of TDGAN between sites for tests: centres in
processes of their own, the generator's site in this one."""
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import torch
from tiny import ALL_PHASES, Silent, assert_same_bits, make_dataset

import train
from losses_ext.sites import hub as hubs
from torch_utils import training_stats
from torch_utils.state_file import load_state
from torch_utils.wire import certificates
from training import setup
from training.run import states
from training.training_loop import training_loop

ROOT = Path(__file__).parents[1]
NAMES = ('north', 'south')
NUM_CLASSES = 3
BASE = ['--outdir=unused', '--reg_type=tdgan', '--cfg=tiny', *ALL_PHASES, '--cbase=64', '--cmax=4', '--batch=8', '--device=cpu',
        '--metrics=none', '--log=none', '--map-depth=2', '--workers=0']


def newest_state(folder):
    """(images, file) of the newest state of the run in a directory."""
    found = {int(re.search(r'(\d+)\.safetensors', path.name)[1]): path for path in folder.glob('*/training-state-*.safetensors')}
    return max(found.items(), default=(0, None))


class Sites:
    """The centres' processes, and what both kinds of runs are asked for."""

    def __init__(self, folder, secure=True, start=True):
        self.folder, self.secure, self.processes = folder, secure, {}
        self.data = [make_dataset(folder / f'{name}.zip', num=num, num_classes=NUM_CLASSES, seed=i)
                     for i, (name, num) in enumerate(zip(NAMES, (24, 12)))]
        self.certificates = {path.name: path for path in certificates.make_authority(folder / 'certs', 'generator', ['localhost'],
                                                                                     NAMES)}
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            self.port = probe.getsockname()[1]
        for name in NAMES * start:
            self.start(name)

    def start(self, name, port=None):
        """The process of a centre, which connects to the
        generator's site, or to whoever is at another port."""
        index = NAMES.index(name)
        args = [port or self.port, name, self.data[index], self.folder / f'private-{name}',
                self.certificates[name] if self.secure else '', self.folder / f'wire-{name}']
        self.processes[name] = subprocess.Popen(
            [sys.executable, ROOT / 'tests/zoo/site_worker.py', *map(str, args)], cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})

    def config(self, remote, *args):
        """Of a run with these options."""
        labels = [f'--tdgan_labels={NUM_CLASSES}'] * ('--cond=1' in args)
        where = [f'--tdgan_data={",".join(self.data)}'] if not remote else [
            '--tdgan_mode=remote', f'--tdgan_centres={",".join(NAMES)}', f'--tdgan_listen=localhost:{self.port}',
            f'--tdgan_tls={self.certificates["generator"]}' if self.secure else '--tdgan_insecure=1', '--tdgan_res=16',
            '--tdgan_patience=900', *labels]
        run_dir = self.folder / 'run'
        run_dir.mkdir(exist_ok=True)
        (run_dir / 'sites-run').unlink(missing_ok=True)
        return {**train.config_from_args([*BASE, *args, *where]), 'run_dir': run_dir}

    def critics(self, run):
        """{name: state} of the critics of the last stage, as their centres have saved them."""
        name, found = (self.folder / 'run/sites-run').read_text(), {}
        for centre in run.stage.sources:
            state, _ = load_state(states.state_path(self.folder / f'private-{NAMES[centre.index]}' / name, run.nimg))
            found |= state['critics']
        return found

    def end(self, name):
        """Kills a centre."""
        self.processes[name].kill()
        self.processes[name].wait()

    def train(self, remote, *args, then=lambda run: None):
        """(run, statistics) at the end; `then` is called with the run while centres are still there."""
        training_stats.reset()
        run = setup.build(self.config(remote, *args), torch.device('cpu'))
        collector = training_stats.Collector('(Loss|Progress)/.*')
        try:
            training_loop(run, Silent(10 ** 9))
            collector.update()
            for regularizer in run.game.having('before_save'):
                regularizer.before_save(run.nimg)
            then(run)
        finally:
            for hub in list(hubs.HUBS.values()):
                hub.close()
            hubs.HUBS.clear()
        return run, collector.as_dict()

    def close(self):
        """Ends what this has started."""
        for name in self.processes:
            self.end(name)


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
