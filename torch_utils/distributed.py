"""What the processes of a data-parallel run do together. Without a process group,
everything here is a no-op for one.

Each rank holds whole networks and its share of the batch.
The ranks start equal (`broadcast_module_`), average their gradients once per phase (`all_reduce_mean_`), and
hence stay equal, which `check_equal` verifies.
"""
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
import torch.distributed as dist

from dnnlib import torchrun
from dnnlib.computing import DEVICES
from torch_utils import nested, precision
from torch_utils.launcher import RankError, ask, launch, torchrun_world_size

__all__ = [
    'DEVICES', 'LateFlag', 'Mean', 'RankError', 'all_agree', 'all_reduce_mean_', 'any', 'barrier', 'broadcast_module_',
    'broadcast_nested', 'broadcast_object',
    'check_bfloat16', 'check_device', 'check_equal', 'gather', 'gather_objects', 'gather_on_main', 'launch', 'local_rank',
    'pick_device',
    'rank', 'torchrun_world_size', 'world_size',
]


def rank() -> int:
    """Number of this process in the group, 0 without one."""
    return dist.get_rank() if has_group() else 0


def world_size() -> int:
    """Number of processes in the group, 1 without one."""
    return dist.get_world_size() if has_group() else 1


def local_rank() -> int:
    """Number of this process among those on this machine."""
    return int(os.environ.get('LOCAL_RANK', 0)) if has_group() else 0


def has_group() -> bool:
    """Are there other processes to talk to?"""
    return dist.is_available() and dist.is_initialized()


# Devices.

CPU_PROCESSES = 16  # More need as many processors: each takes some hundred megabytes before it does anything.


def check_device(name: str, num_processes: int = 1) -> str:
    """Makes sure, without touching any device, that each of `num_processes` processes can have one
    of this kind.

    Args:
        name: One of DEVICES. 'auto' is CUDA if there is any, else the CPU. ('mps' must be asked for:
            it has no float64 and lacks some second derivatives.)
        num_processes: Under torchrun, what it has started on this machine counts instead.

    Returns:
        'cpu', 'cuda' or 'mps'.

    Raises:
        click.UsageError: They cannot.
    """
    assert name in DEVICES, f'device {name}, expected one of {DEVICES}'
    here = torchrun.place()
    num_processes = here.local_world_size if here else num_processes
    if name == 'cpu' or (name == 'auto' and not torch.cuda.is_available()):
        if num_processes > max(CPU_PROCESSES, os.cpu_count() or 1):
            raise click.UsageError(f'--gpus={num_processes}: that many processes on a CPU, of some hundred megabytes each, only '
                                   f'wait for each other; give at most {max(CPU_PROCESSES, os.cpu_count() or 1)}')
        return 'cpu'
    if name == 'mps':
        if num_processes > 1:
            raise click.UsageError(f'--device=mps serves one process, not {num_processes}')
        if not torch.backends.mps.is_available():
            raise click.UsageError('--device=mps: this machine has no such device; try --device=cpu')
        return 'mps'
    if (found := torch.cuda.device_count()) < num_processes:
        raise click.UsageError(
            f'--device={name}: CUDA devices needed: {num_processes}, found: {found}; --device=cpu needs none')
    return 'cuda'


BFLOAT16_SINCE = 8, 0       # Compute capability of the first CUDA devices that calculate in bfloat16.


def check_bfloat16(num_processes: int = 1) -> None:
    """Makes sure that the CUDA devices of `num_processes` processes calculate in bfloat16;
    click.UsageError if not.

    Others take several times as long as in float32, and many convolutions are missing there.
    """
    here = torchrun.place()
    on_this_machine = here.local_world_size if here else num_processes
    for index, (name, capability) in enumerate(ask(_capabilities, on_this_machine, num_processes=num_processes)):
        if capability < BFLOAT16_SINCE and torch.version.hip is None:
            raise click.UsageError(
                f'--precision=bf16: device {index} ({name}, compute capability {capability[0]}.{capability[1]}) does not '
                f'calculate in bfloat16, which needs {BFLOAT16_SINCE[0]}.{BFLOAT16_SINCE[1]}; give --precision=fp16 or fp32')


def _capabilities(num):
    return [(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))
            for index in range(num)]


def pick_device(name: str) -> torch.device:
    """The device of this process, made the current one; arguments and errors as in `check_device`."""
    kind = check_device(name, world_size())
    if kind != 'cuda':
        return torch.device(kind)
    device = torch.device('cuda', local_rank())
    torch.cuda.set_device(device)
    precision.sum_in_float32()
    return device


# Collectives: every rank calls the same ones in the same order.


def barrier() -> None:
    """Waits until all ranks are here."""
    all_agree(True)


def all_agree(flag: bool) -> bool:
    """Whether the flag is set on all ranks."""
    return _reduced_flag(flag, dist.ReduceOp.MIN)


def any(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    return _reduced_flag(flag, dist.ReduceOp.MAX)


def _reduced_flag(flag, op):
    value = torch.tensor(int(flag))
    if has_group():
        dist.all_reduce(value, op=op)
    return bool(value)


class LateFlag:
    """A flag that any rank may set, for what is asked in every iteration: the answer is one call old, so nobody waits for it.

    Without a group it is of this call. Ranks get the same answers.
    """

    def __init__(self):
        self._pending: tuple[torch.Tensor, Any] | None = None

    def any(self, flag: bool) -> bool:
        """Was the flag set on any rank when this was called before?"""
        if not has_group():
            return flag
        former, value = self._pending, torch.tensor(int(flag))
        self._pending = value, dist.all_reduce(value, op=dist.ReduceOp.MAX, async_op=True)
        if former is None:
            return False
        former[1].wait()
        return bool(former[0])


def all_reduce_mean_(tensors: Sequence[torch.Tensor]) -> None:
    """Replaces each tensor, in place, by its mean over the ranks.

    One exchange for all tensors of one type.
    """
    if world_size() > 1:
        def mean_(flat):
            op, divisor = _mean_of(flat)
            dist.all_reduce(flat, op=op)
            if divisor > 1:
                flat.div_(divisor)
        _in_one_piece(tensors, mean_)


def _mean_of(tensor):
    """(operation of an exchange, what is left to divide by): nccl averages itself, gloo only adds."""
    averages = tensor.is_cuda and dist.is_nccl_available()
    return (dist.ReduceOp.AVG, 1) if averages else (dist.ReduceOp.SUM, world_size())


class Mean:
    """The mean over the ranks of tensors of one type, on its way from the start.

    Tensors are dense; their strides stay. They travel in a type of their own, if one is given (and are added up in it).
    """

    @torch.no_grad()
    def __init__(self, tensors: Sequence[torch.Tensor], travels_as: torch.dtype | None = None):
        self._forms = [(tensor.shape, tensor.stride(), tensor.numel()) for tensor in tensors]
        # As they lie in memory.
        flat = torch.cat([tensor.as_strided([tensor.numel()], [1]) for tensor in tensors])
        self._dtype, self._flat = flat.dtype, flat.to(travels_as or flat.dtype)
        op, self._divisor = _mean_of(flat)
        self._work = dist.all_reduce(self._flat, op=op, async_op=True)

    @torch.no_grad()
    def tensors(self) -> list[torch.Tensor]:
        """The means, all in one piece of memory; waits for them."""
        self._work.wait()
        self._flat = self._flat.to(self._dtype)
        if self._divisor > 1:
            self._flat.div_(self._divisor)
        found, place = [], 0
        for shape, strides, size in self._forms:
            found.append(self._flat.as_strided(shape, strides, place))
            place += size
        return found


def broadcast_object(value: Any) -> Any:
    """Plain data of rank 0, on every rank. (It travels by pickle, between processes of this program only.)"""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_nested(value: Any) -> Any:
    """A nested value of rank 0 on every rank: plain data by pickle, its tensors, on the CPU, one by one."""
    if world_size() == 1:
        return value
    first = rank() == 0
    shape_of = nested.map_tensors(lambda tensor: tensor.to('meta'), value) if first else None
    received = nested.map_tensors(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype), broadcast_object(shape_of))
    for mine, theirs in zip(nested.tensors_in(value if first else received), nested.tensors_in(received), strict=True):
        dist.broadcast(theirs.copy_(mine) if first else theirs, src=0)
    return received


def gather_objects(value: Any) -> list[Any]:
    """Plain data and CPU tensors of all ranks, by rank, on every rank.

    (By pickle, as in `broadcast_object`.)
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors [n,...] of all ranks, of one shape, one after the other in the order of the ranks, on every rank."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_on_main(value: Any) -> list[Any] | None:
    """Plain data and CPU tensors of all ranks, by rank, on rank 0; None on the others. (By pickle, as in `broadcast_object`.)"""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def broadcast_module_(module: torch.nn.Module) -> None:
    """Overwrites all parameters and buffers, in place, by those of rank 0."""
    if world_size() > 1:
        _in_one_piece([*module.parameters(), *module.buffers()], lambda flat: dist.broadcast(flat, src=0))


@torch.no_grad()
def _in_one_piece(tensors: Sequence[torch.Tensor], collective: Callable) -> None:
    """Runs an in-place collective on all tensors of one type and device at once. Strides stay as they are."""
    groups = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        if len(group) == 1 and group[0].is_contiguous():
            collective(group[0])            # It is in one piece already.
            continue
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        collective(flat)
        for tensor, piece in zip(group, flat.split([tensor.numel() for tensor in group])):
            tensor.copy_(piece.view(tensor.shape))


def check_equal(modules: Mapping[str, torch.nn.Module], ignore: str = r'.*\.w_avg') -> None:
    """Makes sure that all parameters and buffers have the same values on all ranks. NaN equals NaN.

    Args:
        modules: The modules under names of their own, like 'G'.
        ignore: Tensors whose full names, like 'G.mapping.w_avg', match this are left out.
            (The average of w follows the latents of each rank.)

    Raises:
        RuntimeError: On all ranks, naming rank, tensor and difference.
    """
    if world_size() == 1:
        return
    tensors = {
        f'{prefix}.{name}': tensor.detach()
        for prefix, module in modules.items()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    tensors = {name: tensors[name] for name in sorted(tensors) if not re.fullmatch(ignore, name)}
    _raise_on_all_ranks(_difference_in_layout(tensors))
    _raise_on_all_ranks(_difference_in_values(tensors))


def _difference_in_layout(tensors):
    """A sentence about the first name, shape or type that rank 0 does not have, or the other way round;
    else None."""
    here = [f'{name} {list(tensor.shape)} {tensor.dtype}' for name, tensor in tensors.items()]
    there = broadcast_object(here)
    if here == there:
        return None
    only_here, only_there = set(here) - set(there), set(there) - set(here)
    return f'has {sorted(only_here)} where rank 0 has {sorted(only_there)}'


def _difference_in_values(tensors):
    """A sentence about the first tensor that differs from that of rank 0, else None."""
    problems = []
    for name, tensor in tensors.items():
        first = tensor.clone(memory_format=torch.contiguous_format)
        dist.broadcast(first, src=0)
        differs = (tensor != first) & ~(tensor.isnan() & first.isnan())
        if differs.any():
            largest = (tensor.double() - first.double()).abs()[differs].max()
            problems.append(f'{name} differs from rank 0 in {int(differs.sum())} of {tensor.numel()} elements, '
                            f'by up to {largest:.3g}')
    if not problems:
        return None
    return problems[0] + (f' (and {len(problems) - 1} more tensors differ)' if problems[1:] else '')


def _raise_on_all_ranks(problem):
    sentences = [f'rank {number}: {text}' for number, text in enumerate(gather_objects(problem))
                 if text is not None]
    if sentences:
        raise RuntimeError('; '.join(sentences))
