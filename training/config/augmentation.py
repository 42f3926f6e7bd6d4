"""The augmentation of what D sees: --aug, --p, --target, --ada-signal, --ada-kimg, --augpipe, --DiffAugment, --diffusion-t,
--diffusion-append."""
from collections.abc import Mapping
from typing import Any

import click

from torch_utils.network_schema import short_name
from training.config.base_configs import BaseConfig
from training.config.rules import UserError, require


def resolve_augment(o: Mapping[str, Any], base: BaseConfig, config: dict[str, Any], names: list[str]) -> None:
    """Which augmentation, how strong, and whether it adapts."""
    aug = chosen_augmentation(o)
    check_what_goes_with(aug, o)
    names += name_of(aug, o)
    config.update(ada_interval=4, ada_kimg=o.get('ada_kimg', min(100, base.ada_kimg) if aug == 'diffusion' else base.ada_kimg))
    if aug == 'ada' or (aug == 'diffusion' and 'p' not in o):
        config['target'] = o.get('target', 0.6)
    if o.get('ada_signal') == 'heldout':
        require_held_out(config)
        config['ada_signal'] = 'heldout'
    if aug in ('fixed', 'diffusion') and 'p' in o:
        config['p'] = o['p']
    if aug in ('ada', 'fixed', 'linear'):
        config['augment_kwargs'] = pipe_kwargs(o.get('augpipe', 'bgc'),
                                               config['data_shape']['img_resolution'])
    if aug == 'diffusion':
        config['augment_kwargs'] = dict(class_name='training.diffusion.Diffusion', chance=o.get('diffusion_t', 'priority'))
        if o.get('diffusion_append'):
            tell_critics(config)
    if aug == 'diffaug':
        config['augment_kwargs'] = diffaug_kwargs(o.get('diffaugment') or 'color,translation,cutout')


def chosen_augmentation(o: Mapping[str, Any]) -> str:
    """--aug, or what --DiffAugment implies."""
    policy = o.get('diffaugment')
    if not policy:
        return o.get('aug', 'ada')
    for other in ('p', 'target', 'augpipe'):
        require(other not in o, f'--{other} has no effect with --DiffAugment')
    if o.get('aug', 'diffaug') != 'diffaug':
        click.echo(f'Warning: --DiffAugment={policy} overrules --aug={o["aug"]}.', err=True)
    return 'diffaug'


def check_what_goes_with(aug: str, o: Mapping[str, Any]) -> None:
    """Raises UserError for an option that this augmentation does not have, or lacks."""
    require('p' not in o or aug in ('fixed', 'diffusion'), '--p has no effect without --aug=fixed or --aug=diffusion')
    for option in ('diffusion_t', 'diffusion_append'):
        require(option not in o or aug == 'diffusion',
                f'--{option.replace("_", "-")} has no effect without --aug=diffusion')
    adapts = aug == 'ada' or (aug == 'diffusion' and 'p' not in o)
    require(aug != 'fixed' or 'p' in o, '--aug=fixed needs --p, the strength between 0 and 1')
    what = 'with --p, which holds the strength still' if 'p' in o else 'without --aug=ada or --aug=diffusion'
    require('target' not in o or adapts or aug == 'linear', f'--target has no effect {what}')
    require('ada_kimg' not in o or adapts, f'--ada-kimg has no effect {what}')
    require('ada_signal' not in o or aug == 'ada', '--ada-signal has no effect without --aug=ada')
    require('augpipe' not in o or aug in ('ada', 'fixed', 'linear'), f'--augpipe has no effect with --aug={aug}')


def require_held_out(config: Mapping[str, Any]) -> None:
    """Raises UserError if there are no images that D does not learn from."""
    require('held_out' in config, '--ada-signal=heldout needs images that D does not learn from, at least '
            f'{config["batch_gpu"]}: give --held-out=PATH, or --subset')


def name_of(aug: str, o: Mapping[str, Any]) -> list[str]:
    """Parts of the name of the run's directory: what was given."""
    names = ['-'.join(o['diffaugment'].split(','))] if o.get('diffaugment') else [aug] if 'aug' in o else []
    names += [f'{name}{o[key]:g}' for key, name in (('p', 'p'), ('target', 'target'), ('ada_kimg', 'adakimg'))
              if key in o]
    names += [o['ada_signal']] if o.get('ada_signal') == 'heldout' else []
    names += [o[name] for name in ('augpipe', 'diffusion_t') if name in o]
    return names + ['append'] * bool(o.get('diffusion_append'))


def tell_critics(config: dict[str, Any]) -> None:
    """--diffusion-append: the number of steps is one more number of the labels of critics."""
    critic = config['D_kwargs']
    require(critic['class_name'] == 'training.networks.Discriminator',
            f'--diffusion-append=1 is for StyleGAN2\'s critic: without a bias in its embedding of labels, as in a '
            f'{short_name(critic["class_name"])}, it could not tell images of 0 steps; leave it out')
    config['augment_kwargs']['append'] = True
    critic['c_dim'] = config['data_shape']['c_dim'] + 1


def pipe_kwargs(pipe: str, res: int) -> dict[str, Any]:
    """Arguments of the pipeline of that name. Raises UserError if it needs larger images."""
    from training.augment import PIPES, AugmentPipe
    try:
        AugmentPipe(**PIPES[pipe]).require_size(res, res)
    except ValueError as error:
        raise UserError(f'--augpipe={pipe}: {error}') from error
    return dict(class_name='training.augment.AugmentPipe', **PIPES[pipe])


def diffaug_kwargs(policy: str) -> dict[str, Any]:
    """Arguments of DiffAugment. Raises UserError for a policy that there is not."""
    from training.diffaugment import DiffAugment
    try:
        DiffAugment(policy)
    except ValueError as error:
        raise UserError(f'--DiffAugment: {error}') from error
    return dict(class_name='training.diffaugment.DiffAugment', policy=policy)
