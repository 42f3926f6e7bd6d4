"""Pulling the plug: a run that is killed, however often and wherever,
ends with the bits of one that was not."""
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import final_state, finish, kill_after, printed, reproducible, run_config, start
from tiny import assert_same_bits

import torch_utils.checkpoint
from torch_utils.state_file import load_meta
from training.run.launch import stop_on_signals
from training.run.states import saved_states


def rows(config):
    return [json.loads(line) for line in Path(config['run_dir'], 'stats.jsonl').read_text().splitlines()]


def assert_same_run(config, expected):
    assert_same_bits(final_state(config), final_state(expected))
    assert reproducible(rows(config)) == reproducible(rows(expected))
    assert not list(Path(config['run_dir']).glob('.*.tmp'))


def kill_at_random(data, undisturbed, folder, num_kills, seed):
    """Kills runs again and again until there were so many kills; each must end as the undisturbed one."""
    rng = random.Random(seed)
    kills = runs = 0
    while kills < num_kills:
        runs += 1
        config = run_config(data, folder / f'run{runs}')
        while kills < num_kills and kill_after(config, rng.uniform(0, 1.5)):
            kills += 1
        assert finish(config) == 0, printed(config)[-3000:]
        assert_same_run(config, undisturbed)
    print(f'{kills} kills in {runs} runs')


def test_a_few_random_kills(data, undisturbed, tmp_path):
    kill_at_random(data, undisturbed, tmp_path, num_kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills(data, undisturbed, tmp_path):
    kill_at_random(data, undisturbed, tmp_path, num_kills=100, seed=1)


@pytest.mark.parametrize('function, call', [
    ('fsync', 3), ('replace', 4), ('unlink', 3), *(pytest.param(function, call, marks=pytest.mark.slow)
                                                   for function in ('fsync', 'replace')
                                                   for call in (5, 6, 7, 8, 9, 10))])
def test_a_kill_in_the_middle_of_saving(data, undisturbed, tmp_path, function, call):
    """At one of the first syncs, renames or removals, before it takes place:
    of snapshots as well as states."""
    config = run_config(data, tmp_path / 'run')

    def prepare():
        real, calls = getattr(os, function), []

        def deadly(*args, **kwargs):
            calls.append(args)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(torch_utils.checkpoint.os, function, deadly)

    assert finish(config, prepare) == -signal.SIGKILL
    assert finish(config) == 0, printed(config)[-3000:]
    assert_same_run(config, undisturbed)


@pytest.mark.parametrize('name', ['SIGUSR1', *(pytest.param(name, marks=pytest.mark.slow)
                                              for name in ('SIGINT', 'SIGTERM'))])
def test_a_signal_lets_it_save(data, undisturbed, tmp_path, name):
    config = run_config(data, tmp_path / 'run')

    def prepare():
        import training.training_loop
        real = training.training_loop.run_iteration

        def signalled(run, ticks):
            if run.batch_idx == 4:          # In the middle of a tick.
                os.kill(os.getpid(), getattr(signal, name))
            real(run, ticks)

        training.training_loop.run_iteration = signalled

    assert finish(config, prepare) == 0, printed(config)[-3000:]
    meta = load_meta(saved_states(config['run_dir'])[0])
    assert meta['nimg'] == 20 and not meta['finished']
    assert len(rows(config)) == 2           # Of the ticks that have ended.
    assert finish(config) == 0
    assert_same_run(config, undisturbed)


@pytest.mark.parametrize('interval', [1, pytest.param(3, marks=pytest.mark.slow)])
def test_stops_inside_ticks_leave_no_trace_in_the_statistics(data, tmp_path, interval):
    """Stopped after every second iteration, once where a tick ends anyway."""
    configs = [run_config(data, tmp_path / name, kimg=0.044, tick=0.02) for name in ('stopped', 'whole')]
    assert finish(configs[1]) == 0, printed(configs[1])[-3000:]

    def prepare():
        import training.run.ticks
        started = []

        def wants_stop(self, run, real=training.run.ticks.Ticks.after_iteration):
            started.append(run.nimg)
            self.wants_stop = lambda: len(started) > interval
            real(self, run)

        training.run.ticks.Ticks.after_iteration = wants_stop

    while not any(load_meta(path)['finished'] for path in saved_states(configs[0]['run_dir'])):
        assert finish(configs[0], prepare) == 0, printed(configs[0])[-3000:]
    assert_same_run(*configs)


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGHUP'])
def test_each_signal_that_the_pages_name_asks_for_a_stop(name):
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))
    assert f'{name}' in Path(__file__).parents[2].joinpath('docs/reliability.md').read_text().split('## Stopping')[1]
    try:
        signal.signal(number, signal.SIG_IGN)           # As nohup does it with SIGHUP.
        asked = stop_on_signals()
        os.kill(os.getpid(), number)
        assert not asked()
        signal.signal(number, signal.SIG_DFL)
        asked = stop_on_signals()
        os.kill(os.getpid(), number)
        assert asked() and signal.getsignal(number) == signal.SIG_DFL       # The next one ends the process.
    finally:
        signal.signal(number, before)


def test_a_second_signal_ends_it_at_once(data, tmp_path):
    config = run_config(data, tmp_path / 'run')

    def prepare():
        import training.training_loop

        def signalled_twice(run, ticks):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        training.training_loop.run_iteration = signalled_twice

    assert finish(config, prepare) == -signal.SIGTERM
    assert not saved_states(config['run_dir'])


def test_children_of_this_test_do_not_outlive_it(data, tmp_path):
    """The helper itself: a killed run is really gone."""
    pid = start(run_config(data, tmp_path / 'run'))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


CRASH = """
import sys
import torch
from training.dataset import ImageFolderDataset
from training.data.stages import RealStream
stream = RealStream(ImageFolderDataset(path=sys.argv[1]), 4, 0, 1, 0, dict(num_workers=1), torch.device('cpu'))
stream.next_batch()
raise RuntimeError('something unforeseen')
"""


def test_an_error_ends_the_workers_that_load_images_too(data):
    done = subprocess.run([sys.executable, '-c', CRASH, data], capture_output=True, text=True, timeout=600,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == 'RuntimeError: something unforeseen'


def test_what_a_kill_before_the_removal_left_goes_at_the_next_start(data, tmp_path):
    """Of three states at most two are kept; the run is killed when the third is there,
    and once more right after its start."""
    config = run_config(data, tmp_path / 'run')

    def no_removal():
        import training.run.states
        training.run.states.prune = lambda *args: len(saved_states(config['run_dir'])) < 3 or os.kill(os.getpid(), signal.SIGKILL)

    def no_training():
        import training.training_loop
        training.training_loop.run_iteration = lambda run, ticks: os.kill(os.getpid(), signal.SIGKILL)

    assert finish(config, no_removal) == -signal.SIGKILL and len(saved_states(config['run_dir'])) == 3
    Path(config['run_dir'], '.fakes000000.png.77.tmp').touch()
    assert finish(config, no_training) == -signal.SIGKILL
    assert len(saved_states(config['run_dir'])) == 2 and not list(Path(config['run_dir']).glob('.*.tmp'))
