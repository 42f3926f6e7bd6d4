"""From options to a configuration: one function per group, in the order in which rules are checked."""
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dnnlib import torchrun
from torch_utils.network_schema import classes_for, short_name
from training.config.augmentation import resolve_augment
from training.config.base_configs import BaseConfig, base_config, implied_options, networks
from training.config.data_sets import resolve_data, resolve_held_out, resolve_metric_data
from training.config.methods import resolve_methods
from training.config.options import NOT_OF_THE_RUN
from training.config.rules import UserError, require
from training.config.sources import check_source, resolve_source

DETAILS = {             # Options, and what they are called in a base configuration.
    'cbase': 'channel_base', 'cmax': 'channel_max', 'map_depth': 'mapping_layers', 'mbstd_group': 'mbstd',
    'mixing_prob': 'mixing_prob', 'ema_kimg': 'ema_kimg', 'ema_rampup': 'ema_rampup',
}
OFFICIAL = ('training.networks.Generator', 'training.networks.Discriminator')     # Classes that pickles can have.
LOG_NAMES = ('tensorboard', 'wandb', 'mlflow', 'trackio')


def resolve(o: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name of the run, configuration) for the options that were given.

    Raises UserError with one sentence, OSError if the data cannot be opened.
    """
    names: list[str] = []
    given, implied = o, implied_options(base_name(o), o)
    o = {**implied, **o}
    gpus = o.get('gpus', torchrun.world_size(1))
    require_power_of_two(gpus)
    config = dict(gpus=gpus, seed=o.get('seed', 0),
                  command={key: value for key, value in given.items() if key not in NOT_OF_THE_RUN})
    resolve_data(o, config, names)
    base = base_config(base_name(o), config['data_shape']['img_resolution'], gpus)
    names.append(f'auto{gpus}' if base_name(o) == 'auto' else base_name(o))
    base = with_details(o, base, names)
    resolve_output(o, base, config)
    config.update(networks(base))
    resolve_networks(o, config, names)
    resolve_base(o, base, config, names)
    resolve_held_out(o, config)
    resolve_metric_data(o, config)
    resolve_augment(o, base, config, names)
    resolve_source(o, config, names)
    resolve_speed(o, base, config)
    if base.r3gan:
        config['loss_kwargs']['r1_final'] = o.get('r1_gamma', config['loss_kwargs']['r1_gamma']) / 10
    resolve_methods(o, config, names)
    check_networks(o, config)
    check_source(o, config)
    resolve_ramps(o, base, config, implied)
    return '-'.join(without_implied(names, implied)), config


def without_implied(names: list[str], implied: Mapping[str, Any]) -> list[str]:
    """The parts of a name without those of options that the base configuration stands for."""
    for word in [f'p{value:g}' if option == 'p' else 'mirror' if option == 'mirror' else value
                 for option, value in implied.items()]:
        last = len(names) - 1 - names[::-1].index(word)
        names = names[:last] + names[last + 1:]
    return names


def resolve_ramps(o: Mapping[str, Any], base: BaseConfig, config: dict[str, Any], implied: Mapping[str, Any]) -> None:
    """--ramp-kimg, and the numbers that change on the way."""
    is_linear = o.get('aug') == 'linear' and not o.get('diffaugment')
    require(base.r3gan or is_linear or 'ramp_kimg' not in o,
            '--ramp-kimg has no effect without --cfg=r3gan or --aug=linear')
    require(not (base.r3gan and is_linear),
            '--aug=linear has no effect with --cfg=r3gan, whose strength goes another way: leave it out, or give '
            '--aug=fixed')
    if is_linear:
        config.update(ramps=dict(p=[0, o.get('target', 0.6)]), ramp_shape='linear',
                      ramp_kimg=o.get('ramp_kimg', config['kimg']))
    if base.r3gan:
        config['ramps'] = dict(lr=[1, 0.25], beta2=[0.9, 0.99], ema_kimg=[0, base.ema_kimg])
        if 'p' in implied:
            config['ramps']['p'] = [0, 0.55 if config['data_shape']['img_resolution'] <= 32 else 0.3]
        config['ramp_kimg'] = o.get('ramp_kimg', min(config['kimg'], 20000))


def base_name(o: Mapping[str, Any]) -> str:
    """Which base configuration is asked for."""
    return o.get('cfg', 'auto')


def with_details(o: Mapping[str, Any], base: BaseConfig, names: list[str]) -> BaseConfig:
    """--cbase, --cmax, --map-depth, --mbstd-group, --mixing-prob, --ema-kimg, --ema-rampup:
    a base configuration with what else was given."""
    given = {field: o[option] for option, field in DETAILS.items() if option in o}
    if given.get('ema_rampup') == 0:
        given['ema_rampup'] = None              # No ramp-up.
    names += [f'{option.replace("_", "")}{o[option]:g}' for option in DETAILS if option in o]
    return replace(base, **given)


def require_power_of_two(gpus: int) -> None:
    """Raises UserError for another number of processes."""
    require(gpus >= 1 and gpus & (gpus - 1) == 0, f'--gpus={gpus}: must be a power of two')


def resolve_output(o: Mapping[str, Any], base: BaseConfig, config: dict[str, Any]) -> None:
    """--snap, --metrics, --snapshot-format, --keep, --log: what is saved and shown, and when.
    Metrics are taken as they are."""
    config['snap'] = o.get('snap', base.snap)
    config['metrics'] = listed(o['metrics']) if 'metrics' in o else list(base.metrics)
    if 'snapshot_format' in o:
        config['snapshot_format'] = parse_formats(o['snapshot_format'])
    config['keep'] = parse_keep(o.get('keep', '2,best'))
    config['log'] = parse_log(o['log']) if 'log' in o else [name for name in ('tensorboard',) if is_installed(name)]


def listed(text: str) -> list[str]:
    """The names in a comma list; nothing or 'none' is an empty list."""
    return [name.strip() for name in text.split(',') if name.strip()] if text.lower() != 'none' else []


def parse_formats(text: str) -> list[str]:
    """--snapshot-format: 'native', by which a run goes on, and what else is wanted."""
    names = text.split(',')
    require(set(names) in ({'native'}, {'native', 'pkl'}),
            f'--snapshot-format={text}: must be native or native,pkl (this program itself uses the native files)')
    return sorted(set(names))


def parse_log(text: str) -> list[str]:
    """Names of logs from a comma list; each is also the name of the
    package and of the extra that it needs."""
    names = listed(text)
    for name in names:
        require(name in LOG_NAMES,
                f'--log={text}: there is no log {name}; valid: none, {", ".join(LOG_NAMES)}')
        require(is_installed(name), f'--log={text} needs the extra "{name}" (pip install {name})')
    return names


def is_installed(package: str) -> bool:
    """Can a Python package be imported? Does not import it."""
    return importlib.util.find_spec(package) is not None


def parse_keep(text: str) -> dict:
    """--keep as plain data."""
    from training.run.keep import Keep
    try:
        return asdict(Keep.parse(text))
    except ValueError as error:
        raise UserError(f'--keep={error}') from error


def resolve_networks(o: Mapping[str, Any], config: dict[str, Any], names: list[str]) -> None:
    """--G, --D: networks of other classes, which get the same arguments (training/network_protocol.py)."""
    for network in ('G', 'D'):
        usual = config[f'{network}_kwargs']['class_name']
        class_name = classes_for(network)[o[network]] if network in o else usual
        if class_name != usual:
            require('init_from' not in o or 'cfg' in o,
                    f'--{network} has no effect with --init-from, which takes the '
                    'networks of the file; --cfg as well starts new ones from what matches')
            config[f'{network}_kwargs']['class_name'] = class_name
            names.append(o[network])
        if class_name not in OFFICIAL:
            require('pkl' not in config.get('snapshot_format', ()), f'--{network}={short_name(class_name)} cannot be saved as '
                    'pkl, in the form of the official snapshots: leave out --snapshot-format')


def check_networks(o: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Raises UserError if a class that --G or --D names cannot be built with what it gets."""
    for network in [network for network in 'GD' if network in o or config[f'{network}_kwargs']['class_name'] not in OFFICIAL]:
        from torch_utils.checkpoint import skeleton
        kwargs = {**config['data_shape'], **config[f'{network}_kwargs']}
        try:
            skeleton(kwargs.pop('class_name'), kwargs, max_layers=1000)
        except ValueError as error:
            raise UserError(f'--{network}={short_name(config[f"{network}_kwargs"]["class_name"])}: {error}') from error
    require_styles(o, config)


def require_styles(o: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Raises UserError if a generator without styles is to be trained as if it had some."""
    from dnnlib.util import get_obj_by_name
    name = config['G_kwargs']['class_name']
    if name not in OFFICIAL and not getattr(get_obj_by_name(name), 'has_styles', True):
        loss = config['loss_kwargs']
        require(loss['style_mixing_prob'] == 0, f'--G={short_name(name)} has no styles to mix: give --mixing-prob=0')
        require(loss['pl_weight'] == 0, f'--G={short_name(name)} has no W to measure path lengths by: give --pl_weight=0')
        require('map_depth' not in o, f'--map-depth has no effect with --G={short_name(name)}, which has no mapping network')


def resolve_base(o: Mapping[str, Any], base: BaseConfig, config: dict[str, Any], names: list[str]) -> None:
    """--gamma, --glr, --dlr, --kimg, --tick, --batch, --batch-gpu."""
    for player in 'GD':
        if (rate := o.get(f'{player.lower()}lr')) is not None:
            names.append(f'{player.lower()}lr{rate:g}')
            config[f'{player}_opt_kwargs']['lr'] = rate
    if 'gamma' in o:
        names.append(f'gamma{o["gamma"]:g}')
        config['loss_kwargs']['r1_gamma'] = o['gamma']
    if 'kimg' in o:
        names.append(f'kimg{o["kimg"]}')
    if 'batch' in o:
        names.append(f'batch{o["batch"]}')
    config.update(kimg=o.get('kimg', base.kimg), tick=o.get('tick', base.tick),
                  ema_kimg=base.ema_kimg, ema_rampup=base.ema_rampup)
    config['batch'], config['batch_gpu'] = batch_sizes(o, base, config['gpus'])
    require_whole_groups(config['batch_gpu'], config['D_kwargs']['epilogue_kwargs']['mbstd_group_size'])


def batch_sizes(o: Mapping[str, Any], base: BaseConfig, gpus: int) -> tuple[int, int]:
    """(images per iteration, images at once on one GPU)."""
    batch, batch_gpu = base.batch, max(base.batch // (base.ref_gpus or gpus), 1)
    if 'batch' in o:
        batch, batch_gpu = o['batch'], o['batch'] // gpus
        require(batch % gpus == 0, f'--batch={batch}: must be a multiple of --gpus={gpus}')
    batch_gpu = o.get('batch_gpu', batch_gpu)
    require_whole_pieces(batch, batch_gpu, gpus)
    return batch, batch_gpu


def require_whole_pieces(batch: int, batch_gpu: int, gpus: int) -> None:
    """Raises UserError if a batch does not consist of so many images at once on so many GPUs."""
    require(batch % (batch_gpu * gpus) == 0,
            f'a batch of {batch} cannot be divided among {gpus} processes in pieces of {batch_gpu}; '
            f'give --batch a multiple of {batch_gpu * gpus}, or --batch-gpu a divisor of {max(batch // gpus, 1)}')


def require_whole_groups(batch_gpu: int, group_size: int) -> None:
    """Raises UserError if the images at once on one GPU are not made
    of groups of the minibatch standard deviation."""
    group = min(group_size, batch_gpu)
    require(batch_gpu % group == 0,
            f'{batch_gpu} images at once on one GPU are no multiple of the minibatch-std group of {group}; '
            f'give --batch-gpu a multiple of {group}')


def resolve_speed(o: Mapping[str, Any], base: BaseConfig, config: dict[str, Any]) -> None:
    """--device, --ops, --precision, --workers and the switches of the reference."""
    from torch_utils import distributed
    # Untouched: it is for the ranks.
    device = distributed.check_device(o.get('device', 'auto'), config['gpus'])
    if o.get('cuda_graphs') == 'on':
        require(device == 'cuda', f'--cuda-graphs=on needs a CUDA device, and this run computes on {device}: leave it out')
        require(config['gpus'] == 1, f'--cuda-graphs=on needs one process, and there are --gpus={config["gpus"]}: leave it out')
    require(o.get('exchange') != 'bf16' or config['gpus'] > 1,
            '--exchange=bf16 is about what several processes exchange, and this run has one: give --exchange=fp32, '
            'or --gpus=2 and more')
    precision = chosen_precision(o, device, base.precision)
    set_precision(precision, config)
    if precision == 'bf16' and device == 'cuda':
        distributed.check_bfloat16(config['gpus'])
    check_ops(o.get('ops', 'auto'), device, precision, config['gpus'])
    is_reduced = device == 'cuda' and precision in ('fp16', 'bf16')
    if o.get('nhwc', is_reduced):
        config['G_kwargs']['synthesis_kwargs']['fp16_channels_last'] = True
        config['D_kwargs']['block_kwargs']['fp16_channels_last'] = True
    workers = o.get('workers', base.workers)
    config['data_loader_kwargs'] = dict(pin_memory=device == 'cuda', num_workers=workers,
                                        prefetch_factor=2 if workers else None)
    config.update(device=o.get('device', 'auto'), ops=o.get('ops', 'auto'),
                  cudnn_benchmark=not o.get('nobench', o.get('deterministic', False)),
                  deterministic=o.get('deterministic', False), allow_tf32=o.get('allow_tf32', is_reduced),
                  cuda_graphs=o.get('cuda_graphs', 'auto'), exchange=o.get('exchange', 'fp32'))


def chosen_precision(o: Mapping[str, Any], device: str, usual: str = 'fp16') -> str:
    """Of the highest resolutions: --precision or --fp32, and what auto is on a device."""
    precision = 'fp32' if o.get('fp32') else o.get('precision', 'auto')
    require(not o.get('fp32') or o.get('precision') in (None, 'auto', 'fp32'),
            f'--fp32=1 and --precision={o.get("precision")} contradict each other')
    if precision == 'auto':
        return usual if device == 'cuda' else 'fp32'
    return precision


def set_precision(precision: str, config: dict[str, Any]) -> None:
    """Makes it that of both networks."""
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        if precision == 'fp32':
            kwargs.update(num_fp16_res=0, conv_clamp=None)
        elif precision == 'bf16':
            kwargs['reduced_dtype'] = 'bfloat16'


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
