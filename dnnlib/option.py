"""Fields of `Options` dataclasses that become command-line options. Knows neither torch nor click."""
import dataclasses
from typing import Any


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with what `--help` says of it, and the values it may have (empty: any)."""
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices))
