"""Statistics: anyone reports values under a name, collectors read count, mean and standard deviation.

Reporting costs a copy of the values and never waits for the device. What was reported stays there,
from time to time as three sums (number of values, values, squares), until a collector's `update()` adds them
up over devices and ranks.

    training_stats.report('Loss/signs/real', logits.sign())     # anywhere, on every rank
    collector = training_stats.Collector('Loss/.*')
    collector.update()                                          # on every rank
    collector['Loss/signs/real']                                # mean since the previous update
"""
import hashlib
import math
import re
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

WAITING_VALUES = 2 ** 12        # Of one statistic that wait on their device to be added up.


class _Sums:
    """Number, sum and sum of squares of values on one device, formed for many reports of equal size at once.

    On a CPU, where nothing has to be launched, they are formed for each:
    the same numbers however a run was interrupted.
    """

    def __init__(self, moments=None):
        self._moments = moments                         # [3] float64, of all but:
        self._waiting = []                              # Copies of what was reported since, [n] float32 each.

    def add(self, elems):
        """Takes values, [n] float32, which nobody writes to any more."""
        if self._waiting and self._waiting[0].numel() != elems.numel():
            self.take()
        self._waiting.append(elems)
        if elems.device.type == 'cpu' or len(self._waiting) * elems.numel() >= WAITING_VALUES:
            self.take()

    def join(self, moments):
        """Adds sums of one report."""
        self.take()
        self._moments = moments if self._moments is None else self._moments + moments

    def take(self):
        """[3] float64 (float32 where there is no float64)."""
        if self._waiting:
            elems = torch.stack(self._waiting)
            self._waiting.clear()
            moments = torch.stack([elems.new_full([len(elems)], elems.shape[1]), elems.sum(1), elems.square().sum(1)])
            moments = moments.sum(1, dtype=torch.float32 if elems.device.type == 'mps' else torch.float64)
            self._moments = moments if self._moments is None else self._moments + moments
        return self._moments


class Registry:
    """All names, and the sums that no collector has been told yet."""

    def __init__(self):
        self.rank = 0
        self.sync_device = None                         # Where sums over ranks are made; None: one process.
        self.has_synced = False
        self.pending = {}  # name -> device -> _Sums, in the order of first report.
        self.collectors = weakref.WeakSet()
        self.held = None                                # Who gets the reports instead.
        self.notes = None                               # [(name, moments)] for whoever wants them, report by report.

    def report(self, name, value):
        # It may be written to before it is added up.
        elems = torch.as_tensor(value).detach().flatten().to(torch.float32, copy=True)
        if self.held is None:
            self.add(name, elems)
        else:
            self.held.add(name, elems)

    def add(self, name, elems):
        if self.notes is not None and elems.numel() > 0:
            self.notes.append((name, moments_of(elems)))
        sums = self.pending.setdefault(name, {})
        if elems.numel() > 0:
            sums.setdefault(elems.device, _Sums()).add(elems)

    def deliver(self, names):
        """Tells the collectors what was reported under these names on all ranks.

        To be called by all ranks alike.
        """
        self.has_synced = True
        sums = self._take(names)
        if self.sync_device is None:
            assert not (dist.is_initialized() and dist.get_world_size() > 1), \
                'several processes: call training_stats.init_multiprocessing() first'
        else:
            _assert_same_names(names, self.sync_device)
            dist.all_reduce(sums)
        for name, moments in zip(names, sums.cpu().numpy()):
            for collector in self.collectors:
                collector._receive(name, moments)

    def _take(self, names):
        """Removes and returns the sums of these names over the devices of this process, [len(names),
        3] float64."""
        rows = defaultdict(list)
        for index, name in enumerate(names):
            for device, sums in self.pending[name].items():
                rows[device].append((index, sums.take()))
            self.pending[name] = {}
        total = torch.zeros([len(names), 3], dtype=torch.float64, device=self.sync_device or 'cpu')
        for entries in rows.values():                   # One transfer per device.
            indices, moments = zip(*entries)
            total[list(indices)] += torch.stack(moments).to(total.device).to(torch.float64)
        return total


def _assert_same_names(names, device):
    digest = hashlib.blake2b('\n'.join(names).encode(), digest_size=7).digest()
    lowest_highest = torch.tensor([1, -1], device=device) * int.from_bytes(digest, 'big')
    dist.all_reduce(lowest_highest, op=dist.ReduceOp.MIN)
    assert lowest_highest[0] == -lowest_highest[1], \
        f'ranks have reported different statistics, or in another order; here: {", ".join(names)}'


registry = Registry()


def init_multiprocessing(rank: int, sync_device: torch.device | str | None) -> None:
    """Says who this process is. With several processes, to be called before the first collector is made.

    Args:
        rank: Rank of this process.
        sync_device: Device whose tensors the process group can sum. None: there is only one process.
    """
    unchanged = (rank, sync_device) == (registry.rank, registry.sync_device)
    assert unchanged or not registry.has_synced, 'init_multiprocessing() must come before the first collector'
    registry.rank, registry.sync_device = rank, sync_device


def reset() -> None:
    """Forgets all names and values reported so far: a new run begins in this process."""
    registry.pending.clear()


def report(name: str, value: Any) -> Any:
    """Adds all elements of `value` (tensor, array, number or sequence) to the statistic of this name.

    All ranks must report the same names in the same order; an empty value registers the name.
    Elements are taken as float32. Returns `value`.
    """
    registry.report(name, value)
    return value


def report0(name: str, value: Any) -> Any:
    """The same, with the value of rank 0 only; the other ranks register the name. Returns `value`."""
    registry.report(name, value if registry.rank == 0 else [])
    return value


class HeldReports:
    """What was reported while reports were held: names, and one tensor with the values of all."""

    def __init__(self):
        self._names, self._sizes, self._parts = [], [], []

    def add(self, name: str, elems: torch.Tensor) -> None:
        """Takes a report."""
        self._names.append(name)
        self._sizes.append(elems.numel())
        if elems.numel() > 0:
            self._parts.append(elems)

    def values(self) -> torch.Tensor | None:
        """All values in one tensor, [n] float32, once; None if there are none."""
        parts, self._parts = self._parts, []
        return torch.cat(parts) if parts else None

    def deliver(self, values: torch.Tensor | None) -> None:
        """Reports the same names with these values, [n], which nobody writes to any more."""
        for name, elems in zip(self._names, (torch.empty([0]) if values is None else values).split(self._sizes)):
            registry.add(name, elems)


@contextmanager
def held() -> Iterator[HeldReports]:
    """Within, reports are held back: those of a step that is captured as a graph are delivered after each of its replays."""
    registry.held = reports = HeldReports()
    try:
        yield reports
    finally:
        registry.held = None


@contextmanager
def noted() -> Iterator[list[tuple[str, list[float]]]]:
    """Notes [(name, [number, sum, sum of squares])] of every report meanwhile, in a list, for another process to report.

    Waits for the device each time.
    """
    before, registry.notes = registry.notes, []
    try:
        yield registry.notes
    finally:
        registry.notes = before


def moments_of(elems: torch.Tensor) -> list[float]:
    """[number, sum, sum of squares] of values, as they are summed up here."""
    sums = _Sums()
    sums.add(elems.to(torch.float32))
    return sums.take().tolist()


def report_moments(name: str, moments: list[float]) -> None:
    """Reports what another process has noted of one report, as if it had been made here."""
    sums = registry.pending.setdefault(name, {}).setdefault(torch.device('cpu'), _Sums())
    sums.join(torch.tensor(moments, dtype=torch.float64))


def state_dict() -> dict:
    """The registered names, as plain data.

    Their values are in the states of the collectors that watch them.
    """
    return {'names': list(registry.pending)}


def load_state_dict(state: dict) -> None:
    """Registers the names of `state` and nothing else."""
    reset()
    for name in state['names']:
        report(name, [])


def reported() -> dict[str, list[float]]:
    """{name: [number, sum, sum of squares]} of what this rank has reported
    and no collector was told yet; plain data."""
    return {name: torch.stack([part.take().cpu().to(torch.float64) for part in sums.values()]).sum(0).tolist()
            for name, sums in registry.pending.items() if sums}


def report_again(sums: dict[str, list[float]]) -> None:
    """Reports what `reported` returned, as if it were the same values."""
    for name, moments in sums.items():
        registry.pending.setdefault(name, {})[torch.device('cpu')] = _Sums(torch.tensor(moments, dtype=torch.float64))


class _Moments(NamedTuple):
    """Number, sum, and sum of squares of some values."""
    num: float = 0
    sum: float = 0
    sum_sq: float = 0

    def __add__(self, other):
        return _Moments(*(float(a + b) for a, b in zip(self, other)))


class Collector:
    """Reads the statistics of all names that match, over the time between its last two updates.

    Several collectors may watch one name. Each has sums of its own, which begin anew with every update,
    so a NaN does not outlast it.

    Args:
        regex: Which names; the whole name must match.
        keep_previous: What a name shows that got no value since the previous update:
            what it showed before, or nothing.
    """

    def __init__(self, regex: str = '.*', keep_previous: bool = True):
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        self._unread = {}                               # name -> _Moments since the last update.
        self._visible = {}                              # name -> _Moments that the queries answer from.
        registry.deliver(self.names())                 # What is older belongs to the other collectors.
        registry.collectors.add(self)

    def _receive(self, name, moments):
        if self._regex.fullmatch(name):
            self._unread[name] = self._unread.get(name, _Moments()) + moments

    def names(self) -> list[str]:
        """All matching names, in the order of their first report."""
        return [name for name in registry.pending if self._regex.fullmatch(name)]

    def update(self) -> None:
        """Makes visible what was reported, on all ranks, since the previous update.

        To be called by all ranks alike.
        """
        registry.deliver(self.names())
        if not self._keep_previous:
            self._visible.clear()
        self._visible.update({name: moments for name, moments in self._unread.items() if moments.num > 0})
        self._unread.clear()

    def num(self, name: str) -> int:
        """How many values."""
        return int(self._moments(name).num)

    def mean(self, name: str) -> float:
        """Their mean, NaN if there are none."""
        moments = self._moments(name)
        return moments.sum / moments.num if moments.num > 0 else math.nan

    def std(self, name: str) -> float:
        """Their standard deviation (divisor n), NaN if there are none or one of them is not finite."""
        moments = self._moments(name)
        if moments.num == 0 or not math.isfinite(moments.sum):
            return math.nan
        if moments.num == 1:
            return 0.0
        mean = moments.sum / moments.num
        return math.sqrt(max(moments.sum_sq / moments.num - mean ** 2, 0))

    def _moments(self, name):
        assert self._regex.fullmatch(name), f'{name} does not match {self._regex.pattern}'
        return self._visible.get(name, _Moments())

    def as_dict(self) -> dict[str, dict]:
        """name -> {'num', 'mean', 'std'} for all matching names."""
        return {name: {'num': self.num(name), 'mean': self.mean(name), 'std': self.std(name)} for name in self.names()}

    def __getitem__(self, name: str) -> float:
        return self.mean(name)

    def state_dict(self) -> dict:
        """All that was reported to this collector on all ranks, as plain data.

        To be called by all ranks alike.
        """
        registry.deliver(self.names())
        return {'unread': _plain(self._unread), 'visible': _plain(self._visible)}

    def load_state_dict(self, state: dict) -> None:
        """Replaces all that was reported to this collector before."""
        registry.deliver(self.names())
        self._unread = {name: _Moments(*moments) for name, moments in state['unread'].items()}
        self._visible = {name: _Moments(*moments) for name, moments in state['visible'].items()}


def _plain(moments):
    return {name: list(values) for name, values in moments.items()}
