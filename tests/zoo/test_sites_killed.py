"""Processes of both sides of TDGAN between sites that are
killed again and again, and end where an undisturbed run ends.

SITES_KILLS=100 kills so often instead of 3 times; SITES_SEED=1 kills at other moments than 0.
"""
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from site_runs import newest_state as newest
from tiny import ALL_PHASES, assert_same_bits, make_dataset

from torch_utils.state_file import load_state

ROOT = Path(__file__).parents[2]
NUM_KILLS = int(os.environ.get('SITES_KILLS', '3'))
SEED = int(os.environ.get('SITES_SEED', '0'))
TICK = 0.024                        # kimg, of 3 iterations.
KIMG = TICK * (NUM_KILLS + 3)       # A state each tick, and a kill after each of them.
OPTIONS = ['--reg_type=tdgan', '--cfg=tiny', *ALL_PHASES, '--cbase=64', '--cmax=4', '--batch=8', '--device=cpu',
           '--metrics=none', '--log=none', '--workers=0', f'--tick={TICK:g}', '--snap=1',
           f'--tdgan_schedule=0:{KIMG / 2:g},0+1:{KIMG / 2:g}']


class Killed:
    """All processes of a run between sites; they are started again whenever they end."""

    def __init__(self, commands, folder):
        self.commands, self.folder, self.processes, self.done = commands, folder, {}, set()
        for name in commands:
            self.start(name)

    def start(self, name):
        with open(self.folder / f'{name}.txt', 'a') as log:
            self.processes[name] = subprocess.Popen([sys.executable, *self.commands[name]], cwd=ROOT, stdout=log, stderr=log,
                                                    env={**os.environ, 'OMP_NUM_THREADS': '1'})

    def look(self):
        """Starts those again that have ended before the run was over."""
        for name, process in self.processes.items():
            if name not in self.done and process.poll() is not None:
                if process.returncode == 0:
                    self.done.add(name)
                else:
                    self.start(name)
        return len(self.done) == len(self.processes)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(name)

    def close(self):
        for process in self.processes.values():
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_run_whose_processes_are_killed_ends_where_an_undisturbed_one_ends(tmp_path):
    data = [make_dataset(tmp_path / f'{name}.zip', num=num, seed=num) for name, num in (('a', 24), ('b', 12))]
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    subprocess.run([sys.executable, 'train.py', f'--outdir={tmp_path / "local"}', *OPTIONS, f'--tdgan_data={",".join(data)}'],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    commands = {'generator': [
        'train.py', f'--outdir={tmp_path / "remote"}', *OPTIONS, '--tdgan_mode=remote', '--tdgan_centres=a,b',
        f'--tdgan_listen=localhost:{port}', '--tdgan_insecure=1', '--tdgan_res=16']}
    for name, path in zip('ab', data):
        commands[name] = ['tdgan_centre.py', f'--data={path}', f'--private={tmp_path / name}', f'--connect=localhost:{port}',
                          f'--name={name}', '--insecure', '--device=cpu']
    run, rng, last, num = Killed(commands, tmp_path), random.Random(SEED), 8, 0
    try:
        while not run.look():
            time.sleep(0.2)
            nimg, _ = newest(tmp_path / 'remote')
            if num < NUM_KILLS and nimg > last and not run.done:
                time.sleep(rng.uniform(0, 2))
                run.kill(rng.choice([*commands]))
                last, num = nimg, num + 1
    finally:
        run.close()
    assert num == NUM_KILLS
    local, remote = (load_state(newest(tmp_path / kind)[1])[0]['run'] for kind in ('local', 'remote'))
    for name in ('G', 'G_ema', 'frozen', 'nimg', 'batch_idx'):
        assert_same_bits({name: (remote['players'] if name == 'G' else remote)[name]},
                         {name: (local['players'] if name == 'G' else local)[name]})
    for index, name in enumerate('ab'):
        critics = load_state(newest(tmp_path / name)[1])[0]['critics']
        assert_same_bits(critics, {critic: local['players'][critic] for critic in ('D', 'D_1')[index:index + 1]})
