"""The run that a command begins, or the unfinished one that the same command has begun before."""
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from dnnlib import torchrun, writing
from training.config import run_dirs
from training.config.data_sets import data_size, example
from training.config.going_on import options_of, refuse_changes, refuse_damaged_options, refuse_lost_states
from training.config.options import words_of
from training.config.presets import added_options, fitting_preset
from training.config.resolve import resolve
from training.config.rules import require
from training.config.schema import Config


def started_run(o: Mapping[str, Any]) -> Config:
    """The configuration of a new run, or of the unfinished one that the same command has started before."""
    require('outdir' in o, f"Missing option '--outdir'. {example()}")
    o = with_preset(o)
    run_name, resolved = resolve(o)
    for path in resolved['data_paths']:
        require(not writing.lies_in(o['outdir'], path),
                f'--outdir={o["outdir"]} lies in the data set {path}, of whose images its pictures would be some '
                'the next time; name a folder elsewhere')
    config = Config.from_json({
        **resolved, 'run_dir': os.path.join(o['outdir'], f'{next_run_id(o["outdir"]):05d}-{run_name}')})
    return config if 'new' in o else same_run(o, run_name, config) or config


def same_run(o: Mapping[str, Any], run_name: str, config: Config) -> Config | None:
    """The configuration of the latest run with these settings, or with these but for its data;
    None if there is none."""
    earlier = earlier_runs(o['outdir'], run_name)
    as_before = {run_dir: run_dirs.with_classes_of(saved, config) for run_dir, saved in earlier}
    changes = {run_dir: run_dirs.differences(saved, as_before[run_dir]) for run_dir, saved in earlier}
    same = [run_dir for run_dir in changes if not changes[run_dir]]
    for run_dir in same or [run_dir for run_dir in changes if run_dirs.is_of_the_data(changes[run_dir])]:
        refuse_changes(run_dir, config, changes[run_dir], 'override' in o)
        refuse_lost_states(run_dir, config)
        return replace(Config.from_json(as_before[run_dir]), run_dir=run_dir)
    if earlier:
        run_dir = earlier[0][0]
        click.echo(f'A new run: {run_dir} has other settings ({run_dirs.in_words(changes[run_dir])}).',
                   err=True)
    return None


def with_preset(o: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options that were given and those that --preset stands for, which are printed."""
    if 'preset' not in o:
        return o
    name, (num_images, resolution) = o['preset'], data_size(o)
    added = added_options(name, resolution, o)
    if torchrun.is_main_process():
        click.echo(f'--preset={name} stands for: {" ".join(words_of(added)) or "nothing that is not given"}',
                   err=True)
        if fitting_preset(num_images) != name:
            click.echo(f'Warning: --preset={fitting_preset(num_images)} is meant for {num_images} images, '
                       f'--preset={name} is not.', err=True)
    return {**o, **added}


def next_run_id(outdir: str | os.PathLike) -> int:
    """One more than the highest number that a directory in `outdir` begins with."""
    names = [entry.name for entry in os.scandir(outdir) if entry.is_dir()] if os.path.isdir(outdir) else []
    return max([int(match[0]) for name in names if (match := re.match(r'\d+', name))], default=-1) + 1


def earlier_runs(outdir: str, run_name: str) -> list[tuple[str, Config]]:
    """(directory, configuration) of all runs of this name, the latest first."""
    runs = []
    for path in directories_of(outdir, run_name):
        try:
            runs.append((path, options_of(path)))
        except ValueError as error:
            refuse_damaged_options(path, error)
            click.echo(f'Passed over: {error}', err=True)
    return runs


def directories_of(outdir: str, run_name: str) -> list[str]:
    """Those that are named NUMBER-`run_name`, the highest number first."""
    found = []
    for entry in os.scandir(outdir) if os.path.isdir(outdir) else []:
        number, _, name = entry.name.partition('-')
        if number.isdecimal() and name == run_name and entry.is_dir():
            found.append((int(number), entry.path))
    return [path for _, path in sorted(found, reverse=True)]
