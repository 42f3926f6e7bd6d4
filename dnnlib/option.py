"""Fields of `Options` dataclasses that become command-line options. Knows neither torch nor click."""
import dataclasses
import math
from typing import Any


def option(default: Any, help: str, choices: tuple[str, ...] = (), within: str = '') -> Any:
    """A dataclass field with what `--help` says of it, and which values it may have (empty: any).

    `choices` are words; `within` is an interval of numbers, as in '[0, 1)' or '(0, inf)'.
    """
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices, within=within))


def check_ranges(prefix: str, options: Any) -> None:
    """Raises ValueError, with the option `PREFIX_FIELD`, for a number that is outside its interval; None is none."""
    for field in dataclasses.fields(options):
        value, within = getattr(options, field.name), field.metadata.get('within')
        if within and value is not None and not _is_within(value, within):
            raise ValueError(f'{prefix}_{field.name}={value:g}: must be {_in_words(within, value)}')


def _borders(within: str) -> tuple[float, float]:
    low, high = within[1:-1].split(',')
    return float(low), float(high)


def _is_within(value: float, within: str) -> bool:
    low, high = _borders(within)
    return (value >= low if within[0] == '[' else value > low) and (value <= high if within[-1] == ']' else value < high)


def _in_words(within: str, value: float) -> str:
    """'[0, 1)' -> 'at least 0 and less than 1', for a value that is not."""
    low, high = _borders(within)
    words = [f'{"at least" if within[0] == "[" else "more than"} {low:g}']
    if math.isfinite(high):
        words.append(f'{"at most" if within[-1] == "]" else "less than"} {high:g}')
    elif math.isinf(value):
        words.append('finite')
    return ' and '.join(words)
