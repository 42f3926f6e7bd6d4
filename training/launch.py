"""What each process of a training run does: log, device, build, restore, train."""
import re
import signal
import sys
from pathlib import Path

import torch

import dnnlib
from torch_utils import distributed, misc, training_stats
from torch_utils.state_file import load_state
from training import setup
from training.ticks import Ticks
from training.training_loop import training_loop


def train_process(rank: int, config: dict) -> None:
    """Runs on every rank, with the process group up."""
    config = distributed.broadcast_object(config)       # Under torchrun every rank made its own; one run has one.
    run_dir = Path(config['run_dir'])
    with dnnlib.util.Logger(run_dir / 'log.txt', file_mode='a'):
        device = distributed.pick_device(config['device'])
        training_stats.init_multiprocessing(rank, device if distributed.world_size() > 1 else None)
        run = setup.build(config, device)
        state_file = newest_state(run_dir)
        if state_file is not None:
            load_run(run, state_file)
        elif config.get('resume_pkl'):
            load_weights(run, config['resume_pkl'])
        if rank == 0 and state_file is None:
            print_networks(run)
        training_loop(run, Ticks(config, run_dir, device, stop_on_signals(), resumed=state_file is not None))


def newest_state(run_dir: Path) -> Path | None:
    """The state that a run was last saved in, or None."""
    found = [(int(match[1]), path) for path in run_dir.iterdir()
             if (match := re.fullmatch(r'training-state-(\d+)\.safetensors', path.name))]
    return max(found)[1] if found else None


def load_run(run: setup.Run, path: Path) -> None:
    """Puts a run where it was when `path` was written."""
    state, meta = load_state(path)
    if distributed.rank() == 0:
        print(f'Continuing from {path} at {meta["nimg"] / 1000:.1f} kimg.')
    if len(state['ranks']) != distributed.world_size():
        if distributed.rank() == 0:
            print(f'The run had {len(state["ranks"])} processes, now it has {distributed.world_size()}: it goes on, '
                  'but not bit for bit as it would have.')
        state['ranks'] = [state['ranks'][0]] * distributed.world_size()
    run.load_state_dict(state['run'], state['ranks'][distributed.rank()])


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
