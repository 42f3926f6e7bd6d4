"""Whole tiny runs in forked processes, which start in no time, so that they can be killed often."""
import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny import make_config

import training.run.ticks
from torch_utils import training_stats
from torch_utils.state_file import load_state
from training.run.launch import train_process
from training.run.states import saved_states

with contextlib.suppress(ImportError):
    import torch.utils.tensorboard  # noqa: F401 (Here, so that no forked process has to.)

NOT_REPRODUCIBLE = ('Timing/', 'Resources/', 'timestamp')


def run_config(data, run_dir, **changes):
    """20 iterations of four images; a tick of three iterations, a snapshot and a state in each."""
    Path(run_dir).mkdir(exist_ok=True)
    config = dict(run_dir=str(run_dir), kimg=0.08, tick=0.012, snap=1,
                  data_loader_kwargs=dict(num_workers=0))
    return make_config(data, res=8, **{**config, **changes})


def start(config, prepare=lambda: None, **services):
    """Forks a process that trains; returns its id. Status 0: finished, 1: failed.
    It prints into `out.txt`."""
    training_stats.reset()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = open(Path(config['run_dir']).parent / 'out.txt', 'a', buffering=1)   # noqa: SIM115
        training.run.ticks.grid_size = lambda *args: (4, 2)
        prepare()
        train_process(0, config, **services)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(config, prepare=lambda: None, **services):
    """Trains in a forked process; returns the exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(start(config, prepare, **services), 0)[1])


def kill_after(config, seconds):
    """Trains in a forked process and kills it after so long; False if it had finished before."""
    pid = start(config)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, Path(config['run_dir']).parent.joinpath('out.txt').read_text()[-3000:]
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def printed(config):
    """Everything that the runs beside this one have printed."""
    return Path(config['run_dir']).parent.joinpath('out.txt').read_text()


def final_state(config):
    """What the newest state says of networks, optimizers, averages, and of each rank."""
    state, meta = load_state(saved_states(config['run_dir'])[0])
    assert meta['finished']
    return dict(run=state['run'], ranks=state['ranks'])


def reproducible(rows):
    """Rows of stats.jsonl without times and memory."""
    return [{name: value for name, value in row.items() if not name.startswith(NOT_REPRODUCIBLE)}
            for row in rows]
