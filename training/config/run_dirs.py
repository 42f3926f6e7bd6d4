"""What it takes to continue a run: its configuration compared with the one asked for.

Imports no torch, so that a refusal comes at once.
"""
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib import writing
from dnnlib.reading import read_file
from training.config.schema import NO, YES, Config, may_change, option_name, problem_of, with_names_of_now
from training.config.setting import leaves
from training.run.run_files import MAX_ROWS_BYTES, OPTIONS_FILE, RunFileError, read_options_file

# They follow from --subset and what there is.
OF_THE_DATA = ('subset', 'training_set_kwargs.random_seed', 'centre_kwargs.random_seed')
DATA = 'data_fingerprints'
PLACES = ('path', 'data')  # Entries of these names, wherever they are: data sets are compared by fingerprint.


def saved_options(run_dir: str | os.PathLike) -> Config:
    """The configuration of a run. Raises ValueError with a sentence
    for people if the directory is none of a run."""
    try:
        values = read_options_file(run_dir)
    except RunFileError as error:
        raise ValueError(f'{run_dir} is not the directory of a run: {OPTIONS_FILE} cannot be read ({error})') from error
    problem = problem_of(values)
    if problem:
        raise ValueError(f'{Path(run_dir, OPTIONS_FILE)} was not written by this program: {problem}')
    return Config.from_json(values)


def saved_entry(run_dir: str | os.PathLike | None, name: str) -> Any:
    """An entry of the configuration of a run; None if there is no such run, or no such entry."""
    try:
        return saved_options(run_dir).get(name) if run_dir else None
    except ValueError:
        return None


def write_options(config: Config) -> None:
    """Writes the configuration into the run's directory, complete or not at all."""
    writing.write_text(Path(config['run_dir'], OPTIONS_FILE), json.dumps(config.to_json(), indent=2), 'any',
                       sync=True)


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """{entry: 'saved -> asked'} of all that makes it another run,
    nested entries with dots; for data, in words."""
    asked = json.loads(json.dumps(dict(asked)))
    before, after = (dict(leaves(with_names_of_now(config))) for config in (saved, asked))
    changes = {name: f'{before.get(name, "(none)")} -> {after.get(name, "(none)")}'
               for name in sorted({**before, **after})
               if before.get(name) != after.get(name) and _matters(name)}
    if before.get('gpus') != after.get('gpus'):
        changes.pop('batch_gpu', None)      # Another number of processes divides the same batch otherwise.
    if all(was != now for was, now in zip(_choice(saved), _choice(asked))):
        changes['subset'] = ' -> '.join(str(_choice(config)[0] or '(none)') for config in (saved, asked))
    if DATA in changes:
        changes[DATA] = _change_of_data(saved, asked)
    return changes


def _matters(name: str) -> bool:
    return name not in OF_THE_DATA and may_change(name) != YES and name.split('.')[-1] not in PLACES


def set_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the run's data set, or what those of its centres have in common."""
    kwargs = config.get('training_set_kwargs') or config.get('centre_kwargs')
    return kwargs if isinstance(kwargs, dict) else {}


def with_classes_of(saved: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with folders numbered as classes in the order that a run has begun with: runs of
    before took plain string order, whatever numbers there are in the names."""
    before, now = set_kwargs(saved).get('labels_from'), set_kwargs(config).get('labels_from')
    if (before, now) != ('folders', 'natural-folders'):
        return config
    of_the_data = next(key for key in ('training_set_kwargs', 'centre_kwargs') if config.get(key))
    return {**config, of_the_data: {**config[of_the_data], 'labels_from': before}}


def _choice(config):
    """(What --subset says, how many images are chosen from all). None: all are used."""
    kwargs = set_kwargs(config)
    return config.get('command', {}).get('subset'), kwargs.get('max_size') if 'random_seed' in kwargs else None


def _change_of_data(saved, asked):
    """What is different about the data sets, as far as the configurations tell."""
    before, after = saved.get(DATA) or [], asked[DATA]
    if len(before) != len(after):
        return f'{len(after)} data sets instead of {len(before)}'
    nums_before, nums_after = _num_images(saved), _num_images(asked)
    parts = []
    for i, (was, now) in enumerate(zip(before, after)):
        if was != now:
            which = f'{asked["data_paths"][i]}: ' if len(after) > 1 else ''
            nums = [nums[i] if i < len(nums) else None for nums in (nums_before, nums_after)]
            parts.append(which + _in_images(*nums))
    return ', '.join(parts)


def _num_images(config):
    """Images of each data set. Runs of before have written it only where all images of one set were used."""
    nums = config.get('data_num_images')
    if not isinstance(nums, list):
        nums = [None if 'random_seed' in set_kwargs(config) else set_kwargs(config).get('max_size')]
    return [num if isinstance(num, int) else None for num in nums]


def _in_images(before, after):
    if before is None or after is None:
        return 'its images or labels are others'
    if before == after:
        return f'as many images ({after}), but not the same ones, or other labels'
    num = abs(after - before)
    return f'{num} image{"s" * (num > 1)} {"more" if after > before else "fewer"} ({after} instead of {before})'


def is_of_the_data(changes: dict[str, str]) -> bool:
    """Is it the data that changed, and nothing but what follows from them? Shapes of images and labels do."""
    return DATA in changes and (len(changes) == 1 or any(name.startswith('data_shape.') for name in changes))


def is_possible(changes: dict[str, str]) -> bool:
    """May the run go on with these changes, if its user wants to?"""
    return all(may_change(name) != NO for name in changes)


def in_words(changes: dict[str, str]) -> str:
    """The differences as part of a sentence."""
    return '; '.join(f'{"data" if name == DATA else option_name(name)}: {change}' for name, change in changes.items())


def lost_progress(run_dir: str | os.PathLike, batch_size: int) -> str | None:
    """What is there of a run that has no saved state any more, in words; None if there is one, or nothing to
    lose.

    The first state is saved at the end of the first tick, which is one batch long: what was written before it
    does not count, since a run that is killed that early simply begins again.
    """
    names = os.listdir(run_dir)
    if any(re.fullmatch(r'training-state-\d+\.safetensors', name) for name in names):
        return None
    found = []
    for what, pattern in (('network snapshots', r'network-snapshot-(\d+)\..+'),
                          ('pictures of fakes', r'fakes(\d+)\.png')):
        numbers = [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]
        if len(numbers) > 1 or any(number > batch_size // 1000 for number in numbers):
            found.append(f'{what} ({len(numbers)})')
    for what, pattern in (('rows of statistics', r'stats\.jsonl'), ('rows of metrics', r'metric-.+\.jsonl')):
        num = max([_num_lines(Path(run_dir, name)) for name in names if re.fullmatch(pattern, name)],
                  default=0)
        if num > 1:
            found.append(f'{what} ({num})')
    return ', '.join(found) or None


def _num_lines(path):
    try:
        return len(read_file(path, MAX_ROWS_BYTES).splitlines())
    except OSError:
        return 0
