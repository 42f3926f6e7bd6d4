"""Trains a StyleGAN2-ADA generator on a folder or archive of images.

    python train.py --outdir=runs --data=cats.zip                     # On whatever this machine has.
    python train.py --outdir=runs --data=photos/ --cfg=tiny           # Something to look at within minutes, on a CPU.

Here: the command and its start. Its options are declared in training/config/options.py;
training/config/resolve.py makes a configuration (plain data) of them, and what a run does with it is
`training/`. Nothing heavy is imported before the options are known to be sound.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from dnnlib import output, torchrun
from torch_utils.allocator import let_segments_grow
from training.config import methods, run_dirs
from training.config.config_file import with_file
from training.config.continued_run import continued_run
from training.config.going_on import is_finished, kimg_of
from training.config.new_run import started_run
from training.config.options import GroupedHelp, given, parse_args, with_argv, with_options, with_whole_paths
from training.config.resolve import resolve
from training.config.rules import UserError, require
from training.config.schema import Config
from training.config.shown import checked_plan, has_methods, print_config
from training.run import lock

# Threads that wait should sleep: where cores are shared, spinning ones make a step on the CPU several times
# slower.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

OFFLINE_METRIC = 'fd5k_efflite0'        # Needs no download.
STOPPED = 75                # Exit status of a run that was asked to stop and can be continued (EX_TEMPFAIL).


@click.command(cls=GroupedHelp, context_settings=dict(max_content_width=110), epilog='''
\b
Examples:
  python train.py --outdir=runs --data=photos/ --mirror=1          Learn from a folder of square images.
  python train.py --outdir=runs --data=cats.zip --preset=limited   Options for 500 to 50 000 images.
  python train.py --outdir=runs --data=cats.zip --gpus=2 --cfg=auto --kimg=5000
  python train.py --outdir=runs --data=cats.zip --resume=ffhq256 --snap=10
  python train.py --outdir=runs --data=cats.zip --dry-run          Print the configuration and stop.
  python train.py --outdir=runs --reg_type=tdgan --tdgan_mode=remote --tdgan_centres=a,b --tdgan_res=64 \\
      --tdgan_listen=localhost:7300 --tdgan_insecure=1             Images stay at the centres a and b (docs/sites.md).
''')
@with_options
def main(**options):
    """Train a generator of images with the techniques of StyleGAN2-ADA,
    and a zoo of losses for limited data."""
    o = with_whole_paths(with_file(given(options)))
    is_dry = 'dry_run' in o
    config = config_of_run(o)
    measurable = measurable_metrics(config, 'download_detectors' in o, is_dry)
    if not is_dry:
        config = replace(config, metrics=measurable)
    tables = checked_plan(config) if is_dry or has_methods(config) else ''
    with output.finishing() if is_dry else nullcontext():       # What a dry run prints is all that comes of it.
        if torchrun.is_main_process():
            print_config(config)
        if is_finished(config):
            click.echo(f'{config["run_dir"]} is finished: it has {kimg_of(config):g} kimg, {config["kimg"]:g} are asked '
                       'for. A larger --kimg continues it; --new starts another run.')
        elif is_dry:
            click.echo(tables)
            click.echo('\nHow long it takes: loss-zoo estimate, with the same options, measures it.')
            click.echo('Dry run; nothing was written.')
        else:
            sys.exit(start(config))


def config_of_run(o: Mapping[str, Any]) -> Config:
    """The configuration, with its directory, of the run that options begin or continue. Raises UserError with one sentence."""
    try:
        config = continued_run(o) if os.path.isdir(o.get('resume', '')) else started_run(o)
    except OSError as error:
        is_of_data = error.filename or error.errno is None      # Others are of the machine, as no place for temporary files.
        raise UserError(f'--data: {error}' if is_of_data else error.strerror) from error
    return with_argv(with_known_metrics(config))


def config_from_args(argv: Sequence[str]) -> Config:
    """The configuration that a command line stands for, without a directory.
    Raises as `config_of`, and click's errors."""
    return config_of(parse_args(argv))


def config_of(options: Mapping[str, Any]) -> Config:
    """The configuration for options by their names; those that are None are not given.

    Raises UserError with one sentence, OSError if the data cannot be opened.
    """
    return with_known_metrics(Config.from_json(resolve(with_file(given(options)))[1]))


def with_known_metrics(config: Config) -> Config:
    """The same configuration with the full names of its metrics.
    Raises UserError if there is no such metric."""
    from metrics.names import MetricError, parse_names
    try:
        return replace(config, metrics=parse_names(','.join(config.metrics)))
    except MetricError as error:
        raise UserError(f'--metrics={",".join(config.metrics)}: {error}') from error


def measurable_metrics(config: Config, download: bool = False, dry_run: bool = False) -> list[str]:
    """The metrics of a run, if the weights of their detectors are there: the default gives way to one that
    needs none.

    download: fetch missing weights; a dry run only says that it would.
    Raises UserError if the user has asked for something that cannot be measured here.
    """
    from metrics.names import MetricError
    from metrics.weights import WeightOptions, biased_metric, require_unbiased, require_weights
    learnt_from = methods.learnt_from(config)
    try:
        for weights, name in learnt_from.items():
            require_unbiased(config['metrics'], [weights], f'of --reg_type={name}', f'--{name}_biased=1')
        require_weights(config['metrics'], WeightOptions(download=download and not dry_run))
    except MetricError as error:
        if download and dry_run:
            click.echo(f'Note: the weights of detectors for {", ".join(config["metrics"])} would be downloaded.', err=True)
            return config['metrics']
        require('metrics' not in config['command'] and not download, f'--metrics: {error}')
        substitute = [] if biased_metric([OFFLINE_METRIC], learnt_from) else [OFFLINE_METRIC]
        if torchrun.is_main_process():
            instead = f'{OFFLINE_METRIC} takes its place' if substitute else (
                f'there are no metrics, since G learns to please the network of {OFFLINE_METRIC}')
            click.echo(f'Note: {config["metrics"][0]} needs a detector whose weights are not here; {instead} '
                       '(--download-detectors fetches them; --metrics; docs/metrics.md).', err=True)
        return substitute
    return config['metrics']


def start(config: Config) -> int:
    """Creates the run directory if need be, and runs the processes; returns the exit status."""
    from metrics.metric_main import evaluate
    from metrics.names import higher_is_better
    from metrics.overfitting import overfitting_gap
    from report import refresh
    from torch_utils import distributed
    from training.run.launch import train_process

    def run() -> None:
        train = partial(train_process, evaluate=evaluate, higher_is_better=higher_is_better,
                        overfitting_gap=overfitting_gap, report=refresh)
        distributed.launch(train, config['gpus'], (config,))

    if not torchrun.is_main_process():
        run()
        return 0
    with ExitStack() as stack:
        try:
            Path(config['run_dir']).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.locked(config['run_dir']))
            run_dirs.write_options(config)
        except lock.BusyError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f'--outdir: cannot write {config["run_dir"]}: {error.strerror}') from error
        run()
    if is_finished(config):
        return 0
    click.echo(f'Stopped and saved. The same command, or --resume={config["run_dir"]}, continues.')
    return STOPPED


if __name__ == '__main__':
    output.prepare(may_fail=True)
    let_segments_grow()
    sys.exit(main())
