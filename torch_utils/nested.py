"""Walks over nested values: dicts, lists and tuples that hold tensors among other things, like states and batches."""
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def map_tensors(function: Callable[[Any], Any], value: Any, numbers: bool = False) -> Any:
    """The same nested value with function(tensor) in the place of each tensor, also in dataclasses; with `numbers` in that of
    each floating-point number, too."""
    if isinstance(value, torch.Tensor) or (numbers and isinstance(value, float)):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, item, numbers) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item, numbers) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: map_tensors(function, getattr(value, field.name), numbers)
                                 for field in fields(value) if field.init})
    return value
