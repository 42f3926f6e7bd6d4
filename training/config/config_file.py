"""Options from a file: `train.py --config=FILE`.

The keys are the names of options, with dashes or underscores; the values are checked as on the command line,
and paths are those of the current directory, as there. The `training_options.json` of a run stands for the
options that it was started with.
"""
import difflib
import json
import math
import os
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from dnnlib import commands
from dnnlib.numbers import OutOfRange
from training.config.options import OPTIONS
from training.config.rules import UserError, require

MAX_BYTES = 2 ** 24
IN_NO_FILE = ('config',)


def with_file(o: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given and those of the file that --config names; what was given wins."""
    options = dict(o)
    path = options.pop('config', None)
    return options if path is None else {**options_in(path), **options}


def options_in(path: str) -> dict[str, Any]:
    """The options that a file, or the directory of a run, names.
    Raises UserError with the file and the key."""
    if os.path.isdir(path):
        path = os.path.join(path, 'training_options.json')
    values = parsed(path)
    require(isinstance(values, Mapping), f'--config: {path} holds no table of options')
    if isinstance(values.get('command'), Mapping):      # What train.py recorded.
        values = values['command']
    found: dict[str, Any] = {}
    for key, value in values.items():
        require(isinstance(key, str), f'--config: {path}: {brief(key)} is no name of an option')
        name = name_of(key, f'--config: {path}')
        require(name not in found, f'--config: {path}: {key}: this option stands there twice')
        found[name] = converted(name, value, f'--config: {path}: {key}')
    return {name: value for name, value in found.items() if not (OPTIONS[name].is_flag and not value)}


def parsed(path: str) -> Any:
    """What a file of TOML, JSON or YAML says, by its name."""
    reader = READERS.get(Path(path).suffix.lower())
    require(reader is not None,
            f'--config={path}: must be a file named {", ".join(READERS)}, or the directory of a run')
    try:
        require(not os.path.exists(path) or os.path.isfile(path), f'--config={path}: is no regular file')
        with open(path, 'rb') as file:
            data = file.read(MAX_BYTES + 1)
        require(len(data) <= MAX_BYTES, f'--config={path}: has more than {MAX_BYTES} bytes')
        return reader(data.decode('utf-8-sig'))
    except OSError as error:
        raise UserError(f'--config={path}: {error.strerror or error}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'--config={path}: cannot be read: {" ".join(str(error).split())}') from error


def from_toml(text: str) -> Any:
    """What TOML says. Raises ValueError."""
    try:
        import tomllib
    except ImportError:         # Python 3.10.
        import tomli as tomllib
    return tomllib.loads(text)


def from_yaml(text: str) -> Any:
    """What YAML says, if the package for it is there. Raises ValueError."""
    try:
        import yaml
    except ImportError:
        raise UserError('--config: YAML needs the package PyYAML (pip install pyyaml); TOML and JSON need none') from None

    class Loader(yaml.SafeLoader):
        """In which every key stands once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            texts = [key.value for key, _ in node.value if key.tag == 'tag:yaml.org,2002:str']
            without_repetition((text, None) for text in texts)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def from_json(text: str) -> Any:
    """What JSON says. Raises ValueError."""
    return json.loads(text, object_pairs_hook=without_repetition)


def without_repetition(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Keys and values as a dict. Raises ValueError for a key that stands there twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'{key[:40]!r} stands there twice')
        found[key] = value
    return found


READERS = {'.toml': from_toml, '.json': from_json, '.yaml': from_yaml, '.yml': from_yaml}


def name_of(key: str, where: str) -> str:
    """The name of the option that a key means. Raises UserError, which begins with `where`."""
    names = {word.lstrip('-').replace('-', '_').lower(): name for name, option in OPTIONS.items()
             if name not in IN_NO_FILE
             for word in option.opts if word.startswith('--')}
    name = key.replace('-', '_').lower()
    near = difflib.get_close_matches(name, names, 1)
    shown = key if len(key) <= 40 and key.isprintable() else f'{key[:40]!r}...'
    hint = f'; {names[near[0]]} is one' if near else ''
    require(name in names,
            f'{where}: {shown}: there is no such option{hint} ({commands.call_of("train")} --help lists all)')
    return names[name]


def converted(name: str, value: Any, where: str) -> Any:
    """A value as it would be had it been typed; a list is the same as its parts with commas."""
    option = OPTIONS[name]
    if isinstance(value, list) and (option.metavar or '').startswith('LIST'):
        require(all(isinstance(part, str) for part in value), f'{where}: must be a list of texts')
        value = ','.join(value)
    kinds = (bool, str) if isinstance(option.type, click.types.BoolParamType) else (int, float, str)
    require(isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)),
            f'{where}: {json.dumps(brief(value), default=str)[:60]} is no value of this option')
    value = brief(value)
    require(is_name(str(value)), f'{where}: has a character that no name has (NUL, or half of one)')
    try:
        return option.type(value, option, None)
    except OutOfRange as error:
        raise UserError(f'{where}: {error.message.partition(": ")[2]}, not {str(value)[:40]}') from error
    except click.BadParameter as error:
        text = str(value)
        raise UserError(f'{where}: {error.message.replace(text, text[:40] + "..." * (len(text) > 40))}') from error


def brief(value: Any, depth: int = 3) -> Any:
    """A value that can be written out: integers without an end are infinite, of lists and tables only the
    beginning is kept.

    In YAML they may hold themselves, or grow tenfold with every line.
    """
    if isinstance(value, int) and value.bit_length() > 1000:
        return math.inf if value > 0 else -math.inf
    if not isinstance(value, list | tuple | set | Mapping):
        return value
    if depth == 0:
        return '...'
    if isinstance(value, Mapping):
        return {str(brief(key, 0)): brief(part, depth - 1) for key, part in list(value.items())[:5]}
    return [brief(part, depth - 1) for part in list(value)[:5]]


def is_name(text: str) -> bool:
    """Can the system be asked for a file of this name?"""
    try:
        return b'\0' not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
