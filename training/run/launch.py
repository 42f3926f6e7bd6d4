"""What each process of a training run does: log, device, build, restore, train."""
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import click
import torch

import dnnlib
from dnnlib import writing
from torch_utils import distributed, misc, training_stats
from torch_utils.allocator import keep_freed_memory
from torch_utils.checkpoint import CheckpointError
from training import setup
from training.data.stages import STOP_SIGNALS, OutOfImagesError
from training.data.storage import DatasetError
from training.run import states
from training.run.health import CannotGoOn, Diverged, GoBack, not_finite
from training.run.run_files import problem_of_state
from training.run.ticks import Ticks
from training.training_loop import training_loop

MAX_ROLLBACKS = 1
STATE_FACTOR = 5  # A state (weights, two moments each, averages) and a snapshot, in multiples of all weights.


def train_process(rank: int, config: dict, **services: Callable) -> None:
    """Runs on every rank, with the process group up. `services` are further arguments of `Ticks`.

    Raises click.ClickException with one sentence, on all ranks, for what a user can do something about.
    """
    # Under torchrun every rank has made one; that of rank 0 counts.
    config = distributed.broadcast_object(config)
    run_dir = Path(config['run_dir'])
    require_appendable(run_dir / 'stats.jsonl')
    with log_file(run_dir / 'log.txt'):
        device = distributed.pick_device(config['device'])
        keep_freed_memory()
        training_stats.init_multiprocessing(rank, device if distributed.world_size() > 1 else None)
        wants_stop = stop_on_signals()
        try:
            failing = train(config, run_dir, device, wants_stop, services)
        except (CheckpointError, DatasetError, CannotGoOn, states.NoSpaceError) as error:
            raise click.ClickException(str(error)) from error
        if failing:
            raise click.ClickException('training itself went well, but not everything beside it: '
                                       + '; '.join(
                f'{what} failed ({why})' for what, why in failing.items()))


def log_file(path: Path) -> dnnlib.util.Logger:
    """Copies what is printed from now on."""
    require_appendable(path)
    return dnnlib.util.Logger(path, file_mode='a')


def require_appendable(path: Path) -> None:
    """Refuses a file of the run that cannot be written."""
    try:
        with writing.append(path):
            pass
    except OSError as error:
        raise click.ClickException(f'{path} cannot be written ({error.strerror}): make it a file that can, or remove it'
                                   ) from error


def train(config: dict, run_dir: Path, device: torch.device, wants_stop: Callable,
          services: Mapping[str, Callable]) -> dict:
    """Trains to the end or until asked to stop; a run that diverges goes back to its last state, once.

    Returns the services that did not work in the end, {what: why}.
    """
    rollbacks = 0
    while True:
        run, ticks_state = start_or_continue(config, run_dir, device, rollbacks)
        ticks = Ticks(config, run_dir, device, wants_stop, ticks_state, **services)
        try:
            training_loop(run, ticks)
        except Diverged as error:
            if run.rollbacks >= MAX_ROLLBACKS:
                raise click.ClickException(
                    f'the run diverges at {run.nimg / 1000:.1f} kimg, again: {error}. {whether_sound(run_dir)} '
                    'Likely cures: --precision=fp32 (or bf16), a larger --gamma, another --seed.') from error
            rollbacks = run.rollbacks + 1
            if distributed.rank() == 0:
                print(f'The run diverges at {run.nimg / 1000:.1f} kimg: {error}. {where_to_go_on(run_dir)}, with the '
                      'training images in another order.', flush=True)
            ticks.end(run)
            continue
        except GoBack as error:
            if distributed.rank() == 0:
                print(f'At {run.nimg / 1000:.1f} kimg: {error}. {where_to_go_on(run_dir)}.', flush=True)
            ticks.end(run)
            rollbacks = run.rollbacks
            continue
        except OutOfImagesError:
            save_before_exit(run, ticks)
            raise
        return distributed.broadcast_object(ticks.services.failing)


def save_before_exit(run: setup.Run, ticks: Ticks) -> None:
    """Saves a run that cannot go on for want of images, on all ranks alike."""
    with suppress(Diverged):
        ticks.stop(run)
    ticks.end(run)
    if run.nimg > 0 and distributed.rank() == 0:
        print(f'Saved at {run.nimg / 1000:.1f} kimg; the same command continues.', flush=True)


def where_to_go_on(run_dir: Path) -> str:
    """What a run does that has diverged."""
    return 'Going back to the last saved state' if states.saved_states(run_dir) else 'No state is saved: starting anew'


def whether_sound(run_dir: Path) -> str:
    """What is left of a run that has diverged for good: states are checked before they are saved."""
    return 'The saved states are sound.' if states.saved_states(run_dir) else 'No state is saved.'


def start_or_continue(
    config: dict, run_dir: Path, device: torch.device, rollbacks: int,
) -> tuple[setup.Run, dict | None]:
    """(the run, at its start or as it was last saved; the saved state of its `Ticks`, None at the start)."""
    run = setup.build(config, device)
    is_main = distributed.rank() == 0
    if is_main:
        states.sweep(run_dir)
        weights = sum(states.num_bytes(player.module.state_dict()) for player in run.game.players)
        states.require_space(run_dir, STATE_FACTOR * weights, 'this run')
    loaded = {}

    def apply(state, meta):
        if problem := problem_of_state(state, meta, len(run.stages)):
            raise ValueError(problem)
        here, there = distributed.world_size(), len(state['ranks'])
        run.load_state_dict(state['run'], state['ranks'][distributed.rank() if here == there else 0])
        loaded.update(ticks=state['ticks'], num_ranks=there)
        if bad := not_finite({**run.state_dict(), **run.local_state_dict()}):
            raise ValueError(f'{bad[0]} is not finite')

    meta = states.restore_newest(run_dir, apply)
    if meta is not None:
        if is_main:
            print(f'Continuing at {run.nimg / 1000:.1f} kimg.')
        if is_main and loaded['num_ranks'] != distributed.world_size():
            print(f'The run had {loaded["num_ranks"]} processes, now it has {distributed.world_size()}: it goes on, '
                  'but not bit for bit as it would have.')
    elif config.get('init_from'):
        load_weights(run, config['init_from'], config['allow_partial'])
    elif config.get('resume_pkl'):
        load_weights(run, config['resume_pkl'])
    if meta is None and is_main:
        print_networks(run)
    if rollbacks:
        run.rollbacks, run.reals = rollbacks, None
    return run, loaded.get('ticks')


def load_weights(run: setup.Run, network: str, allow_partial: bool = False) -> None:
    """Starts from the weights in a network file, URL or run directory."""
    from torch_utils.network_file import load_network
    networks = {}
    if distributed.rank() == 0:
        print(f'Starting from {network}')
        try:
            networks = load_network(network)
        except (CheckpointError, OSError) as error:
            raise click.ClickException(f'{network} cannot be started from: {error}') from error
    try:
        setup.init_from(run, networks, allow_partial)
    except ValueError as error:
        raise click.ClickException(f'{network} does not fit the networks of this run: {error}; --init-from={network} '
                                   'takes their architecture from the file') from error


def print_networks(run: setup.Run) -> None:
    """Tables of the layers of G and D."""
    G, D = run.game.G.module, run.game.D.module
    z = torch.zeros([run.batch_gpu, G.z_dim], device=run.device)
    c = torch.zeros([run.batch_gpu, G.c_dim], device=run.device)
    img = misc.print_module_summary(G, [z, c])
    if run.game.D.is_here:
        misc.print_module_summary(D, [img, torch.zeros([run.batch_gpu, D.c_dim], device=run.device)])


def stop_on_signals() -> Callable[[], bool]:
    """Makes the first of STOP_SIGNALS a request to save and stop after this iteration; returns how to ask.

    A second one of the same kind ends the process at once. Only the main thread of a program hears signals.
    """
    asked = []
    if threading.current_thread() is not threading.main_thread():
        return lambda: False

    def ask(number, frame):
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)
        print('\nSaving and stopping after this iteration; once more to stop at once.', file=sys.stderr,
              flush=True)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:          # nohup has SIGHUP ignored; that stays so.
            signal.signal(number, ask)
    return lambda: bool(asked)
