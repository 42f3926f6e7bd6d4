"""The registry of the loss zoo: what `--loss` and `--reg_type` may name, one line per method.

A `--loss` is a recipe of phases and, unless the recipe has an option for it, the rules of the game of
the same name. A `--reg_type` is a `Regularizer` (training/regularizer.py) in a file of its own, with a
dataclass `Options` beside it. A method's file is imported when the method is chosen, not before.
"""
import ast
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from losses_ext.option import check_ranges, plain

# Adversarial games, what each side wants of the critic's logits (training/adversarial.py).
# Any of them is a --loss.
GAMES: dict[str, str] = {
    'logistic': 'training.loss:LOGISTIC',
    'saturating': 'losses_ext.games:SATURATING',
    'hinge': 'losses_ext.games:HINGE',
    'lsgan': 'losses_ext.games:LSGAN',
    'wgan': 'losses_ext.games:WGAN',
    'relativistic': 'losses_ext.games:RELATIVISTIC',
}

# Recipes of phases. One that is no game has an option for it.
LOSSES: dict[str, str] = {
    **dict.fromkeys(GAMES, 'training.loss:two_stage'),
    'osgan': 'losses_ext.osgan:one_stage',
}

# In every run, before the others, unless their weight is 0. Their options are NAME_FIELD of the
# configuration's `loss_kwargs`.
BASE_TYPES = {
    'pl': 'losses_ext.path_length:PathLength',
    'r1': 'losses_ext.r1:R1',
}

REG_TYPES: dict[str, str] = {
    'tdgan': 'losses_ext.tdgan:TDGAN',          # First: others add to the critics that it brings.
    'ggdr': 'losses_ext.ggdr:GGDR',
    'diggan': 'losses_ext.diggan:DigGAN',
    'weco': 'losses_ext.weco:WeCo',
    'daco': 'losses_ext.daco:DaCo',
    'genco': 'losses_ext.genco:GenCo',
    'lecam': 'losses_ext.lecam:LeCam',
    'apa': 'losses_ext.apa:APA',
    'r2': 'losses_ext.r2:R2',
    'gp': 'losses_ext.gp:GradientPenalty',
    'cr': 'losses_ext.cr:CR',
    'bcr': 'losses_ext.bcr:BCR',
    'zcr': 'losses_ext.zcr:ZCR',
    'insgen': 'losses_ext.insgen:InsGen',
    'fakeclr': 'losses_ext.fakeclr:FakeCLR',
    'vision': 'losses_ext.vision:Vision',
}

# Naming a group means all its members; it joins, with options of its own, when any member is chosen.
GROUPS = {'genco': ('weco', 'daco')}

# The other half of a method whose critics are elsewhere: what runs there.
CENTRE_PROGRAM = 'losses_ext.sites.centre'

# What --reg_type is for an adversarial game unless it is given:
# R1 and R2 together are part of the relativistic recipe.
DEFAULT_REG_TYPES = {'relativistic': 'r2'}


def load(target: str) -> Callable:
    """The object behind a registry entry 'module:name'."""
    module, name = target.split(':')
    return getattr(importlib.import_module(module), name)


def centre_program() -> Any:
    """The module for programs that run at a data centre."""
    return importlib.import_module(CENTRE_PROGRAM)


def rules_of(name: str) -> Any:
    """The adversarial game of that name. Raises ValueError."""
    if name not in GAMES:
        raise ValueError(f'there is no game {name}; there are {", ".join(GAMES)}')
    return load(GAMES[name])


def recipe(config: dict) -> Callable:
    """The chosen recipe, `game -> phases`, with its options if it has any."""
    target = LOSSES[config['loss']]
    phases = load(target)
    if 'loss_options' not in config:
        return phases
    module = importlib.import_module(target.split(':')[0])
    return partial(phases, options=module.Options(**config['loss_options']))


def parse_reg_type(text: str) -> list[str]:
    """The names in a `--reg_type`, in registry order.

    Raises ValueError for unknown, repeated or contradicting names.
    """
    asked = [name.strip() for name in text.split(',') if name.strip()]
    valid = f'valid: none, {", ".join(REG_TYPES)}'
    names = [full for name in asked for full in GROUPS.get(name, (name,))]
    for name in names:
        if name not in ('none', *REG_TYPES):
            raise ValueError(f'unknown name {name!r}; {valid}')
        if names.count(name) > 1:
            raise ValueError(f'{name} is named more than once')
    if 'none' in names and len(names) > 1:
        raise ValueError(f'none cannot stand together with {", ".join(n for n in names if n != "none")}')
    names += [group for group, members in GROUPS.items() if set(members) & set(names)]
    return [name for name in REG_TYPES if name in names]


def configure(config: dict, loss_options: dict) -> None:
    """Lets the chosen recipe and regularizers check and
    complete their options, in `config`, in registry order.

    A recipe's module may have a function `configure(config, options)` like a regularizer's.
    Raises ValueError with a sentence for people.
    """
    target = LOSSES[config['loss']]
    module = importlib.import_module(target.split(':')[0])
    if hasattr(module, 'configure'):
        config['loss_options'] = plain(module.configure(config, checked_options(config['loss'], module, loss_options)))
    game = config['loss_kwargs']['game']
    by_signs = config.get('target') is not None and config.get('ada_signal') != 'heldout'
    if by_signs and not rules_of(game).zero_decides:
        is_diffusion = (config.get('augment_kwargs') or {}).get('class_name', '').endswith('.Diffusion')
        aug = 'diffusion' if is_diffusion else 'ada'
        remedy = '--p=0.3' if is_diffusion else '--aug=fixed --p=0.3, --aug=noaug, or --ada-signal=heldout'
        raise ValueError(f'--aug={aug} cannot follow --loss={game}: its logits have no zero that separates real from '
                         f'fake; give {remedy}')
    for name, target in BASE_TYPES.items():
        load(target).configure(config, checked_options(name, load(target), base_options(config, name)))
    for name, options in config['regularizers'].items():
        cls = load(REG_TYPES[name])
        config['regularizers'][name] = plain(cls.configure(config, checked_options(name, cls, options)))


def base_options(config: dict, name: str) -> dict:
    """What the configuration says of a method of `BASE_TYPES`;
    fields that it does not name have their defaults."""
    prefix = f'{name}_'
    return {key.removeprefix(prefix): value for key, value in config['loss_kwargs'].items()
            if key.startswith(prefix)}


def chosen(config: dict) -> list[tuple[type, Any]]:
    """Class and options of every method of a configuration, in registry order."""
    chosen = [(BASE_TYPES[name], base_options(config, name)) for name in BASE_TYPES]
    chosen += [(REG_TYPES[name], options) for name, options in config['regularizers'].items()]
    return [(load(target), load(target).Options(**options)) for target, options in chosen]


def checked_options(name: str, owner: Any, options: dict) -> Any:
    """The `Options` of a method's class or module, with every number in its range. Raises ValueError."""
    options = owner.Options(**options)
    check_ranges(f'--{name}', options)
    return options


@dataclass(frozen=True)
class OptionSpec:
    """One field of a method's `Options`: what the command line needs to know of it."""
    name: str
    type: str                       # The annotation as written: 'float', 'int | None', ...
    default: object
    help: str
    choices: tuple[str, ...] = ()
    within: str = ''
    left_out: bool = False
    filled: bool = False


@cache
def method_options(target: str) -> list[OptionSpec]:
    """The fields of the `Options` dataclass of a registry entry, read from the source of its module.

    The module is not imported: it would import torch, and `--help` has half a second.
    """
    spec = importlib.util.find_spec(target.split(':')[0])
    tree = ast.parse(Path(spec.origin).read_text(encoding='utf-8'))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == 'Options']
    fields = [node for cls in classes for node in cls.body if isinstance(node, ast.AnnAssign)]
    return [_option_spec(node) for node in fields]


def _option_spec(node):
    """From the statement `name: type = option(default,
    'help', choices=(...), within='...')`, all literals."""
    default, text = [ast.literal_eval(arg) for arg in node.value.args]
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.value.keywords}
    return OptionSpec(node.target.id, ast.unparse(node.annotation), default, text, **keywords)
