"""May a run go on? What its directory says of it, how far it is, and the sentences if it may not."""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from training.config import run_dirs
from training.config.data_sets import no_longer_taken
from training.config.rules import require
from training.config.schema import Config


def options_of(run_dir: str) -> Config:
    """The configuration of a run; if its file is damaged or gone,
    that of its newest saved state. Raises ValueError."""
    try:
        return run_dirs.saved_options(run_dir)
    except ValueError as error:
        from training.run.states import options_in_states
        saved = options_in_states(Path(run_dir))
        if saved is None:
            raise
        click.echo(f'Warning: {error}; its newest saved state has the settings, too.', err=True)
        return saved


def is_finished(config: Mapping[str, Any]) -> bool:
    """Is there nothing left to do in the run's directory?"""
    return kimg_of(config) >= round(config['kimg'] * 1000) / 1000       # Stages may add up to 0.30000000000000004.


def kimg_of(config: Mapping[str, Any]) -> float:
    """How far the run in the directory is, in thousands of images."""
    if not os.path.isdir(config['run_dir']):
        return 0
    from training.run.states import images_shown
    return (images_shown(Path(config['run_dir'])) or 0) / 1000


def refuse_changes(run_dir: str, config: Mapping[str, Any], changes: dict[str, str], override: bool) -> None:
    """Says in what a run would go on differently; raises UserError unless that is wanted and possible."""
    if not changes:
        return
    if run_dirs.is_of_the_data(changes):
        sentence = f'the data of this run has changed: {run_dirs.in_words(changes).removeprefix("data: ")} ({run_dir})'
        sentence += no_longer_taken(config)
    else:
        sentence = f'{run_dir} was started with other settings or data ({run_dirs.in_words(changes)})'
    require(run_dirs.is_possible(changes),
            f'{sentence}; its networks do not fit these data: {ways_on(run_dir)} (with --allow-partial), and --new starts '
            'another run')
    require(override, f'{sentence}; --override continues all the same, --new starts another run')
    click.echo(f'{sentence}; continuing all the same.', err=True)


def refuse_lost_states(run_dir: str, config: Mapping[str, Any]) -> None:
    """Raises UserError if a run would begin again over what it has written,
    because its saved states are gone."""
    lost = run_dirs.lost_progress(run_dir, config['batch'])
    require(lost is None,
            f'{run_dir} has no saved state to continue from (training-state-*.safetensors), but there are {lost}, which '
            f'would be written over; bring a state back, or else {ways_on(run_dir)}, and --new starts another run')


def refuse_damaged_options(run_dir: str, error: ValueError) -> None:
    """Raises UserError if a directory of this run's name has lost its settings, but not what was trained."""
    is_foreign = error.__cause__ is None        # It can be read, but another program has written it.
    lost = run_dirs.lost_progress(run_dir, batch_size=0)
    require(is_foreign or lost is None,
            f'{error}, nor has it a saved state, but there are {lost}; {ways_on(run_dir)}, and --new starts another run')


def ways_on(run_dir: str) -> str:
    """What can be done with a run that cannot go on, as part of a sentence."""
    return f'--init-from={run_dir} starts a new run from its newest network'
