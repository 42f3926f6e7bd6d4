"""The results of a plan: one line of JSON per finished run, appended and never changed."""
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        """What `line` said."""
        values = json.loads(line)
        values['block'] = Block(*values['block'])
        values['curve'] = [(kimg, scores) for kimg, scores in values['curve']]
        return cls(**values)


def read_results(path: Path, plan: Plan | None = None) -> list[Result]:
    """All results in a file, of a plan if one is given; a line that was cut by a kill is passed over."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            found.append(Result.parse(line))
        except (ValueError, TypeError):
            continue
    return [result for result in found if plan is None or result.plan == plan.sha256]


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
