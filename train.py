"""Trains a StyleGAN2-ADA generator on a folder or archive of images.

    python train.py --outdir=runs --data=cats.zip                     # On whatever this machine has.
    python train.py --outdir=runs --data=photos/ --cfg=tiny           # Something to look at within minutes, on a CPU.

Here: the options, the rules between them, and the configuration that follows (plain data). What a run does with it is
`training/`. Nothing heavy is imported before the options are known to be sound.
"""
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import click

import losses_ext
from dnnlib import output, torchrun
from dnnlib.numbers import BATCH, PROCESSES, SEED, WORKERS, Real, Whole
from training.config import run_dirs as resume
from training.config.base_configs import CONFIG_NAMES, BaseConfig, base_config
from training.config.presets import PRESETS, added_options, fitting_preset
from training.config.schema import Config

# Threads that wait should sleep: where cores are shared, spinning ones make a step on the CPU several times slower.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

AUGMENT_PIPES = ('blit', 'geom', 'color', 'filter', 'noise', 'cutout', 'bg', 'bgc', 'bgcf', 'bgcfn', 'bgcfnc')
TRANSFER_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
TRANSFER_NETS = {
    'ffhq256': 'ffhq-res256-mirror-paper256-noaug.pkl',
    'ffhq512': 'ffhq-res512-mirror-stylegan2-noaug.pkl',
    'ffhq1024': 'ffhq-res1024-mirror-stylegan2-noaug.pkl',
    'celebahq256': 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl',
    'lsundog256': 'lsundog-res256-paper256-kimg100000-noaug.pkl',
}
LOG_NAMES = ('tensorboard', 'wandb')

# Options that say nothing about the run itself.
NOT_OF_THE_RUN = ('outdir', 'dry_run', 'new', 'override', 'preset', 'download_detectors')
FLAGS = ('dry_run', 'new', 'override', 'allow_partial', 'download_detectors')
EXAMPLE = 'For example: train.py --outdir=runs --data=photos/ --mirror=1 (train.py --help lists all options)'
OFFLINE_METRIC = 'fd5k_efflite0'        # Needs no download.
STOPPED = 75                # Exit status of a run that was asked to stop and can be continued (EX_TEMPFAIL).


class UserError(click.UsageError):
    """A rule between options that is not kept: exit status 2 and one sentence."""


# ---------------------------------------------------------------------------------------------------------------------
# Options


def option(*names: str, group: str, **kwargs):
    """A click option that is listed under a heading in `--help`."""
    def decorate(function):
        function = click.option(*names, **kwargs)(function)
        function.__click_params__[-1].group = group
        return function
    return decorate


class GroupedHelp(click.Command):
    """A command whose `--help` lists options under headings, in the order of their definition."""

    def format_options(self, ctx, formatter):
        groups: dict[str, list] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record:
                groups.setdefault(getattr(param, 'group', 'Other'), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


GENERAL, DATA, BASE, AUGMENT, METHODS, TRANSFER, SPEED = \
    'General', 'Data', 'Base configuration', 'Augmentation', 'Losses and regularizers', 'Transfer learning', 'Performance'


def zoo_options(command):
    """Adds an option `--METHOD_FIELD` for each field of each method's `Options`."""
    for name, spec in reversed(list(all_zoo_specs())):
        kind = click.Choice(spec.choices) if spec.choices else option_type(spec.type.removesuffix(' | None'), spec.within)
        default = 'none' if spec.default in (None, '') else f'{spec.default:g}' if spec.type == 'float' else spec.default
        text = f'{spec.help} [default: {default}]'
        command = option(f'--{name}_{spec.name}', type=kind, help=text, group=METHODS)(command)
    return command


def option_type(name: str, within: str):
    """The click type of a field of a method's options."""
    if within:
        return {'float': Real, 'int': Whole}[name](within)
    return {'bool': bool, 'str': str}[name]


def all_zoo_specs():
    """(method, field) of everything in the registry that has options."""
    for name, target in {**losses_ext.LOSSES, **losses_ext.BASE_TYPES, **losses_ext.REG_TYPES}.items():
        for spec in losses_ext.method_options(target):
            yield name, spec


@click.command(cls=GroupedHelp, context_settings=dict(max_content_width=110), epilog='''
\b
Examples:
  python train.py --outdir=runs --data=photos/ --mirror=1          Learn from a folder of square images.
  python train.py --outdir=runs --data=cats.zip --preset=limited   Options for 500 to 50 000 images.
  python train.py --outdir=runs --data=cats.zip --gpus=2 --cfg=auto --kimg=5000
  python train.py --outdir=runs --data=cats.zip --resume=ffhq256 --snap=10
  python train.py --outdir=runs --data=cats.zip --dry-run          Print the configuration and stop.
''')
@option('--outdir', metavar='DIR', group=GENERAL, help='Where the run gets a directory of its own.')
@option('--gpus', type=Whole(PROCESSES), metavar='INT', group=GENERAL,
        help='Processes, one per GPU; a power of two [default: 1]')
@option('--snap', type=Whole('[1, inf)'), metavar='TICKS', group=GENERAL,
        help='Ticks between snapshots [default: 50; tiny: 5]')
@option('--metrics', metavar='LIST', group=GENERAL,
        help='Metrics at each snapshot, or none [default: fid50k_full; tiny: none]')
@option('--seed', type=Whole(SEED), metavar='INT', group=GENERAL, help='Random seed [default: 0]')
@option('--download-detectors', is_flag=True, group=GENERAL,
        help='Fetch missing weights of the detectors of --metrics from their official addresses.')
@option('--snapshot-format', metavar='LIST', group=GENERAL, help='Files of each network snapshot: native (.safetensors), pkl '
        '(for programs that know the official snapshots) [default: native]')
@option('-n', '--dry-run', is_flag=True, group=GENERAL, help='Print the configuration and stop.')
@option('--new', is_flag=True, group=GENERAL,
        help='Start anew; without it, the same command continues an unfinished run.')
@option('--override', is_flag=True, group=GENERAL, help='Continue a run although its settings or data have changed.')
@option('--keep', metavar='LIST', group=GENERAL,
        help='Saved states to keep: the newest NUMBER[,best][,every=KIMG] [default: 2,best]')
@option('--log', metavar='LIST', group=GENERAL,
        help='Logs beside stats.jsonl: none, tensorboard, wandb [default: tensorboard if it is installed]')
@option('--data', metavar='PATH', group=DATA, help='Folder or zip of square images, all of one size.')
@option('--cond', type=bool, metavar='BOOL', group=DATA, help='Learn the classes of the data set [default: no]')
@option('--labels-from', type=click.Choice(['json', 'folders']), group=DATA,
        help='Where classes come from: dataset.json, or '
        'the names of subfolders [default: json]')
@option('--subset', type=Whole('[1, inf)'), metavar='INT', group=DATA,
        help='Train with that many images only [default: all]')
@option('--held-out', metavar='PATH', group=DATA,
        help='Images of which D is only asked what it thinks: the overfitting gap '
        '[default: what --subset leaves out]')
@option('--mirror', type=bool, metavar='BOOL', group=DATA, help='Double the data by mirror images [default: no]')
@option('--preset', type=click.Choice(list(PRESETS)), group=BASE, help='Options for so many images: below 500, up to '
        '50 000, more; printed, and options that are given win (docs/choosing.md) [default: none]')
@option('--cfg', type=click.Choice(CONFIG_NAMES), group=BASE, help='Base configuration [default: auto]')
@option('--gamma', type=Real('[0, inf)'), metavar='FLOAT', group=BASE, help='Weight of R1 [default: by --cfg]')
@option('--kimg', type=Whole('[1, inf)'), metavar='INT', group=BASE,
        help='Length of the run in thousands of images [default: by --cfg]')
@option('--batch', type=Whole(BATCH), metavar='INT', group=BASE, help='Images per iteration [default: by --cfg]')
@option('--batch-gpu', type=Whole(BATCH), metavar='INT', group=BASE,
        help='Images at once on one GPU [default: by --cfg]')
@option('--tick', type=Real('(0, inf)'), metavar='KIMG', group=BASE,
        help='Thousands of images in a tick [default: 4; tiny: 1]')
@option('--aug', type=click.Choice(['noaug', 'ada', 'fixed', 'diffaug']), group=AUGMENT,
        help='Augmentation [default: ada]')
@option('--p', type=Real('[0, 1]'), metavar='FLOAT', group=AUGMENT, help='Strength for --aug=fixed')
@option('--target', type=Real('[0, 1]'), metavar='FLOAT', group=AUGMENT,
        help='What --aug=ada holds the sign statistic at [default: 0.6]')
@option('--augpipe', type=click.Choice(AUGMENT_PIPES), group=AUGMENT, help='Which transformations [default: bgc]')
@option('--DiffAugment', 'diffaugment', metavar='LIST', group=AUGMENT,
        help='Policies of DiffAugment (color,translation,cutout); implies --aug=diffaug')
@option('--loss', type=click.Choice(list(losses_ext.LOSSES)), group=METHODS,
        help='Adversarial game [default: logistic]')
@option('--reg_type', metavar='LIST', group=METHODS,
        help=f'Methods: none, {", ".join(losses_ext.REG_TYPES)} [default: none; '
        'relativistic: r2]')
@zoo_options
@option('--init-from', metavar='NET', group=TRANSFER,
        help=f'Fine-tune a network, with its architecture unless --cfg is given: {", ".join(TRANSFER_NETS)}, any '
        'network file, URL or run directory')
@option('--allow-partial', is_flag=True, group=TRANSFER, help='Fine-tune although the file has not all tensors.')
@option('--resume', metavar='RUN|NET', group=TRANSFER, help='Continue the run in a directory; anything else starts '
        'from the weights in a file as --init-from does, with the architecture of --cfg [default: noresume]')
@option('--freezed', type=Whole('[0, 1000]'), metavar='INT', group=TRANSFER,
        help='Freeze that many layers of D [default: 0]')
@option('--device', type=click.Choice(['auto', 'cpu', 'cuda', 'mps']), group=SPEED,
        help='Where to compute [default: auto]')
@option('--ops', type=click.Choice(['auto', 'native', 'reference']), group=SPEED, help='Operators: compiled (native), '
        'plain tensor operations (reference), or what there is [default: auto]')
@option('--precision', type=click.Choice(['auto', 'fp32', 'fp16', 'bf16']), group=SPEED,
        help='Of the four highest resolutions; auto is fp16 on CUDA, fp32 elsewhere [default: auto]')
@option('--fp32', type=bool, metavar='BOOL', group=SPEED, help='The same as --precision=fp32 [default: no]')
@option('--nhwc', type=bool, metavar='BOOL', group=SPEED,
        help='Channels-last memory in reduced precision [default: no]')
@option('--nobench', type=bool, metavar='BOOL', group=SPEED, help='Without the cuDNN benchmark [default: no]')
@option('--allow-tf32', type=bool, metavar='BOOL', group=SPEED, help='TF32 in convolutions and products [default: no]')
@option('--workers', type=Whole(WORKERS), metavar='INT', group=SPEED,
        help='Processes that load images; 0: none [default: 3; tiny: 1]')
def main(**options):
    """Train a generator of images with the techniques of StyleGAN2-ADA, and a zoo of losses for limited data."""
    o = with_whole_paths(given(options))
    try:
        config = continued_run(o) if os.path.isdir(o.get('resume', '')) else started_run(o)
    except OSError as error:
        raise UserError(f'--data: {error}') from error
    measurable = measurable_metrics(config, options['download_detectors'], options['dry_run'])
    if not options['dry_run']:
        config = replace(config, metrics=measurable)
    tables = checked_plan(config) if options['dry_run'] or has_methods(config) else ''
    if torchrun.is_main_process():
        print_config(config)
    if is_finished(config):
        click.echo(f'{config["run_dir"]} is finished: it has {kimg_of(config):g} kimg, {config["total_kimg"]:g} are asked '
                   'for. A larger --kimg continues it; --new starts another run.')
    elif options['dry_run']:
        click.echo(tables)
        click.echo('Dry run; nothing was written.')
    else:
        sys.exit(start(config))


# ---------------------------------------------------------------------------------------------------------------------
# From options to a configuration: one function per group, in the order in which rules are checked


def given(options: dict) -> dict:
    """The options that were given, or have a default of their own."""
    return {key: value for key, value in options.items() if value is not None and not (key in FLAGS and not value)}


def with_whole_paths(o: dict) -> dict:
    """The same options, with paths that mean the same in every directory: they are read again when a run continues."""
    data = {key: ','.join(os.path.abspath(path) if path else path for path in str(o[key]).split(','))
            for key in o if key.endswith('_data')}
    for key in ('data', 'held_out'):
        if o.get(key):
            data[key] = os.path.abspath(o[key])
    for key in ('init_from', 'resume'):
        if os.path.isfile(o.get(key, '')):
            data[key] = os.path.abspath(o[key])
    return {**o, **data}


def config_from_args(argv: Sequence[str]) -> Config:
    """The configuration that a command line stands for, without a directory. Raises as `resolve`, and click's errors."""
    return config_of(main.make_context('train.py', list(argv)).params)


def config_of(options: dict) -> Config:
    """The configuration for options by their names; those that are None are not given. Raises as `resolve`."""
    return Config.from_json(resolve(given(options))[1])


def resolve(o: dict) -> tuple[str, dict]:
    """(name of the run, configuration) for the options that were given.

    Raises UserError with one sentence, OSError if the data cannot be opened.
    """
    config: dict = {}
    names: list[str] = []
    gpus = o.get('gpus', torchrun.world_size(1))
    require(gpus >= 1 and gpus & (gpus - 1) == 0, f'--gpus={gpus}: must be a power of two')
    metrics = parse_metrics(o['metrics']) if 'metrics' in o else None
    config['num_gpus'] = gpus
    config['random_seed'] = o.get('seed', 0)
    config['command'] = {key: value for key, value in o.items() if key not in NOT_OF_THE_RUN}

    config.update(resolve_data(o, names))
    base = base_config(o.get('cfg', 'auto'), config['data_shape']['img_resolution'], gpus)
    names.append(f'{o.get("cfg", "auto")}{gpus if o.get("cfg", "auto") == "auto" else ""}')
    config['image_snapshot_ticks'] = config['network_snapshot_ticks'] = o.get('snap', base.snap)
    config['metrics'] = list(base.metrics) if metrics is None else metrics
    if 'snapshot_format' in o:
        config['snapshot_formats'] = parse_formats(o['snapshot_format'])
    config['keep'] = parse_keep(o.get('keep', '2,best'))
    config['logs'] = parse_log(o['log']) if 'log' in o else [name for name in ('tensorboard',) if is_installed(name)]
    config['data_loader_kwargs'] = dict(pin_memory=True, num_workers=base.workers, prefetch_factor=2)
    config.update(networks(base))
    resolve_base(o, base, gpus, config, names)
    resolve_held_out(o, config)
    resolve_augment(o, config, names)
    resolve_resume(o, config, names)
    resolve_speed(o, config)
    resolve_zoo(o, config, names)
    if 'init_from' in o:
        check_tensors(o, config)
    elif 'resume_pkl' in config and ('dry_run' not in o or not is_remote(o['resume'])):
        check_weights(o['resume'], config)
    return '-'.join(names), config


def with_preset(o: dict) -> dict:
    """The options that were given and those that --preset stands for, which are printed."""
    if 'preset' not in o:
        return o
    name, (num_images, resolution) = o['preset'], data_size(o)
    added = added_options(name, resolution, o)
    if torchrun.is_main_process():
        words = ' '.join(f'--{key}={int(value) if isinstance(value, bool) else value}' for key, value in added.items())
        click.echo(f'--preset={name} stands for: {words or "nothing that is not given"}', err=True)
        if fitting_preset(num_images) != name:
            click.echo(f'Warning: --preset={fitting_preset(num_images)} is meant for {num_images} images, '
                       f'--preset={name} is not.', err=True)
    return {**o, **added}


def data_size(o: dict) -> tuple[int, int]:
    """(number of images that the run learns from, their resolution)."""
    from training.dataset import ImageFolderDataset
    num_images = 0
    for path in data_paths(o):
        dataset = ImageFolderDataset(path=path)
        num_images += len(dataset)
        resolution = dataset.image_shape[1]
        dataset.close()
    return min(num_images, o.get('subset', num_images)), resolution


def require(condition: bool, message: str) -> None:
    """Raises UserError unless the condition holds."""
    if not condition:
        raise UserError(message)


def parse_metrics(text: str) -> list[str]:
    """Names of metrics from a comma list; nothing or 'none' is an empty list."""
    from metrics.names import MetricError, parse_names
    try:
        return parse_names(text)
    except MetricError as error:
        raise UserError(f'--metrics={text}: {error}') from error


def parse_formats(text: str) -> list[str]:
    """--snapshot-format: 'native', by which a run goes on, and what else is wanted."""
    names = text.split(',')
    require(set(names) in ({'native'}, {'native', 'pkl'}),
            f'--snapshot-format={text}: must be native or native,pkl (this program itself uses the native files)')
    return sorted(set(names))


def parse_log(text: str) -> list[str]:
    """Names of logs from a comma list; each is also the name of the package and of the extra that it needs."""
    names = [name for name in text.split(',') if name] if text.lower() != 'none' else []
    for name in names:
        require(name in LOG_NAMES, f'--log={text}: there is no log {name}; valid: none, {", ".join(LOG_NAMES)}')
        require(is_installed(name), f'--log={text} needs the extra "{name}" (pip install {name})')
    return names


def is_installed(package: str) -> bool:
    """Can a Python package be imported? Does not import it."""
    import importlib.util
    return importlib.util.find_spec(package) is not None


def measurable_metrics(config: Config, download: bool = False, dry_run: bool = False) -> list[str]:
    """The metrics of a run, if the weights of their detectors are there: the default gives way to one that needs none.

    download: fetch missing weights; a dry run only says that it would.
    Raises UserError if the user has asked for something that cannot be measured here.
    """
    from metrics.names import MetricError
    from metrics.weights import WeightOptions, require_weights
    try:
        require_weights(config['metrics'], WeightOptions(download=download and not dry_run))
    except MetricError as error:
        if download and dry_run:
            click.echo(f'Note: the weights of detectors for {", ".join(config["metrics"])} would be downloaded.', err=True)
            return config['metrics']
        require('metrics' not in config['command'] and not download, f'--metrics: {error}')
        if torchrun.is_main_process():
            click.echo(f'Note: {config["metrics"][0]} needs a detector whose weights are not here; {OFFLINE_METRIC} takes '
                       'its place (--download-detectors fetches them; --metrics; docs/metrics.md).', err=True)
        return [OFFLINE_METRIC]
    return config['metrics']


def resolve_data(o: dict, names: list[str]) -> dict:
    """{arguments of the data set, shape of its items}."""
    from training.dataset import ImageFolderDataset
    paths = data_paths(o)
    labels_from = label_source(o, paths)
    shapes, fingerprints, nums = {}, [], []
    for path in paths:
        dataset = ImageFolderDataset(path=path, use_labels=bool(o.get('cond')), **labels_from)
        dataset.require_trainable()
        shapes[path] = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution,
                            img_channels=dataset.num_channels)
        require(shapes[path] == shapes[paths[0]],
                f'the data sets of a run must have images and labels of one shape, but {path} has {shapes[path]} and '
                f'{paths[0]} has {shapes[paths[0]]}')
        require(dataset.has_labels or not o.get('cond'),
                f'--cond: {path} has no labels; put them in its dataset.json, or images of each class in a subfolder '
                f'and give --labels-from=folders (docs/data.md)')
        names.append(dataset.name)
        fingerprints.append(dataset.fingerprint())
        nums.append(len(dataset))
        dataset.close()
    names[:] = ['+'.join(names)]
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=paths[0], use_labels=bool(o.get('cond')),
                  max_size=len(dataset) if len(paths) == 1 else None, xflip=bool(o.get('mirror')),
                  resolution=dataset.resolution, **labels_from)
    names += ['cond'] * bool(o.get('cond'))
    if 'subset' in o:
        require(o['subset'] <= len(dataset), f'--subset={o["subset"]}: must be between 1 and {len(dataset)}')
        names.append(f'subset{o["subset"]}')
        if o['subset'] < len(dataset):
            kwargs.update(max_size=o['subset'], random_seed=o.get('seed', 0))
    names += ['mirror'] * bool(o.get('mirror'))
    return dict(data_paths=paths, data_fingerprints=fingerprints, data_num_images=nums, training_set_kwargs=kwargs,
                data_shape=shapes[paths[0]])


def label_source(o: dict, paths: list[str]) -> dict:
    """--labels-from as an argument of the data sets. Folders are numbered in plain string order where that makes no
    difference, which is how all runs of before have recorded them, and else by the numbers in their names."""
    from training.dataset import ImageFolderDataset
    if 'labels_from' not in o:
        return {}
    if o['labels_from'] == 'folders' and o.get('cond'):
        for path in [*paths, *([o['held_out']] if 'held_out' in o else [])]:
            with closing(ImageFolderDataset(path, labels_from='folders')) as dataset:
                if dataset.has_ambiguous_order():
                    return dict(labels_from='natural-folders')
    return dict(labels_from=o['labels_from'])


def resolve_held_out(o: dict, config: dict) -> None:
    """--held-out, or what --subset leaves out: images that D never learns from, enough to fill a micro-batch."""
    from training.dataset import ImageFolderDataset
    require('held_out' not in o or 'data' in o, '--held-out has no effect without --data')
    if 'data' not in o or not {'held_out', 'subset'} & o.keys():
        return
    path, options = o.get('held_out', o['data']), label_source(o, [o['data']])
    dataset = ImageFolderDataset(path=path, use_labels=bool(o.get('cond')), **options)
    shape = dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    num = len(dataset) - (0 if 'held_out' in o else o['subset'])
    dataset.close()
    require(shape == config['data_shape'],
            f'--held-out={path}: images and labels have the shape {shape}, those of --data {config["data_shape"]}')
    require('held_out' not in o or num >= config['batch_gpu'],
            f'--held-out={path}: {num} images do not fill a batch of {config["batch_gpu"]}')
    if num >= config['batch_gpu']:
        config['held_out'] = o.get('held_out', 'rest')


def data_paths(o: dict) -> list[str]:
    """The data sets of the run: --data, or those that a chosen method brings."""
    for name in chosen_methods(o):
        if losses_ext.load(losses_ext.REG_TYPES[name]).brings_data:
            require('data' not in o, f'--data and --reg_type={name} exclude each other; name the data in --{name}_data')
            require(o.get(f'{name}_data'), f'--reg_type={name} needs --{name}_data')
            return o[f'{name}_data'].split(',')
    require('data' in o, f"Missing option '--data'. {EXAMPLE}")
    return [o['data']]


def chosen_methods(o: dict) -> list[str]:
    """The names in --reg_type, in registry order. Not given, it follows the game; without R1 there is nothing to follow."""
    has_r1 = o.get('r1_gamma', o.get('gamma')) != 0
    default = losses_ext.DEFAULT_REG_TYPES.get(adversarial_game(o), 'none') if has_r1 else 'none'
    try:
        return losses_ext.parse_reg_type(o.get('reg_type', default))
    except ValueError as error:
        raise UserError(f'--reg_type={o["reg_type"]}: {error}') from error


def adversarial_game(o: dict) -> str:
    """The game of --loss; one of --loss=osgan has an option for it."""
    loss = o.get('loss', 'logistic')
    return o.get(f'{loss}_game', loss)


def networks(base: BaseConfig) -> dict:
    """Arguments of networks, optimizers and loss of a base configuration."""
    channels = dict(channel_base=base.channel_base, channel_max=base.channel_max, num_fp16_res=4, conv_clamp=256)
    adam = dict(class_name='torch.optim.Adam', lr=base.lr, betas=[0, 0.99], eps=1e-8, fused=True)
    config = dict(
        G_kwargs=dict(class_name='training.networks.Generator', z_dim=base.z_dim, w_dim=base.z_dim,
                      mapping_kwargs=dict(num_layers=base.mapping_layers), synthesis_kwargs=dict(channels)),
        D_kwargs=dict(class_name='training.networks.Discriminator', block_kwargs={}, mapping_kwargs={},
                      epilogue_kwargs=dict(mbstd_group_size=base.mbstd), **channels),
        G_opt_kwargs=adam, D_opt_kwargs=dict(adam),
        loss_kwargs=dict(r1_gamma=base.gamma, style_mixing_prob=0.9, pl_weight=2, pl_decay=0.01, pl_batch_shrink=2),
        G_reg_interval=4, D_reg_interval=16)
    if base.plain:
        config['loss_kwargs'].update(pl_weight=0, style_mixing_prob=0)
        config['D_kwargs']['architecture'] = 'orig'
    return config


def resolve_base(o: dict, base: BaseConfig, gpus: int, config: dict, names: list[str]) -> None:
    """--gamma, --kimg, --batch, --tick."""
    if 'gamma' in o:
        names.append(f'gamma{o["gamma"]:g}')
        config['loss_kwargs']['r1_gamma'] = o['gamma']
    if 'kimg' in o:
        names.append(f'kimg{o["kimg"]}')
    batch, batch_gpu = base.batch, base.batch // (base.ref_gpus or gpus)
    if 'batch' in o:
        batch = o['batch']
        require(batch % gpus == 0, f'--batch={batch}: must be a multiple of --gpus={gpus}')
        names.append(f'batch{batch}')
        batch_gpu = batch // gpus
    batch_gpu = o.get('batch_gpu', batch_gpu)
    require(batch % (batch_gpu * gpus) == 0,
            f'a batch of {batch} cannot be divided among {gpus} processes in pieces of {batch_gpu}; '
            f'give --batch a multiple of {batch_gpu * gpus}, or --batch-gpu a divisor of {max(batch // gpus, 1)}')
    group = min(config['D_kwargs']['epilogue_kwargs']['mbstd_group_size'], batch_gpu)
    require(batch_gpu % group == 0,
            f'{batch_gpu} images at once on one GPU are no multiple of the minibatch-std group of {group}; '
            f'give --batch-gpu a multiple of {group}')
    config.update(total_kimg=o.get('kimg', base.kimg), batch_size=batch, batch_gpu=batch_gpu, ema_kimg=base.ema_kimg,
                  ema_rampup=base.ema_rampup, kimg_per_tick=o.get('tick', base.kimg_per_tick))


def resolve_augment(o: dict, config: dict, names: list[str]) -> None:
    """--aug, --p, --target, --augpipe, --DiffAugment."""
    policy = o.get('diffaugment')
    if policy:
        for other in ('p', 'target', 'augpipe'):
            require(other not in o, f'--{other} has no effect with --DiffAugment')
        if o.get('aug', 'diffaug') != 'diffaug':
            click.echo(f'Warning: --DiffAugment={policy} overrules --aug={o["aug"]}.', err=True)
    aug = 'diffaug' if policy else o.get('aug', 'ada')
    if policy:
        names.append('-'.join(policy.split(',')))
    elif 'aug' in o:
        names.append(aug)
    require('p' not in o or aug == 'fixed', '--p has no effect without --aug=fixed')
    require(aug != 'fixed' or 'p' in o, '--aug=fixed needs --p, the strength between 0 and 1')
    require('target' not in o or aug == 'ada', '--target has no effect without --aug=ada')
    require('augpipe' not in o or aug in ('ada', 'fixed'), f'--augpipe has no effect with --aug={aug}')
    for name in ('p', 'target'):
        if name in o:
            names.append(f'{name}{o[name]:g}')
    if 'augpipe' in o:
        names.append(o['augpipe'])
    config.update(ada_interval=4, ada_kimg=500)
    if aug == 'ada':
        config['ada_target'] = o.get('target', 0.6)
    if aug == 'fixed':
        config['augment_p'] = o['p']
    if aug in ('ada', 'fixed'):
        from training.augment import PIPES, AugmentPipe
        pipe, res = o.get('augpipe', 'bgc'), config['data_shape']['img_resolution']
        config['augment_kwargs'] = dict(class_name='training.augment.AugmentPipe', **PIPES[pipe])
        try:
            AugmentPipe(**PIPES[pipe]).require_size(res, res)
        except ValueError as error:
            raise UserError(f'--augpipe={pipe}: {error}') from error
    if aug == 'diffaug':
        from training.diffaugment import DiffAugment
        policy = policy or 'color,translation,cutout'
        try:
            DiffAugment(policy)
        except ValueError as error:
            raise UserError(f'--DiffAugment: {error}') from error
        config['augment_kwargs'] = dict(class_name='training.diffaugment.DiffAugment', policy=policy)


def parse_keep(text: str) -> dict:
    """--keep as plain data."""
    from training.run.keep import Keep
    try:
        return asdict(Keep.parse(text))
    except ValueError as error:
        raise UserError(f'--keep={error}') from error


def resolve_resume(o: dict, config: dict, names: list[str]) -> None:
    """--init-from, --resume, --freezed."""
    net = o.get('resume', 'noresume')
    require('init_from' not in o or net == 'noresume', '--init-from and --resume exclude each other')
    require('init_from' in o or 'allow_partial' not in o, '--allow-partial has no effect without --init-from')
    if 'init_from' in o:
        source = o['init_from']
        names.append(f'init{source if source in TRANSFER_NETS else "custom"}')
        config.update(init_from=network_url(source), allow_partial='allow_partial' in o, ada_kimg=100, ema_rampup=None)
        if 'cfg' not in o:
            from training.transfer import adopt_architecture
            adopt_architecture(config, load_networks(source))
    if 'resume' in o:
        names.append(net if net == 'noresume' else f'resume{net if net in TRANSFER_NETS else "custom"}')
    if net != 'noresume':
        if not is_remote(net):
            load_networks(net, '--resume')
        click.echo(f'--resume={net} starts a new run from these weights. A run is continued by --resume=RUN_DIR, or '
                   'by the same command.', err=True)
        config.update(resume_pkl=network_url(net), ada_kimg=100, ema_rampup=None)
    if 'freezed' in o:
        names.append(f'freezed{o["freezed"]}')
        config['D_kwargs']['block_kwargs']['freeze_layers'] = o['freezed']


def is_remote(source: str) -> bool:
    """Does it take a download to read a network?"""
    return source in TRANSFER_NETS or '://' in source


def network_url(source: str) -> str:
    """A file, URL or directory, from that or from a short name."""
    return TRANSFER_URL + TRANSFER_NETS[source] if source in TRANSFER_NETS else source


@cache
def load_networks(source: str, option: str = '--init-from') -> dict:
    """The networks that an option names."""
    from torch_utils.checkpoint import CheckpointError
    from torch_utils.network_file import load_network
    try:
        return load_network(network_url(source))
    except (CheckpointError, OSError) as error:
        raise UserError(f'{option}: {error}') from error


def check_tensors(o: dict, config: dict) -> None:
    """Says how the networks of --init-from fit those of the run; refuses what fits in part, unless that is wanted."""
    from training.transfer import compare
    matches = compare(config, load_networks(o['init_from']))
    if torchrun.is_main_process():
        for name, match in matches.items():
            click.echo(f'--init-from: {name}: {match}.', err=True)
    partial = [name for name, match in matches.items() if not match.is_complete]
    require(not partial or 'allow_partial' in o,
            f'--init-from={o["init_from"]}: not all tensors of {", ".join(partial)} are there; --allow-partial starts '
            'with what matches and fresh values for the rest')


def check_weights(source: str, config: dict) -> None:
    """Refuses a file for --resume whose tensors have other shapes than those of the run; what it lacks starts fresh."""
    from training.transfer import compare
    for name, match in compare(config, load_networks(source, '--resume')).items():
        require(not match.mismatched,
                f'--resume={source} does not fit the networks of this run: {name}: {match}; --init-from={source} takes their '
                'architecture from the file')


def resolve_zoo(o: dict, config: dict, names: list[str]) -> None:
    """--loss, --reg_type and the options of the methods. Comes last: methods complete their options from the rest."""
    loss = o.get('loss', 'logistic')
    chosen = chosen_methods(o)
    usual = losses_ext.DEFAULT_REG_TYPES.get(adversarial_game(o))
    if usual and (usual in chosen) != ('reg_type' in o):
        click.echo(f'Note: --reg_type={usual} belongs to --loss={loss}; it is the default there, and left out if --reg_type '
                   'names others.', err=True)
    names += [loss] * (loss != 'logistic') + [name for name in chosen if name not in losses_ext.GROUPS]
    given = {name: given_options(name, o) for name in zoo_names()}
    for name, fields in given.items():
        switch = f'--loss={name}' if name in losses_ext.LOSSES else f'--reg_type={name}'
        require(not fields or name in (*chosen, *losses_ext.BASE_TYPES, loss),
                f'--{name}_{next(iter(fields), None)} has no effect without {switch}')
        names += [f'{name}_{field}{value:g}' if isinstance(value, float) else f'{name}_{field}{value}'
                  for field, value in fields.items()
                  if value != zoo_default(name, field) and field != 'data']        # Data sets are in the name already.
    config['loss'] = loss
    config['loss_kwargs'].update(game=loss, **base_options(o, given))
    config['regularizers'] = {name: given[name] for name in chosen}
    try:
        losses_ext.configure(config, given.get(loss, {}))
    except ValueError as error:
        raise UserError(str(error)) from error


def base_options(o: dict, given: dict) -> dict:
    """The options of the methods that every run has, if they were given and are not those it has anyway."""
    require(o.get('r1_gamma', o.get('gamma')) == o.get('gamma', o.get('r1_gamma')),
            '--r1_gamma and --gamma are two names of one option: give one of them')
    return {f'{name}_{field}': value for name in losses_ext.BASE_TYPES for field, value in given[name].items()
            if value != zoo_default(name, field)}


def zoo_names() -> list[str]:
    """The methods that have options, in registry order."""
    return list(dict.fromkeys(name for name, _ in all_zoo_specs()))


def given_options(method: str, o: dict) -> dict:
    """{field: value} of the options of a method that were given."""
    return {spec.name: o[f'{name}_{spec.name}'] for name, spec in all_zoo_specs()
            if name == method and f'{name}_{spec.name}' in o}


def zoo_default(method: str, field: str):
    """The default of an option of a method."""
    return next(spec.default for name, spec in all_zoo_specs() if (name, spec.name) == (method, field))


def resolve_speed(o: dict, config: dict) -> None:
    """--device, --ops, --precision and the switches of the reference."""
    from torch_utils import distributed
    device = distributed.check_device(o.get('device', 'auto'), config['num_gpus'])      # Untouched: it is for the ranks.
    precision = 'fp32' if o.get('fp32') else o.get('precision', 'auto')
    require(not o.get('fp32') or o.get('precision') in (None, 'auto', 'fp32'),
            f'--fp32=1 and --precision={o.get("precision")} contradict each other')
    if precision == 'auto':
        precision = 'fp16' if device == 'cuda' else 'fp32'
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        if precision == 'fp32':
            kwargs.update(num_fp16_res=0, conv_clamp=None)
        elif precision == 'bf16':
            kwargs['reduced_dtype'] = 'bfloat16'
    if precision == 'bf16' and device == 'cuda':
        distributed.check_bfloat16(config['num_gpus'])
    check_ops(o.get('ops', 'auto'), device, precision, config['num_gpus'])
    if o.get('nhwc'):
        config['G_kwargs']['synthesis_kwargs']['fp16_channels_last'] = True
        config['D_kwargs']['block_kwargs']['fp16_channels_last'] = True
    workers = o.get('workers', config['data_loader_kwargs']['num_workers'])
    config['data_loader_kwargs'] = dict(pin_memory=device == 'cuda', num_workers=workers,
                                        prefetch_factor=2 if workers else None)
    config.update(device=o.get('device', 'auto'), ops=o.get('ops', 'auto'), cudnn_benchmark=not o.get('nobench', False),
                  allow_tf32=o.get('allow_tf32', False))


def check_ops(name: str, device_type: str, precision: str, num_processes: int) -> None:
    """Builds the operators, if need be, for --ops=native; raises UserError if there are none."""
    import torch

    from torch_utils.ops import backend
    reduced = {'fp32': [], 'fp16': [torch.float16], 'bf16': [torch.bfloat16]}[precision]
    with backend.default(name):
        try:
            backend.check_default(device_type, [torch.float32, *reduced], num_processes)
        except ValueError as error:
            raise UserError(f'--ops={name}: {error}') from error


# ---------------------------------------------------------------------------------------------------------------------
# The run directory, and the start


def next_run_id(outdir: str) -> int:
    """One more than the highest number that a directory in `outdir` begins with."""
    names = [entry.name for entry in os.scandir(outdir) if entry.is_dir()] if os.path.isdir(outdir) else []
    return max([int(match[0]) for name in names if (match := re.match(r'\d+', name))], default=-1) + 1


def print_config(config: Config) -> None:
    """The whole configuration, then what matters most of it."""
    print('\nTraining options:')
    print(json.dumps(config.to_json(), indent=2))
    data, shape = config['training_set_kwargs'] or {}, config['data_shape']
    print(f'\nOutput directory:   {config["run_dir"]}')
    print(f'Training data:      {", ".join(config["data_paths"])}')
    print(f'Training duration:  {config["total_kimg"]:g} kimg')
    print(f'Number of GPUs:     {config["num_gpus"]}')
    print(f'Number of images:   {data.get("max_size", "all")}')
    print(f'Image resolution:   {shape["img_resolution"]}')
    print(f'Conditional model:  {shape["c_dim"] > 0}{unused_labels(config)}')
    print_labels(config)
    print(f'Dataset x-flips:    {data.get("xflip", False)}\n')
    print_passed_over(config)


def print_passed_over(config: dict) -> None:
    """A line per data set about the files in it that are none of its images."""
    from training.dataset import ImageFolderDataset
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path)) as dataset:
            if dataset.passed_over():
                print(f'{path}: {dataset.passed_over()}\n')


def print_labels(config: dict) -> None:
    """What the labels are that the run learns: of classes, numbers, names, and how many images each has."""
    from training.dataset import ImageFolderDataset
    options = resume.set_kwargs(config)
    if not options.get('use_labels'):
        return
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path, use_labels=True, labels_from=options.get('labels_from', 'json'))) as dataset:
            kind, *lines = dataset.about_labels()
        print(f'Labels:             {kind}{f" ({path})" if len(config["data_paths"]) > 1 else ""}')
        for line in lines:
            print(f'    {line}')


def unused_labels(config: dict) -> str:
    """Words about the labels of the data sets, if they have some and the run does not learn them."""
    from training.dataset import ImageFolderDataset
    options = resume.set_kwargs(config)
    if options.get('use_labels'):
        return ''
    for path in config['data_paths']:
        try:
            with closing(ImageFolderDataset(path, use_labels=True, labels_from=options.get('labels_from', 'json'))) as dataset:
                kind = dataset.about_labels()[0]
        except OSError as error:
            return f' (the labels of the data set are not used, nor could they be: {error})'
        if kind != 'none':
            return f' (the data set has labels, {kind}, which are not used; --cond=1 learns them)'
    return ''


def has_methods(config: dict) -> bool:
    """Is there anything beside the base, of which only building it (for a second) tells whether it fits together?"""
    return bool(config['regularizers']) or config['loss'] != 'logistic'


def checked_plan(config: dict) -> str:
    """The tables of what each iteration of the run will be. Raises UserError for what does not fit together."""
    from training.run.plan import plan
    try:
        return plan(config)
    except ValueError as error:
        raise UserError(str(error)) from error


def started_run(o: dict) -> Config:
    """The configuration of a new run, or of the unfinished one that the same command has started before."""
    require('outdir' in o, f"Missing option '--outdir'. {EXAMPLE}")
    o = with_preset(o)
    run_name, resolved = resolve(o)
    config = Config.from_json({
        **resolved, 'run_dir': os.path.join(o['outdir'], f'{next_run_id(o["outdir"]):05d}-{run_name}')})
    earlier = earlier_runs(o['outdir'], run_name) if 'new' not in o else []
    as_before = {run_dir: resume.with_classes_of(saved, config) for run_dir, saved in earlier}
    changes = {run_dir: resume.differences(saved, as_before[run_dir]) for run_dir, saved in earlier}
    same = [run_dir for run_dir in changes if not changes[run_dir]]
    for run_dir in same or [run_dir for run_dir in changes if resume.is_of_the_data(changes[run_dir])]:
        refuse_changes(run_dir, config, changes[run_dir], 'override' in o)
        refuse_lost_states(run_dir, config)
        return replace(Config.from_json(as_before[run_dir]), run_dir=run_dir)
    if earlier:
        run_dir = earlier[0][0]
        click.echo(f'A new run: {run_dir} has other settings ({resume.in_words(changes[run_dir])}).', err=True)
    return config


def earlier_runs(outdir: str, run_name: str) -> list[tuple[str, Config]]:
    """(directory, configuration) of all runs of this name, the latest first."""
    found = []
    for entry in os.scandir(outdir) if os.path.isdir(outdir) else []:
        number, _, name = entry.name.partition('-')
        if number.isdigit() and name == run_name and entry.is_dir():
            found.append((int(number), entry.path))
    runs = []
    for _, path in sorted(found, reverse=True):
        try:
            runs.append((path, options_of(path)))
        except ValueError as error:
            refuse_damaged_options(path, error)
            click.echo(f'Passed over: {error}', err=True)
    return runs


def options_of(run_dir: str) -> Config:
    """The configuration of a run; if its file is damaged or gone, that of its newest saved state. Raises ValueError."""
    try:
        return resume.saved_options(run_dir)
    except ValueError as error:
        from training.run.states import options_in_states
        saved = options_in_states(Path(run_dir))
        if saved is None:
            raise
        click.echo(f'Warning: {error}; its newest saved state has the settings, too.', err=True)
        return saved


def refuse_damaged_options(run_dir: str, error: ValueError) -> None:
    """Raises UserError if a directory of this run's name has lost its settings, but not what was trained."""
    is_foreign = error.__cause__ is None        # It can be read, but another program has written it.
    lost = resume.lost_progress(run_dir, batch_size=0)
    require(is_foreign or lost is None,
            f'{error}, nor has it a saved state, but there are {lost}; {ways_on(run_dir)}, and --new starts another run')


def ways_on(run_dir: str) -> str:
    """What can be done with a run that cannot go on, as part of a sentence."""
    return f'--init-from={run_dir} starts a new run from its newest network'


def refuse_lost_states(run_dir: str, config: Config) -> None:
    """Raises UserError if a run would begin again over what it has written, because its saved states are gone."""
    lost = resume.lost_progress(run_dir, config['batch_size'])
    require(lost is None,
            f'{run_dir} has no saved state to continue from (training-state-*.safetensors), but there are {lost}, which '
            f'would be written over; bring a state back, or else {ways_on(run_dir)}, and --new starts another run')


def continued_run(o: dict) -> Config:
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
    gpus = given.get('gpus') or torchrun.world_size(saved['num_gpus'])
    config = with_processes(Config.from_json({**config, 'run_dir': run_dir}), gpus)
    refuse_changes(run_dir, config, resume.differences(saved, config), 'override' in o)
    return config


def resolve_again(saved: Config, command: dict, given: dict) -> dict:
    """The configuration of a saved run with other options. It is that for the processes that the run began with: much
    follows from their number, and is to stay."""
    gpus = command.get('gpus', saved['num_gpus'])
    return resume.with_classes_of(saved, resolve(with_whole_paths({**command, **given, 'gpus': gpus}))[1])


def with_processes(config: Config, gpus: int) -> Config:
    """The same run on so many processes: the batch stays as large as it is, and is divided among them."""
    if gpus == config['num_gpus']:
        return config
    from torch_utils import distributed
    batch, group = config['batch_size'], config['D_kwargs']['epilogue_kwargs']['mbstd_group_size']
    require(gpus >= 1 and gpus & (gpus - 1) == 0, f'--gpus={gpus}: must be a power of two')
    require(batch % gpus == 0, f'--gpus={gpus}: the batch of this run, {batch}, cannot be divided among them')
    distributed.check_device(config['device'], gpus)
    sizes = [num for num in range(1, min(batch // gpus, config['batch_gpu']) + 1)
             if batch // gpus % num == 0 and num % min(group, num) == 0]
    command = {**config['command'], 'gpus': config['command'].get('gpus', config['num_gpus'])}
    return replace(config, num_gpus=gpus, batch_gpu=max(sizes), command=command)


def where_it_lies_now(error: OSError, command: dict, saved: Config) -> str:
    """The option that names a data set which has moved, as part of a sentence."""
    if command.get('held_out') and str(error).startswith(command['held_out']):
        return '--held-out=PATH says where it lies now'
    brought = [name for name in saved['regularizers'] if saved['regularizers'][name].get('data')]
    return f'--{brought[0]}_data=PATHS says where they lie now' if brought else '--data=PATH says where it lies now'


def saved_command(run_dir: str, saved: Config) -> dict:
    """The options that started a run, each converted as on the command line: a file may say anything."""
    params = {param.name: param for param in main.params}
    try:
        return {key: params[key].type(value, params[key], None) for key, value in saved['command'].items()}
    except (KeyError, ValueError, click.BadParameter) as error:
        raise UserError(f'--resume: {Path(run_dir, resume.OPTIONS_FILE)} was not written by this program: its command '
                        f'has options that there are not ({error})') from error


def data_now(config: Config) -> dict:
    """What a configuration says of the run's data sets, as they are now."""
    from training.dataset import ImageFolderDataset
    kwargs = resume.set_kwargs(config)
    options = {key: kwargs[key] for key in ('use_labels', 'labels_from') if key in kwargs}
    sets = [ImageFolderDataset(path, **options) for path in config['data_paths']]
    first = sets[0]
    now = dict(data_fingerprints=[dataset.fingerprint() for dataset in sets], data_num_images=[*map(len, sets)],
               data_shape=dict(c_dim=first.label_dim, img_resolution=first.resolution, img_channels=first.num_channels))
    if config['training_set_kwargs']:
        subset = config['command'].get('subset')
        is_subset = isinstance(subset, int) and subset < len(first)
        now['training_set_kwargs'] = {**kwargs, 'max_size': subset if is_subset else len(first)}
        if is_subset:
            now['training_set_kwargs'].setdefault('random_seed', config['random_seed'])
    return now


def refuse_changes(run_dir: str, config: Config, changes: dict, override: bool) -> None:
    """Says in what a run would go on differently; raises UserError unless that is wanted and possible."""
    if not changes:
        return
    if resume.is_of_the_data(changes):
        sentence = f'the data of this run has changed: {resume.in_words(changes).removeprefix("data: ")} ({run_dir})'
        sentence += no_longer_taken(config)
    else:
        sentence = f'{run_dir} was started with other settings or data ({resume.in_words(changes)})'
    require(resume.is_possible(changes),
            f'{sentence}; its networks do not fit these data: {ways_on(run_dir)} (with --allow-partial), and --new starts '
            'another run')
    require(override, f'{sentence}; --override continues all the same, --new starts another run')
    click.echo(f'{sentence}; continuing all the same.', err=True)


def no_longer_taken(config: Config) -> str:
    """Words about folders in the data that programs left behind: images of them were in runs of earlier versions."""
    from training.dataset import ImageFolderDataset
    names = []
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path)) as dataset:
            names += dataset.left_behind()
    return (f', where pictures that programs left behind ({", ".join(dict.fromkeys(names))}) no longer count as images'
            if names else '')


def is_finished(config: Config) -> bool:
    """Is there nothing left to do in the run's directory?"""
    return kimg_of(config) >= config['total_kimg']


def kimg_of(config: Config) -> float:
    """How far the run in the directory is, in thousands of images."""
    if not os.path.isdir(config['run_dir']):
        return 0
    from training.run.states import images_shown
    return (images_shown(Path(config['run_dir'])) or 0) / 1000


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
        distributed.launch(train, config['num_gpus'], (config,))

    if not torchrun.is_main_process():
        run()
        return 0
    with ExitStack() as stack:
        try:
            Path(config['run_dir']).mkdir(parents=True, exist_ok=True)
            stack.enter_context(resume.locked(config['run_dir']))
            resume.write_options(config)
        except resume.BusyError as error:
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
    sys.exit(main())
