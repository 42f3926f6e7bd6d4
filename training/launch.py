"""What each process of a training run does: log, device, build, restore, train."""
import os
import signal
import sys

import torch

import dnnlib
from torch_utils import distributed, misc, training_stats
from training import setup
from training.ticks import Ticks
from training.training_loop import training_loop


def train_process(rank: int, config: dict) -> None:
    """Runs on every rank, with the process group up."""
    with dnnlib.util.Logger(os.path.join(config['run_dir'], 'log.txt'), file_mode='a'):
        device = distributed.pick_device(config['device'])
        training_stats.init_multiprocessing(rank, device if distributed.world_size() > 1 else None)
        run = setup.build(config, device)
        if config.get('resume_pkl'):
            load_weights(run, config['resume_pkl'])
        if rank == 0:
            print_networks(run)
        training_loop(run, Ticks(config, config['run_dir'], device, stop_on_signals()))


def load_weights(run: setup.Run, source: str) -> None:
    """Starts from the weights in a network file or URL."""
    import legacy
    networks = {}
    if distributed.rank() == 0:
        print(f'Starting from {source}')
        with dnnlib.util.open_url(source) as file:
            networks = legacy.load_network_pkl(file)
    setup.init_from(run, networks)


def print_networks(run: setup.Run) -> None:
    """Tables of the layers of G and D."""
    G, D = run.game.G.module, run.game.D.module
    z = torch.zeros([run.batch_gpu, G.z_dim], device=run.device)
    c = torch.zeros([run.batch_gpu, G.c_dim], device=run.device)
    img = misc.print_module_summary(G, [z, c])
    misc.print_module_summary(D, [img, torch.zeros([run.batch_gpu, D.c_dim], device=run.device)])


def stop_on_signals():
    """Makes the first SIGINT or SIGTERM a request to stop after this iteration; returns how to ask for it.

    A second signal ends the process at once.
    """
    asked = []

    def ask(number, frame):
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)
        print('\nStopping after this iteration; once more to stop at once.', file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return lambda: bool(asked)
