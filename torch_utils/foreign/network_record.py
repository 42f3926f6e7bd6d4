"""What a foreign network file says: enough to build a network of ours, and nothing that could do anything."""
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from torch_utils import checkpoint
from torch_utils.checkpoint import CheckpointError

MAX_DEPTH = 30          # Of nested modules and options; real ones have less than ten.
MAX_ITEMS = 10_000      # Options, modules, or tensors; real files have some hundreds.


@dataclass
class NetworkRecord:
    """A network as arguments and tensors."""
    class_name: str                     # One of network_schema.CLASSES
    kwargs: dict[str, Any]              # Its constructor's arguments, plain data
    state: dict[str, torch.Tensor]      # By the names of its state dict
    grafts: dict[str, torch.Tensor] = field(default_factory=dict)   # Layers that a method added

    def build(self, num_bytes: int) -> torch.nn.Module:
        """The network, as `checkpoint.build_network` makes it.
        Raises ValueError if anything is missing or left over.

        Also if its tensors are larger than `num_bytes`, the file they come from:
        then the file names some repeatedly.
        """
        if sum(tensor.numel() for tensor in self.state.values()) > num_bytes:
            raise CheckpointError('refused: the network is larger than the file it comes from')
        network, left_over = checkpoint.build_network(self.class_name, self.kwargs, self.state)
        if left_over:
            raise CheckpointError(f'tensor {next(iter(left_over))} has no place in a {self.class_name}')
        return network


def with_filters(record: NetworkRecord) -> NetworkRecord:
    """The record with the low-pass filters that its arguments imply, for files that do not store them."""
    skeleton = checkpoint.skeleton(record.class_name, record.kwargs, len(record.state))
    filters = {key: tensor for key, tensor in skeleton.items() if key.endswith('resample_filter')}
    return replace(record, state={**filters, **record.state})


def plain_data(value: Any) -> Any:
    """A copy of nested dicts, lists, tuples, text and numbers.

    Raises CheckpointError for all else and for giants.
    """
    left = MAX_ITEMS

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            raise CheckpointError('refused: options that are nested too deeply, or too many')
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {str(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, np.ndarray) and value.size <= left:
            return value.tolist()
        raise CheckpointError(f'refused: an option of type {type(value).__name__}')

    return copy(value, 0)
