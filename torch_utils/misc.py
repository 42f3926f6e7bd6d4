"""Small things that several parts need: constants, shape checks, and the tensors of a module.

The sampler and the module summary have files of their own and are found here under their public names.
"""
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from torch_utils import distributed
from torch_utils.sampler import InfiniteSampler
from torch_utils.summary import print_module_summary

__all__ = [
    'InfiniteSampler', 'assert_shape', 'check_ddp_consistency', 'constant', 'copy_params_and_buffers',
    'finite_or', 'named_params_and_buffers', 'params_and_buffers', 'print_module_summary', 'to_device',
]


def constant(
    value: Any,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """A tensor with fixed content that is made, and copied to its device, only the first time.

    Everyone who asks for the same constant gets the same tensor: never write into it.

    Args:
        value: Number, nested sequence or array.
        shape: Shape that the value is broadcast to. None: its own.
        dtype: None: torch's default type.
        device: None: the CPU.
        memory_format: None: contiguous.
    """
    array = np.asarray(value)
    shape = array.shape if shape is None else tuple(shape)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.device('cpu' if device is None else device)
    memory_format = torch.contiguous_format if memory_format is None else memory_format
    return _constant(array.tobytes(), array.dtype.str, array.shape, shape, dtype, device, memory_format)


@cache
def _constant(content, content_dtype, content_shape, shape, dtype, device, memory_format):
    array = np.frombuffer(content, dtype=content_dtype).reshape(content_shape)
    with torch.inference_mode(False):       # An inference tensor could not be used in training later.
        tensor = torch.tensor(array, dtype=dtype, device=device)
        return tensor.broadcast_to(shape).contiguous(memory_format=memory_format)


def finite_or(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """`new`, but `old` where `new` is not finite, so that values kept from step to step survive a bad step.
    Does not make the host wait for the device.
    """
    return torch.where(new.isfinite(), new, old)


def squared_norms(x: torch.Tensor) -> torch.Tensor:
    """Sum of squares of every sample of x [N,C,H,W], as [N]."""
    return x.square().sum([1, 2, 3])


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device. From pinned memory a CUDA device fetches it by itself,
    while the host goes on; for others the host waits: on MPS what follows would not.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor.to(device)


def assert_shape(tensor: torch.Tensor, ref_shape: Sequence[int | None]) -> None:
    """Raises AssertionError unless the tensor has this shape; None stands for any size."""
    same = tensor.ndim == len(ref_shape) and all(r is None or s == r for s, r in zip(tensor.shape, ref_shape))
    assert same, f'shape {list(tensor.shape)}, expected {list(ref_shape)}'


def params_and_buffers(module: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters and then all buffers of the module."""
    return [tensor for _name, tensor in named_params_and_buffers(module)]


def named_params_and_buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All parameters and then all buffers of the module with their full names."""
    return [*module.named_parameters(), *module.named_buffers()]


def copy_params_and_buffers(
    src_module: torch.nn.Module,
    dst_module: torch.nn.Module,
    require_all: bool = False,
) -> None:
    """Copies, in place, every parameter and buffer that both modules have, whatever else either has.

    Names decide: a parameter may be copied into a buffer and the other way round (a frozen layer holds its
    weights as buffers). The destination keeps its types, devices and requires_grad.

    Raises:
        ValueError: A shape differs, or, with `require_all`,
            the source lacks a tensor of the destination. Then nothing has been copied.
    """
    src_tensors = dict(named_params_and_buffers(src_module))
    pairs = []
    for name, dst in named_params_and_buffers(dst_module):
        src = src_tensors.get(name)
        if src is None:
            if require_all:
                raise ValueError(f'{name} is missing in the source')
        elif src.shape != dst.shape:
            raise ValueError(f'{name} has shape {list(src.shape)} in the source, {list(dst.shape)} in the destination')
        else:
            pairs.append((src, dst))
    with torch.no_grad():
        for src, dst in pairs:
            dst.copy_(src)


def check_ddp_consistency(module: torch.nn.Module, ignore_regex: str | None = None) -> None:
    """Makes sure that the module has the same parameters and buffers on all ranks.

    Full names, which `ignore_regex` may match, begin with the name of the class: 'Generator.mapping.w_avg'.

    Raises:
        RuntimeError: On all ranks, naming rank, tensor and difference.
    """
    distributed.check_equal({type(module).__name__: module}, ignore_regex or '')
