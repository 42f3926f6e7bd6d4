"""Metrics of a trained generator, of all snapshots of a run, or between two image sets."""
from __future__ import annotations

if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

import dnnlib.util
from dnnlib import output, writing
from dnnlib.computing import OPERATORS, device_option
from dnnlib.kinds_of_file import not_a_network
from dnnlib.numbers import BATCH, PROCESSES, PSI, SEED, WORKERS, Real, Whole
from dnnlib.program import Program
from metrics.names import MetricError, is_valid_metric, list_valid_metrics, parse_names
from metrics.weights import WEIGHTS, WeightOptions, require_unbiased, require_weights

NEAREST_FORMATS = ('.png', '.jpg')
DATASET = 'training.dataset.ImageFolderDataset'
RECORDED_OPTIONS = {'path': str, 'labels_from': str, 'use_labels': bool, 'xflip': bool, 'yflip': bool, 'max_size': int,
                    'resolution': int, 'random_seed': int}


class MetricList(click.ParamType):
    """Names of metrics, separated by commas; 'none' is an empty list."""
    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        try:
            return parse_names(value, needs_images=None)
        except MetricError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType):
    """`NAME=FILE`."""
    name = 'NAME=FILE'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, path = value.partition('=')
        if not (name and equals and path):
            self.fail(f'{value!r} is not of the form {self.name}', param, ctx)
        return name, path


@dataclass
class Job:
    """What every process is to do, in plain data.

    Attributes:
        metrics: Names.
        snapshots: Network files; empty if an image set is scored instead.
        options: Arguments of `metric_main.MetricOptions` that are the same for all of them.
        device: One of `dnnlib.computing.DEVICES`.
        ops: One of `dnnlib.computing.OPERATORS`.
        dataset_kwargs: Arguments of the data set that the user named; None takes those in the network file.
        mirror: Mirrored images as well? None: as recorded, or no.
        centres: {name: path} of data centres.
        nearest: Where to write the picture of nearest images, or None.
        held_out: Path of held-out images, 'rest', or None.
        verbose: Tell what is going on?
        biased: Score by a network that the generator learnt to please, too?
    """
    metrics: list[str]
    snapshots: list[str]
    options: dict[str, Any]
    device: str
    ops: str
    dataset_kwargs: dict[str, Any] | None
    mirror: bool | None
    centres: dict[str, str]
    nearest: str | None
    held_out: str | None
    verbose: bool
    biased: bool = False


@click.command(cls=Program, epilog='''\
\b
Examples:
  python calc_metrics.py --network=runs/00000-cats --metrics=fid50k_full,pr50k3_full
  python calc_metrics.py --network=runs/00000-cats --snapshots=all --metrics=fd5k_efflite0
  python calc_metrics.py --images=generated/ --data=cats.zip --metrics=fd_efflite0,kid_efflite0
  python calc_metrics.py --network=net.safetensors --data=cats.zip --metrics=none --nearest=nearest.png
''')
@click.option('--network', metavar='FILE|URL|DIR', help='Network file, its URL, or a run directory.')
@click.option('--snapshots', type=click.Choice(['last', 'all']), default='last', show_default=True,
              help='Which of a run directory.')
@click.option('--images', metavar='PATH', help='Score this folder or zip of generated images instead of a network.')
@click.option('--metrics', type=MetricList(), default='fid50k_full', show_default=True,
              help='Names, separated by commas; --list shows all.')
@click.option('--list', 'list_metrics', is_flag=True, help='List the metrics and stop.')
@click.option('--data', metavar='PATH', help='Folder or zip of real images [default: what the run was trained on]')
@click.option('--mirror', type=bool, metavar='BOOL',
              help='Metrics without _full count mirrored images too [default: as recorded; with --data: no]')
@click.option('--centre', 'centres', type=Assignment(), multiple=True,
              help='A data centre of a federated run, in the order of their codes; once for each. Metrics are taken on '
                   'their union and on each of them.')
@click.option('--gpus', type=Whole(PROCESSES), default=1, show_default=True, help='Processes, one per GPU.')
@device_option
@click.option('--ops', type=click.Choice(OPERATORS), default='auto', show_default=True,
              help='Operators: compiled (native), plain tensor operations (reference), or what there is.')
@click.option('--batch', type=Whole(BATCH), default=64, show_default=True,
              help='Images at a time in the detector. Does not change the scores.')
@click.option('--batch-gen', type=Whole(BATCH), default=4, show_default=True,
              help='Images at a time in the generator. Does not change the scores.')
@click.option('--workers', type=Whole(WORKERS), default=3, show_default=True,
              help='Processes that decode images.')
@click.option('--seed', type=Whole(SEED), default=0, show_default=True, help='Of latents, labels and noise.')
@click.option('--trunc', type=Real(PSI), default=1.0, show_default=True, help='Truncation psi.')
@click.option('--detector-path', 'detector_paths', type=Assignment(), multiple=True,
              help=f'Weights of a detector ({", ".join(WEIGHTS)}); can be repeated.')
@click.option('--download-detectors', is_flag=True, help='Fetch missing weights from their official addresses.')
@click.option('--allow-unknown-detector', is_flag=True, help='Accept weights with another checksum than published.')
@click.option('--cache-dir', metavar='DIR', help='Where features of real images are kept.')
@click.option('--no-cache', is_flag=True, help='Keep none, use none.')
@click.option('--nearest', metavar='FILE',
              help='Also write a picture of fakes beside the training images nearest to them.')
@click.option('--held-out', metavar='PATH|rest',
              help='Also compare the scores of the discriminator on its training images with those on these images; '
                   "'rest': on those that --subset left out.")
@click.option('--biased', is_flag=True, help='Score also by a network that the generator learnt to please (--reg_type=vision).')
@click.option('--verbose', type=bool, metavar='BOOL', default=True, show_default=True, help='Show progress.')
def main(**options: Any) -> None:
    """Calculate metrics.

    Results are printed, and appended to metric-NAME.jsonl in the run directory if there is one, where metrics.svg shows
    them over time. A missing detector is a usage error before any work is done.
    """
    if options['list_metrics']:
        click.echo('\n'.join(list_valid_metrics() + list_valid_metrics(needs_images=True)))
        return
    job = resolve(options)
    from torch_utils.distributed import check_device, launch
    choose_ops(job, check_device(job.device, options['gpus']), options['gpus'])
    launch(work, options['gpus'], (job,))


def choose_ops(job: Job, device_type: str, num_processes: int = 1) -> None:
    """Sets what operators run on, for this process; a usage error if that cannot be had."""
    from torch_utils.ops import backend
    backend.set_default(job.ops)
    try:
        backend.check_default(device_type, num_processes=num_processes)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint='--ops') from None


# ---------------------------------------------------------------------------------------------------------------------
# From options to a job.

def resolve(o: Mapping[str, Any]) -> Job:
    """What is to be done; a usage error if the options do not fit together or something is missing."""
    if (o['network'] is None) == (o['images'] is None):
        raise click.UsageError('give either --network or --images: what shall be scored?')
    if o['nearest']:
        check_picture(o['nearest'], '--nearest')
    snapshots = find_snapshots(o['network'], o['snapshots']) if o['network'] is not None else []
    options = dict(
        weights=find_detectors(o), seed=o['seed'], batch_size=o['batch'], batch_gen=o['batch_gen'],
        num_workers=o['workers'], cache=not o['no_cache'], cache_dir=o['cache_dir'], progress=o['verbose'])
    if o['trunc'] != 1:
        options['G_kwargs'] = dict(truncation_psi=o['trunc'])
    if o['images'] is not None:
        options['images_kwargs'] = image_set(o['images'], '--images')
        refuse_without_network(o)
    return Job(
        o['metrics'], snapshots, options, o['device'], o['ops'],
        dataset_kwargs=image_set(o['data'], '--data') if o['data'] is not None else None,
        mirror=o['mirror'],
        centres={name: image_set(path, '--centre')['path'] for name, path in o['centres']},
        nearest=o['nearest'], held_out=o['held_out'], verbose=o['verbose'], biased=o['biased'])


def check_picture(path: str, option: str) -> None:
    """A usage error unless a picture can be written there."""
    if os.path.splitext(path)[1].lower() not in NEAREST_FORMATS:
        raise click.BadParameter(f'{path} needs an ending that says what to write: {" or ".join(NEAREST_FORMATS)}',
                                 param_hint=option)
    try:
        writing.require_place(path)
    except OSError as error:
        raise click.BadParameter(f'{path}: {error.strerror}', param_hint=option) from error


def find_detectors(o: Mapping[str, Any]) -> WeightOptions:
    """Where weights are; a usage error if one is missing that the metrics need, or a name is none."""
    for name in o['metrics']:
        if o['images'] is None and not is_valid_metric(name):
            raise click.UsageError(f'--metrics: {name} compares two image sets, so it needs --images; '
                                   'for a network give a count, as in fd5k_efflite0')
    for name, _ in o['detector_paths']:
        if name not in WEIGHTS:
            raise click.UsageError(f'--detector-path: there is no detector {name}; there are {", ".join(WEIGHTS)}')
    weights = WeightOptions(dict(o['detector_paths']), o['download_detectors'], o['allow_unknown_detector'])
    try:
        require_weights([*o['metrics'], *(['kid_efflite0'] if o['nearest'] else [])], weights)
    except MetricError as error:
        raise click.UsageError(str(error)) from error
    return weights


def refuse_without_network(o: Mapping[str, Any]) -> None:
    """A usage error for options that make no sense with --images."""
    if o['data'] is None:
        raise click.UsageError('--images needs --data: what are they to be compared with?')
    for name in ('nearest', 'held_out', 'centres'):
        if o[name]:
            raise click.UsageError(f'--{name.rstrip("s").replace("_", "-")} needs --network')


def find_snapshots(network: str, which: str) -> list[str]:
    """The network files that a path or URL means."""
    if dnnlib.util.is_url(network, allow_file_urls=True):
        try:
            return [dnnlib.util.open_url(network, return_filename=True)]
        except (OSError, ValueError) as error:
            raise click.BadParameter(str(error), param_hint='--network') from error
    if not os.path.exists(network):
        raise click.BadParameter(f'{network}: no such file, run directory or URL', param_hint='--network')
    if not os.path.isdir(network):
        return [network]
    from torch_utils.checkpoint import snapshots
    found = [str(path) for path in snapshots(network)]
    if not found:
        raise click.BadParameter(not_a_network(network) or f'{network} holds no network snapshots', param_hint='--network')
    return found if which == 'all' else found[-1:]


def run_dir_of(path: str) -> str | None:
    """The directory of a network file if it is that of a training run."""
    folder = os.path.dirname(os.path.abspath(path))
    return folder if os.path.isfile(os.path.join(folder, 'training_options.json')) else None


def image_set(path: str, option: str) -> dict[str, Any]:
    """Class name and path of an image set; a usage error if there is nothing at the path."""
    if not os.path.exists(path):
        raise click.BadParameter(f'{path}: no such folder or zip', param_hint=option)
    return dict(class_name=DATASET, path=path)


# ---------------------------------------------------------------------------------------------------------------------
# The work, on every process.

@output.finishing()
def work(rank: int, job: Job) -> None:
    """Does a job; a user's mistake that shows only now ends the program with one sentence."""
    from torch_utils.distributed import pick_device
    device = pick_device(job.device)
    choose_ops(job, device.type)
    unrecorded: dict[str, str] = {}
    try:
        if not job.snapshots:
            dataset_kwargs = {**job.dataset_kwargs, 'xflip': bool(job.mirror)}
            score(job, job.metrics, dict(device=device, dataset_kwargs=dataset_kwargs))
        for path in job.snapshots:
            unrecorded.update(score_network(job, path, device, rank))
    except MetricError as error:
        raise click.ClickException(str(error)) from error
    if unrecorded:
        reasons = ', '.join(sorted(set(unrecorded.values())))
        raise click.ClickException(f'all is calculated and printed, but not recorded: {", ".join(unrecorded)} ({reasons})')


def score_network(job: Job, path: str, device: Any, rank: int) -> dict[str, str]:
    """Everything that is asked about one network file; what `score` returns."""
    from training.config.run_dirs import saved_entry
    networks = load_networks(path, ['G_ema', 'D'] if job.held_out else ['G_ema'])
    G = networks['G_ema']
    if not job.biased and isinstance(learnt_from := networks.get('learnt_from'), list):     # A stranger may say anything.
        require_unbiased(job.metrics, learnt_from, f'of {os.path.basename(path)}', '--biased')
    if job.verbose and rank == 0:
        click.echo(f'{os.path.basename(path)}: {G.img_resolution}x{G.img_resolution}, {G.img_channels} channels, '
                   f'labels of width {G.c_dim}', err=True)
    if rank == 0 and job.dataset_kwargs is None and (other := saved_entry(run_dir_of(path), 'metricdata')):
        click.echo(f'Note: the run was scored against --metricdata={other}; this compares with what it learnt from: give '
                   f'--data={other} to do as the run did.', err=True)
    centres = centres_of(job, G, networks.get('centres'), path)
    recorded = networks['training_set_kwargs']
    target = dict(G=G, device=device, centres=centres,
                  dataset_kwargs=None if centres else dataset_of_network(job, G, recorded, path))
    unrecorded = score(job, job.metrics, target, path)
    if job.nearest:
        show_nearest(job, target, rank)
    if job.held_out and rank == 0:
        show_gap(job, networks['D'], target)
    return unrecorded


def load_networks(path: str, only: Sequence[str]) -> dict[str, Any]:
    """What a network file holds, with no other networks than these; one sentence if it cannot be read or has no G_ema."""
    from torch_utils.network_file import load_network
    try:
        networks = load_network(path, only=only)
    except (OSError, ValueError) as error:
        raise click.ClickException(f'--network: {error}') from error
    if networks['G_ema'] is None:
        raise click.ClickException(f'{path} has no averaged generator (G_ema)')
    return networks


def score(job: Job, metrics: Sequence[str], target: dict[str, Any], path: str | None = None) -> dict[str, str]:
    """Calculates and reports each metric; answers which could not be recorded in the run directory, and why."""
    from metrics import metric_main
    from metrics.sharding import on_main
    run_dir = run_dir_of(path) if path is not None else None
    metrics = metric_main.of_all_centres(metrics, target.get('centres'))
    shared = metric_main.shared_by(metrics)
    unrecorded = {}
    for metric in metrics:
        result = metric_main.calc_metric(metric, shared=shared, **target, **job.options)
        reason = on_main(lambda result=result: metric_main.report_metric(result, run_dir, path))
        if reason is not None:
            unrecorded[metric] = reason
    return unrecorded


def show_nearest(job: Job, target: dict[str, Any], rank: int) -> None:
    """Writes the picture of nearest images, and prints how near they are."""
    from metrics.metric_main import MetricOptions
    from metrics.nearest import nearest_sheet
    found = nearest_sheet(job.nearest, MetricOptions(**target, **job.options))
    if rank == 0:
        click.echo(json.dumps(dict(nearest=job.nearest, ratios=found.ratios, indices=found.indices)))
    if found.failure:
        raise click.ClickException(f'--nearest: {job.nearest} cannot be written: {found.failure}')


def show_gap(job: Job, D: Any, target: dict[str, Any]) -> None:
    """Prints what the discriminator thinks of held-out images."""
    from metrics.overfitting import overfitting_gap
    if D is None:
        raise click.ClickException('--held-out: the network file has no discriminator')
    if target['dataset_kwargs'] is None:
        raise click.UsageError('--held-out: the network was trained on several data sets; give --data, one of them')
    train = target['dataset_kwargs']
    rest = None if job.held_out == 'rest' else {**train, 'max_size': None, 'path': job.held_out}
    click.echo(json.dumps(overfitting_gap(D, train, rest, target['G'], device=target['device'])))


def dataset_of_network(job: Job, G: Any, recorded: Any, path: str) -> dict[str, Any]:
    """Arguments of the real side when a network is scored: what the user named, else what the file records.

    Files record the name of a data set only; where it lies the run's own directory says. Files of earlier versions, and
    those of other programs, may have the whole path.
    """
    place = place_of_data(path)
    kwargs = job.dataset_kwargs or recorded_set(with_place(recorded, place))
    if kwargs is None:
        raise click.UsageError(f'{path} does not say what it was trained on; give --data')
    if job.dataset_kwargs is None:
        require_place(kwargs['path'], path, is_a_name=place is None and not os.path.dirname(kwargs['path']))
    kwargs = {**kwargs, 'resolution': G.img_resolution, 'use_labels': G.c_dim != 0}
    if job.mirror is not None:
        kwargs['xflip'] = job.mirror
    return kwargs


def with_place(recorded: Any, place: str | None) -> Any:
    """What a network file records of its data set, with the place that is known better."""
    return {**recorded, 'path': place} if isinstance(recorded, Mapping) and place is not None else recorded


def place_of_data(path: str) -> str | None:
    """Where the one data set of a network file's run is, as far as the file lies in the run's directory."""
    paths = recorded_paths(path)
    return paths[0] if len(paths) == 1 and isinstance(paths[0], str) else None


def require_place(data: str, path: str, is_a_name: bool) -> None:
    """A usage error unless a recorded path leads to the data. A bare name does not, whatever may be called so here."""
    if is_a_name or not os.path.exists(data):
        what = 'but not where that is' if is_a_name else 'which is not there'
        raise click.UsageError(f'{path} was trained on {data}, {what}; give --data=PATH')


def recorded_set(recorded: Any, place: str | None = None) -> dict[str, Any] | None:
    """Arguments of the data set that a network file records, at `place` if it does not say where; None if it records none.

    The file may be a stranger's: of what it says, only options of our own class count, and only in their own types.
    """
    recorded = {'path': place, **recorded} if isinstance(recorded, Mapping) else {}
    if not isinstance(recorded.get('path'), str):
        return None
    return {'class_name': DATASET, **{key: value for key, value in recorded.items()
                                      if isinstance(value, RECORDED_OPTIONS.get(key, ()))}}


def centres_of(job: Job, G: Any, recorded: Any, path: str) -> dict[str, Any] | None:
    """{name: (arguments of the data set, code)} of the data centres: what the user named, else what the file records.

    Where the data are only the run's own directory says; files of earlier versions say it themselves.
    """
    if job.centres:
        return named_centres(job, G)
    if job.dataset_kwargs is not None or not isinstance(recorded, Mapping):
        return None
    places = places_of_centres(path)
    centres = {name: (recorded_set(kwargs, places.get(name)), code) for name, (kwargs, code) in recorded.items()
               if re.fullmatch(r'[\w-]+', name)}
    lost = [name for name, (kwargs, _) in centres.items() if kwargs is None]
    if lost:
        raise click.UsageError(f'{path} was trained on several data centres and does not say where their data are; give '
                               f'{" ".join(f"--centre={name}=FILE" for name in centres)}')
    return centres


def places_of_centres(path: str) -> dict[str, str]:
    """{name: path of the data} of the data centres of a network file's run, as far as it lies in its directory."""
    from training.data.stages import centre_name
    return {centre_name(index): data for index, data in enumerate(recorded_paths(path))}


def recorded_paths(path: str) -> list[Any]:
    """Paths of the data sets of a network file's run; none if the file does not lie in the directory of a run."""
    from training.config.run_dirs import saved_entry
    return saved_entry(run_dir_of(path), 'data_paths') or []


def named_centres(job: Job, G: Any) -> dict[str, Any]:
    """The centres of --centre; what the generator's label has beyond the classes is their code, one place for each."""
    from metrics.image_streams import open_dataset
    centres = {}
    for number, (name, path) in enumerate(job.centres.items()):
        kwargs = dict(class_name=DATASET, path=path, use_labels=True)
        code = [0.0] * (G.c_dim - open_dataset(kwargs).label_dim)
        if number < len(code):
            code[number] = 1.0
        centres[name] = (kwargs, code)
    return centres


if __name__ == '__main__':
    output.prepare()
    main()
