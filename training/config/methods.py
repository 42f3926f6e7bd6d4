"""The options of the methods: as the command line lists them, and as a configuration has them.

The one file of this room that knows the registry.
"""
from collections.abc import Iterator, Mapping
from typing import Any

import click

import losses_ext
from training.config.rules import UserError, require

LOSSES = list(losses_ext.LOSSES)            # What --loss may name.
METHODS = list(losses_ext.REG_TYPES)        # What --reg_type may name.


def zoo_fields() -> Iterator[tuple[str, losses_ext.OptionSpec]]:
    """(method, field of its options) of everything in the registry that has options, in its order."""
    for name, target in {**losses_ext.LOSSES, **losses_ext.BASE_TYPES, **losses_ext.REG_TYPES}.items():
        for field in losses_ext.method_options(target):
            yield name, field


def chosen_methods(o: Mapping[str, Any]) -> list[str]:
    """The names in --reg_type, in registry order. Not given, it follows the game; without R1 there is nothing to follow."""
    has_r1 = o.get('r1_gamma', o.get('gamma')) != 0
    default = losses_ext.DEFAULT_REG_TYPES.get(adversarial_game(o), 'none') if has_r1 else 'none'
    try:
        return losses_ext.parse_reg_type(o.get('reg_type', default))
    except ValueError as error:
        raise UserError(f'--reg_type={o["reg_type"]}: {error}') from error


def adversarial_game(o: Mapping[str, Any]) -> str:
    """The game of --loss; one of --loss=osgan has an option for it."""
    loss = o.get('loss', 'logistic')
    return o.get(f'{loss}_game', loss)


def method_with_data(o: Mapping[str, Any]) -> str | None:
    """The chosen method that brings the data sets of the run, if there is one."""
    return next((name for name in chosen_methods(o) if losses_ext.load(losses_ext.REG_TYPES[name]).brings_data), None)


def resolve_methods(o: Mapping[str, Any], config: dict[str, Any], names: list[str]) -> None:
    """--loss, --reg_type and the options of the methods. Comes last: methods complete their options from the rest."""
    loss = o.get('loss', 'logistic')
    chosen = chosen_methods(o)
    say_what_belongs_to(loss, chosen, o)
    given = {name: given_fields(name, o) for name, _ in zoo_fields()}
    names += [loss] * (loss != 'logistic') + [name for name in chosen if name not in losses_ext.GROUPS]
    for name, fields in given.items():
        switch = f'--loss={name}' if name in losses_ext.LOSSES else f'--reg_type={name}'
        require(not fields or name in (*chosen, *losses_ext.BASE_TYPES, loss),
                f'--{name}_{next(iter(fields), None)} has no effect without {switch}')
        names += [f'{name}_{field}{value:g}' if isinstance(value, float) else f'{name}_{field}{value}'
                  for field, value in changed(name, fields).items() if field != 'data']   # Data sets are in the name already.
    config['loss'] = loss
    config['loss_kwargs'].update(game=loss, **base_fields(o, given))
    config['regularizers'] = {name: given[name] for name in chosen}
    try:
        losses_ext.configure(config, given.get(loss, {}))
    except ValueError as error:
        raise UserError(str(error)) from error


def say_what_belongs_to(loss: str, chosen: list[str], o: Mapping[str, Any]) -> None:
    """A note where a method comes with the game, or is left out although it belongs to it."""
    usual = losses_ext.DEFAULT_REG_TYPES.get(adversarial_game(o))
    if usual and (usual in chosen) != ('reg_type' in o):
        click.echo(f'Note: --reg_type={usual} belongs to --loss={loss}; it is the default there, and left out if --reg_type '
                   'names others.', err=True)


def base_fields(o: Mapping[str, Any], given: Mapping[str, dict]) -> dict[str, Any]:
    """The options of the methods that every run has, if they were given and are not those it has anyway."""
    require(o.get('r1_gamma', o.get('gamma')) == o.get('gamma', o.get('r1_gamma')),
            '--r1_gamma and --gamma are two names of one option: give one of them')
    return {f'{name}_{field}': value for name in losses_ext.BASE_TYPES for field, value in changed(name, given[name]).items()}


def given_fields(method: str, o: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} of the options of a method that were given."""
    return {field.name: o[f'{name}_{field.name}'] for name, field in zoo_fields()
            if name == method and f'{name}_{field.name}' in o}


def changed(method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields of a method's options that are not what they would be anyway."""
    defaults = {field.name: field.default for name, field in zoo_fields() if name == method}
    return {name: value for name, value in fields.items() if value != defaults[name]}
