"""The network that a run starts from: --init-from, --resume=FILE, --freezed."""
from collections.abc import Mapping
from functools import cache
from typing import Any

import click

from dnnlib import torchrun
from training.config.rules import UserError, require

TRANSFER_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/'
TRANSFER_NETS = {
    'ffhq256': 'ffhq-res256-mirror-paper256-noaug.pkl',
    'ffhq512': 'ffhq-res512-mirror-stylegan2-noaug.pkl',
    'ffhq1024': 'ffhq-res1024-mirror-stylegan2-noaug.pkl',
    'celebahq256': 'celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl',
    'lsundog256': 'lsundog-res256-paper256-kimg100000-noaug.pkl',
}


def resolve_source(o: Mapping[str, Any], config: dict[str, Any], names: list[str]) -> None:
    """Where the run starts from, and what follows from that: ADA is faster, the average has no ramp-up."""
    net = o.get('resume', 'noresume')
    require('init_from' not in o or net == 'noresume', '--init-from and --resume exclude each other')
    require('init_from' in o or 'allow_partial' not in o, '--allow-partial has no effect without --init-from')
    if 'init_from' in o:
        source = o['init_from']
        names.append(f'init{short_name(source)}')
        config.update(init_from=network_url(source), allow_partial='allow_partial' in o,
                      **pace_of_fine_tuning(o, config))
        if 'cfg' not in o:
            from training.transfer import adopt_architecture
            adopt_architecture(config, load_networks(source))
            require_effect(o, config)
    if 'resume' in o:
        names.append(net if net == 'noresume' else f'resume{short_name(net)}')
    if net != 'noresume':
        resolve_weights(net, config)
        config.update(pace_of_fine_tuning(o, config))
    if 'freezed' in o:
        names.append(f'freezed{o["freezed"]}')
        config['D_kwargs']['block_kwargs']['freeze_layers'] = o['freezed']


def require_effect(o: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises UserError for an option of the networks that those of --init-from overrule."""
    for option in ('cbase', 'cmax', 'map_depth'):
        require(option not in o, f'--{option.replace("_", "-")} has no effect with --init-from, which takes the networks of the '
                'file; --cfg as well starts new ones from what matches')
    has_none = config['D_kwargs']['epilogue_kwargs'].get('mbstd_num_channels') == 0
    require(not has_none or not o.get('mbstd_group'),
            f'--mbstd-group={o.get("mbstd_group")} has no effect with --init-from: its '
            'D has no minibatch standard deviation; leave it out, or give --mbstd-group=0')


def resolve_weights(net: str, config: dict[str, Any]) -> None:
    """--resume=FILE, as the reference has it: a new run from weights."""
    if not is_remote(net):
        load_networks(net, '--resume')
    click.echo(f'--resume={net} starts a new run from these weights. A run is continued by --resume=RUN_DIR, or '
               'by the same command.', err=True)
    config['resume_pkl'] = network_url(net)


def pace_of_fine_tuning(o: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """ADA is faster, the average has no ramp-up."""
    return dict(ada_kimg=o.get('ada_kimg', min(100, config['ada_kimg'])), ema_rampup=o.get('ema_rampup') or None)


def short_name(source: str) -> str:
    """What stands for a network in the name of the run's directory."""
    return source if source in TRANSFER_NETS else 'custom'


def is_remote(source: str) -> bool:
    """Does it take a download to read a network?"""
    return source in TRANSFER_NETS or '://' in source


def network_url(source: str) -> str:
    """A file, URL or directory, from that or from a short name."""
    return TRANSFER_URL + TRANSFER_NETS[source] if source in TRANSFER_NETS else source


@cache
def load_networks(source: str, option: str = '--init-from') -> dict[str, Any]:
    """The networks that an option names."""
    from torch_utils.checkpoint import CheckpointError
    from torch_utils.network_file import load_network
    try:
        return load_network(network_url(source))
    except (CheckpointError, OSError) as error:
        raise UserError(f'{option}: {error}') from error


def check_source(o: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Raises UserError if the networks of a file do not fit those of the run.
    A dry run downloads none for --resume."""
    if 'init_from' in o:
        check_tensors(o['init_from'], config, 'allow_partial' in o)
    elif 'resume_pkl' in config and ('dry_run' not in o or not is_remote(o['resume'])):
        check_weights(o['resume'], config)


def check_tensors(source: str, config: dict[str, Any], allow_partial: bool) -> None:
    """Says how the networks of --init-from fit those of the run; refuses what fits in part,
    unless that is wanted."""
    from training.transfer import compare
    matches = compare(config, load_networks(source))
    if torchrun.is_main_process():
        for name, match in matches.items():
            click.echo(f'--init-from: {name}: {match}.', err=True)
    partial = [name for name, match in matches.items() if not match.is_complete]
    require(not partial or allow_partial,
            f'--init-from={source}: not all tensors of {", ".join(partial)} are there; --allow-partial starts '
            'with what matches and fresh values for the rest')


def check_weights(source: str, config: dict[str, Any]) -> None:
    """Refuses a file for --resume whose tensors have other shapes than those of the run;
    what it lacks starts fresh."""
    from training.transfer import compare
    for name, match in compare(config, load_networks(source, '--resume')).items():
        require(not match.mismatched,
                f'--resume={source} does not fit the networks of this run: {name}: {match}; --init-from={source} takes their '
                'architecture from the file')
