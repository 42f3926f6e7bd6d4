"""What may be wrong with a configuration that comes from a file: sentences that name the entry."""
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from dnnlib.numbers import in_words, is_within
from torch_utils import network_schema
from training.config.setting import fields_of, is_a, kind_in_words, leaves

# The classes that a configuration may name beside those of networks (network_schema.CLASSES): no other is
# looked up.
OTHER_CLASSES = ('training.dataset.ImageFolderDataset', 'torch.optim.Adam')

MAX_DEPTH = 32              # Of tables and lists in each other.


def problem_of_data(values: Any) -> str | None:
    """Why this can be no configuration at all; None if it can."""
    if not isinstance(values, Mapping):
        return f'it holds {shown(values)}, no configuration'
    if is_too_deep(values):
        return f'it is nested more than {MAX_DEPTH} times'
    if has_nul(values):
        return 'a text in it has a character that no name has (NUL)'
    return None


def problem_of_classes(values: Mapping[str, Any]) -> str | None:
    """The first class that a configuration names and that is not looked up; None if there is none."""
    for name, value in leaves(values):
        allowed = network_schema.classes_for(name) if name in ('G', 'D') else (*OTHER_CLASSES, *network_schema.CLASSES)
        if (name.endswith('class_name') or name in ('G', 'D')) and value not in tuple(allowed):
            return f'{shown(name)}={shown(value)} is none of its classes'
    return None


def is_too_deep(value: Any) -> bool:
    """Are lists and tables nested more than MAX_DEPTH times?"""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level if isinstance(outer, Mapping | list)
                 for item in (outer.values() if isinstance(outer, Mapping) else outer)]
    return bool(level)


def has_nul(value: Any) -> bool:
    """Is there a text with a character NUL, which no operating system takes in a name?"""
    if isinstance(value, Mapping):
        return any(has_nul(key) or has_nul(item) for key, item in value.items())
    return any(map(has_nul, value)) if isinstance(value, list) else isinstance(value, str) and '\0' in value


def problems_of(table: type, values: Mapping[str, Any], complete: bool, prefix: str = '') -> Iterator[str]:
    """Sentences about what is wrong with the entries of a table."""
    for name in values:
        if complete and name not in fields_of(table) and not getattr(table, 'is_open', False):
            yield f'there is no entry {shown(prefix + name)}'
    for name, field in fields_of(table).items():
        if name in values:
            yield from problems_of_value(prefix + name, values[name], field, complete)
        elif complete and field.default is field.default_factory is dataclasses.MISSING:
            yield f'{prefix}{name} is missing'


def problems_of_value(name: str, value: Any, field: dataclasses.Field, complete: bool) -> Iterator[str]:
    """Sentences about what is wrong with an entry that there is."""
    within, choices, table = (field.metadata[key] for key in ('within', 'choices', 'table'))
    if not is_a(field.type, value):
        yield f'{name}={shown(value)}: must be {kind_in_words(field.type)}'
    elif choices and value not in choices:
        yield f'{name}={shown(value)}: must be one of {", ".join(choices)}'
    elif table and value is not None:
        yield from problems_of(table, value, complete, f'{name}.')
    elif within and value is not None:
        for number in value if isinstance(value, list) else [value]:
            if not is_within(number, within):
                yield f'{name}={shown(number)}: must be {in_words(within, number)}'


def shown(value: Any) -> str:
    """The beginning of a text, or of the JSON of something else."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= 40 else f'{text[:40]}...'
