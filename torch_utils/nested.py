"""Walks over nested values: dicts, lists and tuples that hold tensors among other things, like states and batches."""
from collections.abc import Callable, Iterator
from typing import Any

import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """The same nested value with function(tensor) in the place of each tensor."""
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    return function(value) if isinstance(value, torch.Tensor) else value
