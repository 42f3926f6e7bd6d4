"""Training from Python: the same as the command `loss-zoo train`, by the names of its options."""
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from loss_zoo import programs

programs.make_importable()      # For the imports inside the functions below.


def train(config: str | os.PathLike | Mapping[str, Any] | None = None, **options: Any) -> Path:
    """As `loss_zoo.train`."""
    import train as program
    from torch_utils.allocator import let_segments_grow
    from training.config.going_on import is_finished
    from training.config.options import given, with_whole_paths
    from training.config.rules import UserError
    try:
        chosen = with_whole_paths(given(options_by_name(config, options)))
        run = program.config_of_run(chosen)
        run = replace(run, metrics=program.measurable_metrics(run, 'download_detectors' in chosen))
    except UserError as error:
        raise ValueError(error.message) from error
    except click.ClickException as error:
        raise RuntimeError(error.message) from error
    if not is_finished(run):
        let_segments_grow()
        try:
            with former_signals():
                program.start(run)
        except click.ClickException as error:
            raise RuntimeError(error.message) from error
    return Path(run['run_dir'])


def options_by_name(config: str | os.PathLike | Mapping[str, Any] | None,
                    options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a file or a mapping and those given by name, which win.
    Raises UserError for those that there are not."""
    from training.config.config_file import converted, name_of, options_in
    if isinstance(config, Mapping):
        options, config = {**config, **options}, None
    found = options_in(os.fspath(config)) if config is not None else {}
    for key, value in options.items():
        if value is not None:
            name = name_of(key, 'train()')
            found[name] = converted(name, os.fspath(value) if isinstance(value, os.PathLike) else value,
                                    f'train(): {key}')
    return found


@contextmanager
def former_signals() -> Iterator[None]:
    """Gives the signals that training listens to back to whoever had them."""
    from training.data.stages import STOP_SIGNALS
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
