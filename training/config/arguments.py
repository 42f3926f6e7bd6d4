"""Between the entries of a configuration, which are called as their options, and the arguments that they become.

`--mirror` is the entry `mirror`. The class of the data set, whose names are the reference's, is made with `xflip`, so in the
tables that a run is built from it is `training_set_kwargs.xflip`. Where an entry stands in them is declared
with it (`setting(at=...)`). Files of earlier versions hold these tables; they are read with the same functions.
"""
import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch_utils.network_schema import classes_for
from training.config.base_configs import minibatch_statistics

Places = Mapping[str, tuple[str, ...]]          # {entry: arguments}; dots lead into tables.

NONE = object()
STATISTICS = ('mbstd_group_size', 'mbstd_num_channels')


def as_arguments(entries: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The tables of arguments that entries become. Entries that stand nowhere else stay as they are."""
    values = copied(entries)
    for name, paths in places.items():
        if name in values:
            value = argument(name, values.pop(name))
            for path in paths:
                put(values, path, value)
    statistics = table_at(values, 'D_kwargs.epilogue_kwargs')
    if statistics is not None and statistics.get(STATISTICS[0]) == 0:
        statistics.update(minibatch_statistics(0))
    return values


def as_entries(arguments: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The reverse: entries for the arguments that they became, taken out of the tables.

    One that has several places is taken out if all of them say the same: networks from a file may differ in their widths.
    """
    values = copied(arguments)
    statistics = table_at(values, 'D_kwargs.epilogue_kwargs')
    if statistics is not None and {name: statistics.get(name) for name in STATISTICS} == minibatch_statistics(0):
        del statistics[STATISTICS[1]]
        statistics[STATISTICS[0]] = 0
    found: dict[str, Any] = {}
    for name, paths in places.items():
        spots = list(places_in(values, paths))
        said = [table[key] for table, key in spots if key in table]
        if len(said) == len(spots) and (len(said) == 1 or said and is_same(said)) and (value := entry(name, said[0])) is not NONE:
            found[name] = value
            for table, key in spots:
                del table[key]
    return {**found, **values}


def contradictions(values: Mapping[str, Any], places: Places) -> Iterator[str]:
    """Sentences about entries that say one thing by their name, and another one among the arguments."""
    for name, paths in places.items():
        for path in paths if name in values else ():
            table, key = table_at(values, path.rpartition('.')[0]), path.rpartition('.')[2]
            if table is not None and key in table and not is_same([argument(name, values[name]), table[key]]):
                yield f'{path}={table[key]!s:.40} and {name}={values[name]!s:.40} are two names of one entry'


def is_same(values: list) -> bool:
    """Are these all one value? 1 and true are two."""
    return all(type(value) is type(values[0]) and value == values[0] for value in values)


def entry(name: str, argument: Any) -> Any:
    """The value of an entry, of the argument that it became; NONE if no entry would become that."""
    if name == 'nobench':
        return not argument if isinstance(argument, bool) else argument
    if name in ('G', 'D'):
        return next((short for short, full in classes_for(name).items() if full == argument), NONE)
    return argument


def argument(name: str, value: Any) -> Any:
    """The reverse."""
    if name == 'nobench':
        return not value if isinstance(value, bool) else value
    if name in ('G', 'D') and isinstance(value, str):
        return classes_for(name).get(value, value)
    return value


def places_in(values: dict[str, Any], paths: tuple[str, ...]) -> Iterator[tuple[dict, str]]:
    """(table, key) of the paths whose tables there are."""
    for path in paths:
        table, _, key = path.rpartition('.')
        if (found := table_at(values, table)) is not None:
            yield found, key


def table_at(values: Any, path: str) -> Any:
    """The table to which a path leads; None if there is none."""
    for key in path.split('.') if path else ():
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else None


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value where a path leads, unless there is no such argument: a run without its own data set has none for it."""
    *tables, key = path.split('.')
    if tables and not isinstance(values.get(tables[0]), Mapping):
        return
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, Mapping):
            return          # The class refuses what stands there.
    values.setdefault(key, value)


def copied(value: Any) -> Any:
    """The same nested tables, which may be changed."""
    return {key: copied(item) for key, item in value.items()} if isinstance(value, Mapping) else copy.copy(value)
