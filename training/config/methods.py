"""The options of the methods: as the command line lists them, and as a configuration has them.

The one file of `training` that knows the registry: what builds a run asks it here.
"""
from collections.abc import Iterator, Mapping
from typing import Any

import click

import losses_ext
from dnnlib.numbers import is_within
from training.config.rules import UserError, require

LOSSES = list(losses_ext.LOSSES)            # What --loss may name.
METHODS = list(losses_ext.REG_TYPES)        # What --reg_type may name.
PATHS = ('data', 'file')                    # Fields that hold paths, which are in no name of a run.

# What setup.py builds a configuration's run of: (class, options) of its methods, its recipe of phases, its game.
methods_of, recipe_of, rules_of = losses_ext.chosen, losses_ext.recipe, losses_ext.rules_of


def zoo_fields() -> Iterator[tuple[str, losses_ext.OptionSpec]]:
    """(method, field of its options) of everything in the registry that has options, in its order."""
    for name, target in {**losses_ext.LOSSES, **losses_ext.BASE_TYPES, **losses_ext.REG_TYPES}.items():
        for field in losses_ext.method_options(target):
            yield name, field


def chosen_methods(o: Mapping[str, Any]) -> list[str]:
    """The names in --reg_type, in registry order. Not given, it follows the game;
    without R1 there is nothing to follow."""
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


def data_elsewhere(o: Mapping[str, Any]) -> tuple[list[str], dict[str, int]] | None:
    """(names, shape of the items) of the data sets of a run whose method has them on other machines; None if it has none."""
    name = method_with_data(o)
    if name is None:
        return None
    cls = losses_ext.load(losses_ext.REG_TYPES[name])
    try:
        return cls.data_elsewhere(cls.Options(**given_fields(name, o)))
    except ValueError as error:
        raise UserError(str(error)) from error


def resolve_methods(o: Mapping[str, Any], config: dict[str, Any], names: list[str]) -> None:
    """--loss, --reg_type and the options of the methods. Comes last:
    methods complete their options from the rest."""
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
                  for field, value in changed(name, fields).items() if field not in PATHS and not is_left_out(name, field)]
    config['loss'] = loss
    config['loss_kwargs'].update(game=loss, **base_fields(o, given, config['loss_kwargs']))
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


def base_fields(o: Mapping[str, Any], given: Mapping[str, dict], base: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the methods that every run has, if they were given and are not those it has anyway, by `base`."""
    require(o.get('r1_gamma', o.get('gamma')) == o.get('gamma', o.get('r1_gamma')),
            '--r1_gamma and --gamma are two names of one option: give one of them')
    return {f'{name}_{field}': value for name in losses_ext.BASE_TYPES
            for field, value in given[name].items() if f'{name}_{field}' in base or field in changed(name, given[name])}


def problem_of_methods(config: Mapping[str, Any]) -> str | None:
    """What is wrong with the game, the methods and their options in a
    configuration that was saved; None if nothing is."""
    if config['loss'] not in LOSSES:
        return f'loss={config["loss"]:.40} is none of {", ".join(LOSSES)}'
    for name in config['regularizers']:
        if name not in METHODS:
            return f'regularizers.{name:.40} is none of {", ".join(METHODS)}'
    tables = {**config['regularizers'], config['loss']: config.get('loss_options') or {}}
    base = {name: losses_ext.base_options(config, name) for name in losses_ext.BASE_TYPES}
    return next(filter(None, (problem_of_fields(name, table) for name, table in {**base, **tables}.items())),
                None)


def problem_of_fields(method: str, table: Any) -> str | None:
    """The first option of a method that there is not or that has a value which it cannot have;
    None if there is none."""
    fields = {field.name: field for name, field in zoo_fields() if name == method}
    if not isinstance(table, Mapping):
        return f'the options of {method} are no table'
    for name, value in table.items():
        if name not in fields:
            return f'{method} has no option {name:.40}'
        if not is_possible(value, fields[name]):
            return f'{method}.{name} has a value that this option cannot have'
    missing = [name for name, field in fields.items() if field.filled and table.get(name) is None]
    return f'{method}.{missing[0]} is missing' if missing else None


def learnt_from(config: Mapping[str, Any]) -> dict[str, str]:
    """{weights of metrics/weights.py: method} of the frozen networks that G learns to please: scores by them are too good."""
    chosen = zip(config['regularizers'], list(methods_of(config))[len(losses_ext.BASE_TYPES):])
    return {weights: name for name, (cls, options) in chosen
            if not cls.is_off(options) and (weights := cls.learns_from(options)) is not None}


def switched_off(config: Mapping[str, Any]) -> list[tuple[type, Any]]:
    """(class, options) of the chosen methods that their options switch off, in registry order."""
    return [(cls, options) for cls, options in methods_of(config) if cls.is_off(options)]


def is_possible(value: Any, field: losses_ext.OptionSpec) -> bool:
    """May a field of a method's options have this value of plain data?"""
    if value is None:
        return field.default is None or 'None' in field.type
    kinds = field.type.split(' | ')
    if isinstance(value, bool):
        return 'bool' in kinds
    if isinstance(value, str):
        return 'str' in kinds and (not field.choices or value in field.choices)
    if not isinstance(value, int if 'int' in kinds else int | float if 'float' in kinds else ()):
        return False
    if field.choices and 'str' not in kinds:        # A field of both takes a number or a word.
        return value in field.choices
    return not field.within or is_within(value, field.within)


def given_fields(method: str, o: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} of the options of a method that were given."""
    return {field.name: o[f'{name}_{field.name}'] for name, field in zoo_fields()
            if name == method and f'{name}_{field.name}' in o}


def is_left_out(method: str, field: str) -> bool:
    """Is this an option that says nothing where it is not given, and nothing in the name of a run?"""
    return any(spec.left_out for name, spec in zoo_fields() if (name, spec.name) == (method, field))


def changed(method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields of a method's options that are not what they would be anyway."""
    defaults = {field.name: field.default for name, field in zoo_fields() if name == method}
    return {name: value for name, value in fields.items() if value != defaults[name]}
