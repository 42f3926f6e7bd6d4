"""The results of a plan: one line of JSON per finished run, appended and never changed."""
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import Block, Plan


@dataclass(frozen=True)
class Result:
    """One run that ended, well or not."""
    plan: str                           # SHA-256 of the plan.
    stage: str
    cell: str
    block: Block
    status: str                         # finished or failed.
    reason: str = ''                    # Of a failure.
    curve: list[tuple[float, dict[str, float]]] = field(default_factory=list)      # (kimg, {metric: value}).
    sec_per_kimg: float | None = None   # Of processor time, training alone.
    memorised: float | None = None      # Share of fakes, see `memorised.py`.
    facts: dict[str, Any] = field(default_factory=dict)     # Commit, machine, versions, command.

    def line(self) -> str:
        """As it stands in the file."""
        return json.dumps({**self.__dict__, 'block': list(self.block)}, sort_keys=True)

    @classmethod
    def parse(cls, line: str) -> 'Result':
        """What `line` said. Raises ValueError for what is no result."""
        try:
            values = json.loads(line)
            values['block'] = Block(*values['block'])
            values['curve'] = [(kimg, scores) for kimg, scores in values['curve']]
            found = cls(**values)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError('this is no result') from error
        if not found.is_sound():
            raise ValueError('this is no result')
        return found

    def is_sound(self) -> bool:
        """Has every entry its type?"""
        texts = self.plan, self.stage, self.cell, self.reason, self.block.data
        numbers = [number for number in (self.sec_per_kimg, self.memorised) if number is not None]
        scores = [scores for _, scores in self.curve]
        return (all(type(text) is str for text in texts) and self.status in ('finished', 'failed')
                and type(self.block.num_images) is type(self.block.seed) is int
                and type(self.facts) is dict and all(type(fact) is str for fact in self.facts.values())
                and all(type(one) is dict for one in scores)
                and all(map(is_number, [*numbers, *(kimg for kimg, _ in self.curve),
                                        *(value for one in scores for value in one.values())])))


def read_results(path: Path, plan: Plan | None = None) -> list[Result]:
    """All results in a file, of a plan if one is given, each run once; a line that was cut by a kill, or is none of ours, is
    passed over."""
    if not path.is_file():
        return []
    found: dict[tuple, Result] = {}
    for line in path.read_bytes().split(b'\n'):
        with suppress(ValueError):
            result = Result.parse(line.decode())
            found.setdefault((result.plan, result.stage, result.cell, result.block), result)
    return [result for result in found.values() if plan is None or result.plan == plan.sha256]


def is_number(value: Any) -> bool:
    """Is this a number? NaN, the score of a run that broke, is one."""
    return type(value) in (int, float)


def append_result(path: Path, result: Result) -> bool:
    """Adds a result, unless the same run of the same plan is there already; says whether it did.

    The line is on the disk when this returns. Several processes may append at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+b') as file, _exclusive(file):
        known = {(other.plan, other.stage, other.cell, other.block) for other in read_results(path)}
        if (result.plan, result.stage, result.cell, result.block) in known:
            return False
        file.seek(0, os.SEEK_END)
        cut = b'\n' if file.tell() and not _ends_a_line(file) else b''
        file.write(cut + result.line().encode() + b'\n')
        file.flush()
        os.fsync(file.fileno())
    return True


def _ends_a_line(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b'\n'


@contextmanager
def _exclusive(file) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
