"""How an entry of a configuration is declared: once, for the command line, the file, and the pages that show it."""
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

# May a run that goes on have another value? It is compared with the value that was saved.
YES, WITH_OVERRIDE, NO = 'yes', 'with --override', 'no'


@dataclass(frozen=True)
class Typed:
    """How an entry is given on the command line: as its name with dashes, and what its type and range allow, unless
    something else is said here."""
    heading: str                    # Under which it stands in `--help`.
    default: str = ''               # What it is if it is not given, in words.
    metavar: str | None = None      # What stands for its value in `--help`.
    kind: Any = None                # Of click.
    words: tuple[str, ...] = ()     # In place of its name.
    is_flag: bool = False


def setting(help: str, *, unit: str = '', within: str = '', choices: tuple[str, ...] = (), table: type | None = None,
            changes: str = WITH_OVERRIDE, at: tuple[str, ...] = (), typed: Typed | None = None, **default: Any) -> Any:
    """An entry of a configuration, or of a table in it.

    unit: empty if it has none.
    within: an interval of numbers, as in dnnlib/numbers.py.
    choices: words, if nothing else would do.
    table: the class that declares what stands in it, if it is a table whose entries are checked; others may
        stand beside them if that has `is_open`.
    changes: may a run that goes on have another value?
    at: the arguments of classes that it becomes (arguments.py); dots lead into tables.
    typed: how it is given on the command line; None: it follows from other options.
    default: what it is in a file that does not have it, as older ones may not; without one every file must
        have it. An entry whose default is None is left out where it is None.
    """
    metadata = dict(help=help, unit=unit, within=within, choices=choices, table=table, changes=changes, at=at, typed=typed)
    return dataclasses.field(metadata=metadata, **default)


@cache
def fields_of(table: type) -> dict[str, dataclasses.Field]:
    """The entries that a class declares, by name."""
    return {field.name: field for field in dataclasses.fields(table)}


KINDS_IN_WORDS = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'true or false',
                  dict: 'a table', list[str]: 'a list of texts', list[float]: 'a list of numbers',
                  list[int]: 'a list of whole numbers', NoneType: 'null'}


def kinds(annotation: Any) -> tuple:
    """The types that a value may have: `int | None` are two."""
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def kind_in_words(annotation: Any) -> str:
    """'a whole number or null': a type, as part of a sentence."""
    return ' or '.join(KINDS_IN_WORDS[kind] for kind in kinds(annotation))


def is_a(annotation: Any, value: Any) -> bool:
    """Is a value of plain data of this type? A whole number is a number, too; true and false are none."""
    if isinstance(annotation, UnionType):
        return any(is_a(kind, value) for kind in kinds(annotation))
    if get_origin(annotation) is list:
        return isinstance(value, list) and all(is_a(get_args(annotation)[0], item) for item in value)
    if annotation in (int, float):
        return isinstance(value, int | annotation) and not isinstance(value, bool)
    return isinstance(value, annotation)


def leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(name, value) of all entries that are no tables; dots lead into those."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from leaves(item, f'{name}.{key}' if name else key)
