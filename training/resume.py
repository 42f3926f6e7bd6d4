"""What it takes to continue a run: its configuration compared with the one asked for, and the lock on its directory.

Imports no torch, so that a refusal comes at once.
"""
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:         # Windows: there is no lock.
    fcntl = None

OPTIONS_FILE = 'training_options.json'
LOCK_FILE = '.lock'

# What may differ without making it another run: when to look and save, how to load, where to compute, how long.
HARMLESS = ('image_snapshot_ticks', 'network_snapshot_ticks', 'metrics', 'keep', 'logs', 'kimg_per_tick',
            'data_loader_kwargs', 'device', 'ops', 'num_gpus', 'cudnn_benchmark', 'total_kimg', 'held_out')
NOT_COMPARED = ('run_dir', 'command', 'data_paths')
PLACES = ('path', 'data')           # Entries of these names, wherever they are: data sets are compared by fingerprint.

# The classes that a configuration names. It is a file, perhaps a stranger's: no other class is looked up.
CLASSES = ('training.dataset.ImageFolderDataset', 'training.networks.Generator', 'training.networks.Discriminator',
           'training.augment.AugmentPipe', 'training.diffaugment.DiffAugment', 'torch.optim.Adam')

# What every configuration has, and of which type.
KINDS = {
    **dict.fromkeys(('command', 'data_shape', 'G_kwargs', 'D_kwargs', 'G_opt_kwargs', 'D_opt_kwargs', 'loss_kwargs',
                     'regularizers', 'data_loader_kwargs', 'keep'), dict),
    **dict.fromkeys(('data_paths', 'data_fingerprints', 'metrics'), list),
    **dict.fromkeys(('num_gpus', 'random_seed', 'batch_size', 'batch_gpu'), int),
    **dict.fromkeys(('total_kimg', 'kimg_per_tick'), int | float),
    **dict.fromkeys(('loss', 'device'), str),
}


class BusyError(Exception):
    """Another process trains in the directory; the text is for users."""


def saved_options(run_dir: str | os.PathLike) -> dict[str, Any]:
    """The configuration of a run. Raises ValueError with a sentence for people if the directory is none of a run."""
    path = Path(run_dir, OPTIONS_FILE)
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{run_dir} is not the directory of a run: {OPTIONS_FILE} cannot be read ({error})') from error
    problem = _problem_of(config)
    if problem:
        raise ValueError(f'{path} was not written by this program: {problem}')
    return config


def _problem_of(config: Any) -> str | None:
    """What a configuration of this program would not say, None if there is nothing."""
    if not isinstance(config, dict):
        return 'it holds no configuration'
    foreign = [f'{name}={value}' for name, value in _leaves(config) if name.endswith('class_name') and value not in CLASSES]
    if foreign:
        return f'{foreign[0]} is none of its classes'
    wrong = [name for name, kind in KINDS.items() if not isinstance(config.get(name), kind)]
    return f'{wrong[0]} is missing or of a wrong type' if wrong else None


def write_options(config: dict[str, Any]) -> None:
    """Writes the configuration into the run's directory, complete or not at all."""
    path = Path(config['run_dir'], OPTIONS_FILE)
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(json.dumps(config, indent=2), encoding='utf-8')
    partial.replace(path)


def differences(saved: dict[str, Any], asked: dict[str, Any]) -> dict[str, str]:
    """{entry: 'saved -> asked'} of all that makes it another run, nested entries with dots."""
    saved, asked = dict(_leaves(saved)), dict(_leaves(json.loads(json.dumps(asked))))
    return {name: f'{saved.get(name, "(none)")} -> {asked.get(name, "(none)")}'
            for name in sorted({**saved, **asked}) if saved.get(name) != asked.get(name) and _matters(name)}


def _matters(name: str) -> bool:
    first, last = name.split('.')[0], name.split('.')[-1]
    return first not in (*HARMLESS, *NOT_COMPARED) and last not in PLACES


def _leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f'{name}.{key}' if name else key)


def in_words(changes: dict[str, str]) -> str:
    """The differences as part of a sentence."""
    return '; '.join(f'{name}: {change}' for name, change in changes.items())


@contextmanager
def locked(run_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in the directory.

    The lock is the operating system's and this process's alone: its children do not inherit it, and however the process
    ends, it is free at once. Raises BusyError.
    """
    with open(Path(run_dir, LOCK_FILE), 'a+', encoding='utf-8') as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise BusyError(f'{run_dir}: another process trains in this directory ({file.read().strip()}); wait '
                                'for it, stop it, or start another run with --new') from None
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield
