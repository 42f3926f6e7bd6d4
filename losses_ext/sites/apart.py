"""What a configuration must be like for centres to be elsewhere: everything else is refused before anything starts."""
import importlib.util
import re
import sys
from collections.abc import Mapping
from typing import Any

import losses_ext
from losses_ext.sites import agreement
from torch_utils.wire import certificates
from torch_utils.wire.address import NVFLARE, check_security

# Options of this method that are each end's own affair.
OWN = frozenset({'listen', 'tls', 'insecure', 'patience', 'data'})
OF_THE_MODE = ('centres', 'listen', 'tls', 'insecure', 'patience', 'res', 'channels', 'labels', 'images', 'grads',
               'grad_clip', 'grad_noise')
METHOD = 'tdgan'


def data_elsewhere(options: Any) -> tuple[list[str], dict[str, int]]:
    """(names of the centres, shape of their items). Raises ValueError."""
    names = options.centres.split(',')
    if not options.centres or len(set(names)) < len(names) or not all(map(agreement.NAME.fullmatch, names)):
        raise ValueError(f'--tdgan_centres={options.centres}: must be different names of letters, digits, dots and dashes, with '
                         'commas between them, such as north,south')
    if options.data:
        raise ValueError('--tdgan_data and --tdgan_mode=remote exclude each other: the images are at the centres')
    if options.res < 4 or options.res & (options.res - 1):
        raise ValueError(f'--tdgan_res={options.res}: must be the width and height of the images of the centres, a power of two')
    return names, dict(c_dim=options.labels, img_resolution=options.res, img_channels=options.channels)


def check(config: Mapping[str, Any], options: Any, defaults: Any) -> None:
    """Raises ValueError, in the user's words, for what cannot be divided between the generator's site and centres."""
    if options.mode == 'local':
        for name in OF_THE_MODE:
            if getattr(options, name) != getattr(defaults, name):
                raise ValueError(f'--tdgan_{name} has no effect without --tdgan_mode=remote')
        return
    check_connection(options)
    for problem in refusals(config, options):
        raise ValueError(f'--tdgan_mode=remote: {problem}')
    if config['metrics']:
        if 'metrics' in config['command']:
            for name in config['metrics']:
                if not name.startswith(('fid', 'fd')):
                    raise ValueError(f'--metrics={name} needs the features of each image of the centres, which do not leave '
                                     'them; give --metrics=none, or fid... or fd..., which need their moments alone')
                if name.startswith('fid') and not name.endswith('_full'):
                    raise ValueError(f'--metrics={name} needs moments of the first images of the centres, which beside those of '
                                     f'all tell the rest; give {name}_full')
            return
        print('Note: there are no metrics, which would compare with the images of the centres.', file=sys.stderr)
        config['metrics'] = []


def check_connection(options: Any) -> None:
    """The part of it that is about the connection. Raises ValueError."""
    if not options.listen:
        raise ValueError('--tdgan_mode=remote needs --tdgan_listen=HOST:PORT, where centres connect')
    check_security('--tdgan_', options.listen, options.tls, options.insecure)
    if options.listen == NVFLARE:
        return
    for package in ('grpc', *(['cryptography'] if options.tls else [])):
        if importlib.util.find_spec(package) is None:
            raise ValueError('--tdgan_mode=remote needs the extra "sites" (pip install grpcio cryptography)')
    if options.tls:
        certificates.load(options.tls)


def refusals(config: Mapping[str, Any], options: Any):
    """Sentences about what stands in the way."""
    if config['gpus'] > 1:
        yield 'there is one process at the generator\'s site; give --gpus=1'
    for name in config['regularizers']:
        if not losses_ext.load(losses_ext.REG_TYPES[name]).works_apart:
            yield f'--reg_type={name} needs the critics in the same process as G (docs/sites.md); leave it out'
    if losses_ext.rules_of(config['loss_kwargs']['game']).paired and config['data_shape']['c_dim']:
        yield (f'--loss={config["loss"]} gives fakes the labels of the very images that they are compared with, and these would '
               'have to leave the centre; leave out --cond, or give another --loss')
    for name, option in (('init_from', '--init-from'), ('resume_pkl', '--resume=FILE')):
        if config.get(name):
            yield f'{option} cannot give the critics of centres their weights yet; leave it out'
    if config['loss_kwargs'].get('r1_final') is not None:
        yield 'learning rates and weights that change on the way are not told to centres yet; give another --cfg'
    for name in ('G', 'D'):
        if name in config['command']:
            yield f'--{name} names a class, and no names of classes cross; leave it out'
    if 'pkl' in config.get('snapshot_format', ()):
        yield '--snapshot-format=pkl needs a critic in each snapshot; leave it out'


def own_centre(mode: str) -> int | None:
    """The number of the centre that a process is, which tells it by the mode that its configuration has then."""
    found = re.fullmatch(r'centre (\d+)', mode)
    return int(found[1]) if found else None


def terms(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(options that centres are told, digests of the configuration that they must make of them)."""
    own = frozenset(f'{METHOD}_{name}' for name in OWN)
    return agreement.crossing_options(config, own), agreement.digests(config, {METHOD: OWN})


def as_centre(config: Mapping[str, Any], index: int, path: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the process of one centre, whose images are at `path`; `more`: how it opens them."""
    options = {**config['regularizers'][METHOD], 'mode': f'centre {index}', 'data': path}
    return {**config, 'regularizers': {**config['regularizers'], METHOD: options},
            'centre_kwargs': {**config['centre_kwargs'], **more}}


def names(config: Mapping[str, Any]) -> list[str]:
    """Of the centres of a configuration."""
    return config['regularizers'][METHOD]['centres'].split(',')


def is_apart(config: Mapping[str, Any]) -> bool:
    """Are the centres of this configuration elsewhere?"""
    return config['regularizers'].get(METHOD, {}).get('mode') == 'remote'
