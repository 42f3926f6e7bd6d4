"""The run that --resume=DIR continues: as it was, but for options given now and data that have moved."""
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dnnlib import torchrun
from training.config import run_dirs
from training.config.data_sets import data_now
from training.config.going_on import options_of, refuse_changes, refuse_lost_states
from training.config.options import NOT_OF_THE_RUN, OPTIONS, with_whole_paths
from training.config.resolve import require_power_of_two, resolve
from training.config.rules import UserError, require
from training.config.schema import Config

AS_IT_IS_NOW = ('command', 'data_paths', 'data_fingerprints', 'data_num_images', 'data_shape', 'training_set_kwargs',
                'centre_kwargs')


def continued_run(o: Mapping[str, Any]) -> Config:
    """The configuration for going on in the directory that --resume names: as it was, but for options given now."""
    run_dir = os.path.normpath(o['resume'])
    require('preset' not in o, f'--preset is for the start of a run; {run_dir} goes on with the options that it has')
    require('new' not in o, f'--new starts another run; --resume={run_dir} continues that one')
    try:
        saved = options_of(run_dir)
    except ValueError as error:
        raise UserError(f'--resume: {error}; --init-from={run_dir} starts from the newest network in it') from error
    refuse_lost_states(run_dir, saved)
    given = {key: value for key, value in o.items() if key not in (*NOT_OF_THE_RUN, 'resume')}
    command = saved_command(run_dir, saved) if given else {}
    try:
        config = resolve_again(saved, command, given) if given else {**saved, **data_now(saved)}
    except OSError as error:
        raise UserError(f'{run_dir}: {error}; {where_it_lies_now(error, {**command, **given}, saved)}') from error
    gpus = given.get('gpus') or torchrun.world_size(saved['gpus'])
    config = with_processes(Config.from_json({**config, 'run_dir': run_dir}), gpus)
    refuse_changes(run_dir, config, run_dirs.differences(saved, config), 'override' in o)
    return config


def saved_command(run_dir: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The options that started a run, each converted as on the command line: a file may say anything."""
    try:
        return {key: OPTIONS[key].type(value, OPTIONS[key], None) for key, value in saved['command'].items()}
    except (KeyError, ValueError, click.BadParameter) as error:
        raise UserError(f'--resume: {Path(run_dir, run_dirs.OPTIONS_FILE)} was not written by this program: its command '
                        f'has options that there are not ({error})') from error


def resolve_again(saved: Config, command: dict[str, Any], given: dict[str, Any]) -> Mapping[str, Any]:
    """The configuration of a saved run with other options, for the processes that the run began with: much follows from their
    number, and is to stay. What does not follow from these options stays as well: defaults may be others today."""
    gpus = command.get('gpus', saved['gpus'])
    asked = resolve(with_whole_paths({**command, **given, 'gpus': gpus}))[1]
    try:
        with redirect_stderr(io.StringIO()):                # Warnings have been printed.
            before = resolve(with_whole_paths({**command, 'gpus': gpus}))[1]
    except (OSError, UserError):                            # The data have moved, say: then there is nothing to compare with.
        before = {}
    now = {key: asked[key] for key in AS_IT_IS_NOW if key in asked}
    return run_dirs.with_classes_of(saved, {**with_changes(saved, before, asked), **now})


def with_changes(saved: Mapping[str, Any], before: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The saved table with every entry changed that differs between the other two; tables in it likewise."""
    found = {key: value for key, value in saved.items() if key in asked or key not in before}
    for key, value in asked.items():
        tables = [isinstance(table.get(key), Mapping) for table in (saved, before, asked)]
        if all(tables):
            found[key] = with_changes(saved[key], before[key], value)
        elif key not in before or before[key] != value:
            found[key] = value
    return found


def with_processes(config: Config, gpus: int) -> Config:
    """The same run on so many processes: the batch stays as large as it is, and is divided among them."""
    if gpus == config['gpus']:
        return config
    from torch_utils import distributed
    batch, group = config['batch'], config['D_kwargs']['epilogue_kwargs']['mbstd_group_size']
    require_power_of_two(gpus)
    require(batch % gpus == 0, f'--gpus={gpus}: the batch of this run, {batch}, cannot be divided among them')
    distributed.check_device(config['device'], gpus)
    sizes = [num for num in range(1, min(batch // gpus, config['batch_gpu']) + 1)
             if batch // gpus % num == 0 and num % min(group, num) == 0]
    command = {**config['command'], 'gpus': config['command'].get('gpus', config['gpus'])}
    return replace(config, gpus=gpus, batch_gpu=max(sizes), command=command)


def where_it_lies_now(error: OSError, command: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """The option that names a data set which has moved, as part of a sentence."""
    if command.get('held_out') and str(error).startswith(command['held_out']):
        return '--held-out=PATH says where it lies now'
    brought = [name for name in saved['regularizers'] if saved['regularizers'][name].get('data')]
    return f'--{brought[0]}_data=PATHS says where they lie now' if brought else '--data=PATH says where it lies now'
