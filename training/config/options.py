"""The options of `train.py`, in the order and under the headings of its `--help`: made of what schema.py and the methods'
files declare.

What they mean together is settled in resolve.py. Imports no torch.
"""
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dnnlib import commands, hf_hub
from dnnlib.numbers import Real, RealOrWord, Whole
from dnnlib.program import Program
from training.config.methods import zoo_fields
from training.config.rules import UserError, require
from training.config.schema import HEADINGS, METHOD, Bundles, Config, OfTheCommand
from training.config.setting import fields_of, kinds

NOT_OF_THE_RUN = tuple(fields_of(OfTheCommand))
METAVARS = {int: 'INT', float: 'FLOAT', bool: 'BOOL', list[str]: 'LIST'}


class Option(click.Option):
    """An option that stands under a heading in `--help`."""

    def __init__(self, *names: str, heading: str = '', **kwargs: Any):
        super().__init__(names, **kwargs)
        self.heading = heading


class GroupedHelp(Program):
    """A command whose `--help` has headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record:
                groups.setdefault(getattr(param, 'heading', 'Other'), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option_of(name: str, field: dataclasses.Field) -> Option:
    """The option of an entry that one can type."""
    typed, kind = field.metadata['typed'], kinds(field.type)[0]
    words = typed.words or (f'--{name.replace("_", "-")}',)
    help = f'{field.metadata["help"]} [default: {typed.default}]' if typed.default else field.metadata['help']
    if typed.is_flag:
        return Option(*words, heading=typed.heading, is_flag=True, help=help)
    click_type = typed.kind or option_type(kind, field.metadata['within'], field.metadata['choices'])
    metavar = None if isinstance(click_type, click.Choice) else typed.metavar or METAVARS.get(kind)
    return Option(*words, heading=typed.heading, type=click_type, metavar=metavar, help=help)


def zoo_option(method: str, field: Any) -> Option:
    """`--METHOD_FIELD`, of a field of a method's `Options`."""
    default = 'none' if field.default in (None, '') else f'{field.default:g}' if field.type == 'float' else field.default
    kind = {'float': float, 'int': int, 'bool': bool, 'str': str}[field.type.split(' | ')[0]]
    return Option(f'--{method}_{field.name}', heading=METHOD, type=option_type(kind, field.within, field.choices),
                  help=f'{field.help} [default: {default}]')


def option_type(kind: type, within: str, choices: tuple[str, ...] = ()) -> Any:
    """The click type of a value of plain data."""
    if within and choices:
        return RealOrWord(within, choices)
    if choices:
        return click.Choice(choices)
    if within:
        return {float: Real, int: Whole}[kind](within)
    return bool if kind is bool else str


def all_options() -> Iterator[Option]:
    """Every option of `train.py`."""
    for table in (OfTheCommand, Bundles, Config):
        for name, field in fields_of(table).items():
            if field.metadata['typed'] is not None:
                yield option_of(name, field)
    for method, field in zoo_fields():
        yield zoo_option(method, field)


OPTIONS_BY_HEADING = {heading: [option for option in all_options() if option.heading == heading] for heading in HEADINGS}
# By the names that programs have for them: 'batch_gpu'.
OPTIONS: dict[str, Option] = {option.name: option for options in OPTIONS_BY_HEADING.values() for option in options}


def with_options(function: Callable) -> Callable:
    """Gives a function all OPTIONS; `click.command` stands above it."""
    function.__click_params__ = list(OPTIONS.values())[::-1]
    return function


def parse_args(argv: Sequence[str]) -> dict[str, Any]:
    """The options of a command line by their names, None for those that are not given.
    Raises click's errors."""
    return click.Command('train.py', params=[*OPTIONS.values()]).make_context('train.py', [*argv]).params


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, or have a default of their own."""
    unknown = [key for key in options if key not in OPTIONS]
    train = commands.call_of('train')
    require(not unknown, f'there is no option {unknown[0] if unknown else ""} ({train} --help lists all)')
    return {key: value for key, value in options.items()
            if value is not None and not (OPTIONS[key].is_flag and not value)}


def with_whole_paths(o: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, with paths that mean the same in every directory:
    they are read again when a run continues."""
    data = {key: ','.join(os.path.abspath(path) if path else path for path in str(o[key]).split(','))
            for key in o if key.endswith(('_data', '_tls', '_file'))}
    for key in ('data', 'held_out', 'metricdata'):
        if o.get(key):
            data[key] = os.path.abspath(on_this_machine(o[key], key))
    for key in ('init_from', 'resume'):
        if os.path.isfile(o.get(key, '')):
            data[key] = os.path.abspath(o[key])
    return {**o, **data}


def on_this_machine(path: str, option: str) -> str:
    """The path of a set; one on the Hub is downloaded. Raises UserError."""
    if not hf_hub.is_hub_address(path):
        return path
    try:
        return hf_hub.fetch(path, hf_hub.PACKED, hf_hub.MAX_SET_BYTES)
    except OSError as error:
        raise UserError(f'--{option.replace("_", "-")}: {error}') from error


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as one would type them."""
    return [word_of(name, value) for name, value in options.items()]


def word_of(name: str, value: Any) -> str:
    """One option as one would type it."""
    option = OPTIONS[name]
    word = max(option.opts, key=len)
    return word if option.is_flag else f'{word}={int(value) if isinstance(value, bool) else value}'


def argv_of(config: Mapping[str, Any]) -> list[str] | None:
    """What to type behind train.py to repeat a run, recorded or made of what was; None if neither,
    or of another program."""
    if config.get('argv') is not None:
        return config['argv']
    command, run_dir = config.get('command', {'': 0}), config.get('run_dir')
    if run_dir is None or not command.keys() <= OPTIONS.keys():
        return None
    return [f'--outdir={Path(run_dir).parent}',
            *words_of({name: command[name] for name in OPTIONS if name in command})]


def with_argv(config: Config) -> Config:
    """The configuration of a run as it is recorded: with what to type to repeat it."""
    return replace(config, argv=argv_of(replace(config, argv=None)))
