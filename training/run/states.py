"""The saved states of a run directory: writing one, pruning the old ones,
finding the newest that is sound."""
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch_utils import distributed
from torch_utils.checkpoint import CheckpointError
from torch_utils.nested import map_tensors, tensors_in
from torch_utils.state_file import load_meta, load_state, save_state
from training.config.schema import Config, problem_of
from training.run.keep import Keep, Saved
from training.run.run_files import COUNT, problem_of_entries

STATE_NAME = re.compile(r'training-state-(\d+)\.safetensors')
SPARE_BYTES = 2 ** 24       # Left free beside a file that is about to be written.


class NoSpaceError(OSError):
    """A file does not fit on its disk; the text is for users."""


def state_path(run_dir: Path, nimg: int) -> Path:
    """Where the state after `nimg` images lies."""
    return Path(run_dir) / f'training-state-{nimg:09d}.safetensors'


def saved_states(run_dir: Path) -> list[Path]:
    """All states of a run directory, sound or not, the newest first. The order is that of the numbers."""
    found = [(int(match[1]), path) for path in Path(run_dir).iterdir()
             if (match := STATE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def readable_states(run_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(path, meta) of all states whose header can be read, the newest first."""
    for path in saved_states(run_dir):
        try:
            meta = load_meta(path)
        except (CheckpointError, OSError):
            continue
        if problem_of_entries(meta, {'nimg': COUNT}) is None:
            yield path, meta


def options_in_states(run_dir: Path) -> Config | None:
    """The configuration that the newest readable state was saved with, None if no state can be read."""
    for _, meta in readable_states(run_dir):
        if problem_of(meta.get('config')) is None:
            return Config.from_json(meta['config'])
    return None


def images_shown(run_dir: Path) -> int | None:
    """How far the newest readable state is, None if there is none."""
    return next((meta['nimg'] for _, meta in readable_states(run_dir) if isinstance(meta.get('nimg'), int)),
                None)


def write_state(run_dir: Path, state: Any, meta: dict[str, Any], keep: Keep,
                scores: Mapping[int, float] = MappingProxyType({}), ) -> Path:
    """Saves a state, and only then removes those that are not to be kept. `meta` has 'nimg', and is free.

    Raises OSError (NoSpaceError before anything is written); then all that was there before is still there.
    """
    path = state_path(run_dir, meta['nimg'])
    require_space(run_dir, num_bytes(state), path.name)
    save_state(path, state, **meta)
    prune(run_dir, keep, scores)
    return path


def prune(run_dir: Path, keep: Keep, scores: Mapping[int, float] = MappingProxyType({})) -> None:
    """Removes what is not to be kept, and what a killed process left half written. Damaged files stay.

    `scores`: {images shown: score} of all states there have been.
    Runs of before have them in the states themselves.
    """
    found = [(path, Saved(meta['nimg'], scores.get(meta['nimg'], meta.get('score'))))
             for path, meta in readable_states(run_dir)]
    kept = keep.choose((state for _, state in found), scores)
    for path, state in found:
        if state.nimg not in kept:
            path.unlink()
    sweep(run_dir, '.*.safetensors.*.tmp')


def sweep(run_dir: Path, names: str = '.*.tmp') -> None:
    """Removes what killed processes left half written, of files of all kinds or of these names.

    Nobody else may write them now.
    """
    for partial in Path(run_dir).glob(names):
        if partial.is_file() and not partial.is_symlink():
            partial.unlink()


def restore_newest(run_dir: Path, apply: Callable[[Any, dict[str, Any]], None]) -> dict[str, Any] | None:
    """Hands the newest sound state and its meta to `apply` on all ranks; returns the meta,
    None if nothing was saved.

    Rank 0 reads, the others get it from there. A state that cannot be read or applied is named and skipped.

    Raises:
        CheckpointError: there are states, but none is sound.
    """
    paths = distributed.broadcast_object([str(path) for path in saved_states(run_dir)])
    for path in paths:
        meta, problem = _try(path, apply)
        problems = [text for text in distributed.gather_objects(problem) if text is not None]
        if not problems:
            return meta
        if distributed.rank() == 0:
            print(f'Skipped a state: {problems[0]}', flush=True)
    if paths:
        raise CheckpointError(f'{run_dir}: none of its {len(paths)} saved states can be used; --new starts anew, and '
                              f'--init-from={run_dir} starts from the weights of its newest snapshot')
    return None


def _try(path: str, apply: Callable) -> tuple[dict[str, Any] | None, str | None]:
    """(meta, None), or (None, a sentence on what is wrong with the file)."""
    loaded: list[Any] = []
    if distributed.rank() == 0:
        problem = distributed.broadcast_object(_problem(path, lambda: loaded.append(load_state(path))))
    else:
        problem = distributed.broadcast_object(None)
    if problem is not None:
        return None, problem
    state, meta = distributed.broadcast_nested(loaded[0] if loaded else None)
    problem = _problem(path, lambda: apply(state, meta))
    return (meta, None) if problem is None else (None, problem)


def _problem(path, function):
    """What keeps a function from reading or applying a state, in a sentence; None if nothing does."""
    try:
        function()
    except (CheckpointError, OSError) as error:
        return str(error)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        # A sound file whose contents do not fit this run or lack something.
        return f'{path}: does not fit this run ({type(error).__name__}: {str(error).splitlines()[0]})'
    return None


def copy_of(state: Any) -> Any:
    """The same nested state with copies of all tensors, on the CPU."""
    return map_tensors(lambda tensor: tensor.detach().to('cpu', copy=True), state)


def num_bytes(state: Any) -> int:
    """Bytes of all tensors of a nested state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(state))


def require_space(folder: Path, size: int, what: str) -> None:
    """Raises NoSpaceError unless `size` bytes fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise NoSpaceError(
            f'{folder}: {free / 2**20:.0f} MiB are free, {what} needs {math.ceil((size + SPARE_BYTES) / 2**20)} MiB')
