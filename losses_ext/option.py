"""Fields of `Options` dataclasses that become command-line options. Knows no torch."""
import dataclasses
from typing import Any

from dnnlib.numbers import in_words, is_within


def option(default: Any, help: str, choices: tuple[str, ...] = (), within: str = '', left_out: bool = False,
           filled: bool = False) -> Any:
    """A dataclass field with what `--help` says of it, and which values it may have (empty: any).

    `choices` are words; `within` is an interval of numbers, as in '[0, 1)' or '(0, inf)' (dnnlib/numbers.py).
    A field that has both takes a number or a word. `left_out`: a configuration does not store the field while
    it has its default, as configurations of earlier versions did not know it. `filled`: the default is None,
    but `configure` always puts a value in its place, so that every stored configuration has one.
    """
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices, within=within, left_out=left_out,
                                                           filled=filled))


def plain(options: Any) -> dict[str, Any]:
    """The options as plain data, the way a configuration stores them."""
    fields = {field.name: (getattr(options, field.name), field) for field in dataclasses.fields(options)}
    return {name: value for name, (value, field) in fields.items()
            if not (field.metadata.get('left_out') and value == field.default)}


def check_ranges(prefix: str, options: Any) -> None:
    """Raises ValueError, which names the option `PREFIX_FIELD`,
    for a number outside its interval. None is no number."""
    for field in dataclasses.fields(options):
        value, within = getattr(options, field.name), field.metadata.get('within')
        if within and value is not None and value not in field.metadata['choices'] and not is_within(value, within):
            raise ValueError(f'{prefix}_{field.name}={value:g}: must be {in_words(within, value)}')
