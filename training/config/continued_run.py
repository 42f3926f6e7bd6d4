"""The run that --resume=DIR continues: as it was, but for options given now and data that have moved."""
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dnnlib import torchrun
from dnnlib.kinds_of_file import not_a_run
from training.config import run_dirs
from training.config.config_file import converted
from training.config.data_sets import data_now
from training.config.going_on import options_of, refuse_changes, refuse_lost_states, ways_on
from training.config.methods import method_with_data, problem_of_methods
from training.config.options import NOT_OF_THE_RUN, OPTIONS, given, with_whole_paths
from training.config.resolve import require_power_of_two, require_whole_groups, require_whole_pieces, resolve
from training.config.rules import UserError, require
from training.config.schema import Config

AS_IT_IS_NOW = ('command', 'data_paths', 'data_fingerprints', 'data_num_images', 'data_shape',
                'training_set_kwargs', 'centre_kwargs')


def continued_run(o: Mapping[str, Any]) -> Config:
    """The configuration for going on in the directory that --resume names: as it was,
    but for options given now."""
    run_dir = os.path.normpath(o['resume'])
    require('preset' not in o,
            f'--preset is for the start of a run; {run_dir} goes on with the options that it has')
    require('new' not in o, f'--new starts another run; --resume={run_dir} continues that one')
    try:
        saved = options_of(run_dir)
    except ValueError as error:
        has_networks = any(Path(run_dir).glob('network-snapshot-*'))
        way_on = f'; --init-from={run_dir} starts from the newest network in it' if has_networks else ''
        raise UserError(f'--resume: {not_a_run(run_dir) or f"{error}{way_on}"}') from error
    refuse_lost_states(run_dir, saved)
    require_buildable(run_dir, saved)
    asked = {key: value for key, value in o.items() if key not in (*NOT_OF_THE_RUN, 'resume')}
    command = saved_command(run_dir, saved) if asked else {}
    try:
        config = resolve_again(saved, command, asked) if asked else {**saved, **data_now(saved)}
    except OSError as error:
        raise UserError(f'{run_dir}: {error}; {where_it_lies_now(error, {**command, **asked}, saved)}') from error
    gpus = asked.get('gpus') or torchrun.world_size(saved['gpus'])
    config = with_processes(Config.from_json({**config, 'run_dir': run_dir}), gpus)
    refuse_changes(run_dir, config, run_dirs.differences(saved, config), 'override' in o)
    return config


def require_buildable(run_dir: str, saved: Config) -> None:
    """Raises UserError if what a file says of methods and networks is nothing that this program builds: both
    are tried, with networks that have shapes but no numbers."""
    problem = problem_of_batch(saved) or problem_of_methods(saved) or problem_of_networks(saved)
    require(problem is None,
            f'--resume: {Path(run_dir, run_dirs.OPTIONS_FILE)} was not written by this program: {problem}; '
                             f'{ways_on(run_dir)}')


def problem_of_batch(config: Config) -> str | None:
    """Why a configuration that was saved has no batches; None if it has."""
    batch, batch_gpu, gpus = (config[key] for key in ('batch', 'batch_gpu', 'gpus'))
    try:
        require_whole_pieces(batch, batch_gpu, gpus)
        require_whole_groups(batch_gpu, config['D_kwargs']['epilogue_kwargs']['mbstd_group_size'])
    except UserError as error:
        return error.message.partition(';')[0]
    return None


def problem_of_networks(config: Config) -> str | None:
    """What cannot be built of a configuration that was saved; None if all can be."""
    from torch_utils.checkpoint import skeleton
    from training.run.dry_run import plan
    try:
        for kwargs in (config['G_kwargs'], config['D_kwargs']):
            kwargs = {**config['data_shape'], **kwargs}
            skeleton(kwargs.pop('class_name'), kwargs, max_layers=1000)
        plan(config)
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
    return None


def saved_command(run_dir: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The options that started a run, each converted as on the command line: a file may say anything."""
    where = f'--resume: {Path(run_dir, run_dirs.OPTIONS_FILE)}'
    for key in saved['command']:
        require(key in OPTIONS and key not in NOT_OF_THE_RUN,
                f'{where} was not written by this program: its command has options that there are not ({key:.40})')
    return given({key: converted(key, value, f'{where}: command.{key}')
                  for key, value in saved['command'].items()})


def resolve_again(saved: Config, command: dict[str, Any], options: dict[str, Any]) -> Mapping[str, Any]:
    """The configuration of a saved run with other options, for the processes that the run began with: much
    follows from their number, and is to stay. What does not follow from these options stays as well: defaults
    may be others today."""
    gpus = command.get('gpus', saved['gpus'])
    asked = resolve_for(command, {**options, 'gpus': gpus})
    try:
        with redirect_stderr(io.StringIO()):                # Warnings have been printed.
            before = resolve(with_whole_paths({**command, 'gpus': gpus}))[1]
    except (OSError, UserError):  # The data have moved, say: then there is nothing to compare with.
        before = {}
    now = {key: asked[key] for key in AS_IT_IS_NOW if key in asked}
    if 'kimg' in options and 'ramp_kimg' in saved and 'ramp_kimg' not in options:
        click.echo(f'Note: --ramp-kimg stays at {saved["ramp_kimg"]:g}, with which the run began: its numbers '
                   'have their last values from there on.', err=True)
    return run_dirs.with_classes_of(saved, {**with_changes(saved, before, asked), **now})


def resolve_for(command: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a command with other options. Of another --kimg it has the length, but nothing else
    that follows from it: a run that goes on for longer is the same run. (Unless its data come in stages, which
    divide it.)"""
    if 'kimg' in options and method_with_data({**command, **options}) is None:
        length = {'kimg': options['kimg']}
        others = {key: value for key, value in options.items() if key != 'kimg'}
        with suppress(UserError):       # What is wrong for the length of before may be right for this one.
            asked = resolve(with_whole_paths({**command, **others}))[1]
            return {**asked, **length, 'command': {**asked['command'], **length}}
    return resolve(with_whole_paths({**command, **options}))[1]


def with_changes(saved: Mapping[str, Any], before: Mapping[str, Any],
                 asked: Mapping[str, Any]) -> dict[str, Any]:
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
