"""Walks a plan: trains, scores and records every run that has no result yet, several at a time.

Kill it whenever you like, start it again, or start it twice:
a run is claimed by a lock that lives as long as the process that trains, a training that was cut off goes on
where it was saved, and a result is written once.
"""
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.results import Result, append_result, read_results

ROOT = Path(__file__).parents[2]
STOPPED = 75                # Exit status of a training that was asked to stop.
TRIES = 2  # So often a training may fail for a reason that is not its own before it counts as failed.


class PlanError(Exception):
    """The plan cannot be carried out here; the text is for users."""


class Interrupted(Exception):
    """A child was stopped or killed; the run goes on another time."""


@dataclass
class Runner:
    """Carries out a plan.

    Attributes:
        plan: What to do.
        results: Where results are appended.
        workdir: Where runs train; may be deleted when all is done.
        data: {name in the plan: path of the data set}.
        device: As train.py has it.
        seconds: Start no further run after so many.
        stages: Only these, if any are named.
        names: Only cells of these names, if there are any.
    """
    plan: Plan
    results: Path
    workdir: Path
    data: dict[str, Path]
    device: str = 'cpu'
    seconds: float = float('inf')
    stages: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    _begin: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)
    _children: set = field(default_factory=set)

    def run(self, workers: int) -> None:
        """Works until everything is done or the time is up. Raises PlanError, KeyboardInterrupt."""
        check_data(self.plan, self.data)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        errors: list[Exception] = []

        def work():
            try:
                self._work()
            except Exception as error:
                errors.append(error)
                self._stop.set()

        threads = [threading.Thread(target=work) for _ in range(workers)]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.2)
        except KeyboardInterrupt:
            self._stop.set()
            for child in list(self._children):
                child.send_signal(signal.SIGTERM)       # train.py saves and stops; SIGINT is ignored behind `&`.
            raise
        finally:
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def _work(self) -> None:
        while not self._stop.is_set() and time.monotonic() - self._begin < self.seconds:
            with self._next_cell() as claimed:
                if claimed is None:
                    return
                cell, folder, claim = claimed
                try:
                    result = self.result_of(cell, folder, claim)
                except Interrupted:
                    continue
                append_result(self.results, result)
                click.echo(f'{cell.key}: {result.status} {result.reason}'.rstrip())

    def _wanted(self, cell: Cell) -> bool:
        return (not self.stages or cell.stage in self.stages) and (not self.names or cell.name in self.names)

    @contextmanager
    def _next_cell(self) -> Iterator[tuple[Cell, Path, int] | None]:
        """The first run without a result that nobody works on, its folder,
        and the descriptor that holds the claim."""
        done = {(r.stage, r.cell, r.block) for r in read_results(self.results, self.plan)}
        for cell in self.plan.cells():
            if not self._wanted(cell) or (cell.stage, cell.name, cell.block) in done:
                continue
            folder = self.workdir / self.plan.short_sha / cell.key
            folder.mkdir(parents=True, exist_ok=True)
            claim = os.open(folder / '.claim', os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                known = {(r.stage, r.cell, r.block) for r in read_results(self.results, self.plan)}
                if (cell.stage, cell.name, cell.block) not in known:  # It may have ended since we looked.
                    yield cell, folder, claim
                    return
            except BlockingIOError:
                pass
            finally:
                os.close(claim)
        yield None

    def result_of(self, cell: Cell, folder: Path, claim: int) -> Result:
        """Trains and scores. Raises Interrupted, PlanError."""
        command = train_command(self.plan, cell, self.data, folder, self.device)
        facts = facts_of_here(command, self.device)
        common = dict(plan=self.plan.sha256, stage=cell.stage, cell=cell.name, block=cell.block)
        sec_per_kimg, reason = self.train(command, folder, claim)
        if reason:
            return Result(status='failed', reason=reason, facts=facts, **common)
        run_dir = run_dir_in(folder)
        self.call(score_command(self.plan, run_dir, self.device), folder / 'score.txt', claim)
        memorised = None
        if cell.block.num_images < self.plan['data'][cell.block.data]['images']:        # Else no image is held out.
            self.call([sys.executable, '-m', 'benchmarks.evidence.memorised', str(run_dir),
                        str(folder / 'memorised.json'), self.device],
                       folder / 'score.txt', claim)
            memorised = json.loads((folder / 'memorised.json').read_text(encoding='utf-8'))['share']
        curve = curve_of(run_dir)
        facts['weights'] = weights_of(run_dir)
        clean_up(run_dir)
        return Result(status='finished', curve=curve, sec_per_kimg=sec_per_kimg, memorised=memorised,
                      facts=facts, **common)

    def train(self, command: list[str], folder: Path, claim: int) -> tuple[float | None, str]:
        """(seconds of processor time a kimg, why it failed or nothing); a GPU's time is shared and not known."""
        log = folder / 'train.txt'
        for _ in range(TRIES):
            before = kimg_so_far(folder)
            status, seconds = self._child(command, log, claim)
            if status == 0:
                trained = kimg_so_far(folder) - before
                return (seconds / trained if trained > 0 and self.device == 'cpu' else None), ''
            if status < 0 or status > 128 or status == STOPPED or self._stop.is_set():
                raise Interrupted
            reason = last_line(log)
            if status == 2:
                raise PlanError(f'train.py refuses a run of the plan ({" ".join(command)}): {reason}')
            if 'diverges' in reason:
                break
        return None, reason

    def call(self, command: list[str], log: Path, claim: int) -> None:
        """Runs a command to its end. Raises Interrupted, PlanError."""
        status, _ = self._child(command, log, claim)
        if status < 0 or status > 128 or self._stop.is_set():
            raise Interrupted
        if status:
            raise PlanError(f'{" ".join(command)} failed: {last_line(log)}')

    def _child(self, command: list[str], log: Path, claim: int) -> tuple[int, float]:
        """(exit status, seconds of processor time).

        The child holds the claim as long as it lives, whatever we do.
        """
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
        with log.open('ab') as file:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                     stdout=file, stderr=file, pass_fds=[claim])
            self._children.add(child)
            try:
                _, status, usage = os.wait4(child.pid, 0)
            finally:
                self._children.discard(child)
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode, usage.ru_utime + usage.ru_stime


def train_command(plan: Plan, cell: Cell, data: dict[str, Path], folder: Path, device: str) -> list[str]:
    """How a run of a plan is trained, and continued."""
    return [
        sys.executable, 'train.py', f'--outdir={folder}', f'--data={data[cell.block.data]}',
        f'--subset={cell.block.num_images}', f'--seed={cell.block.seed}', f'--kimg={plan["kimg"]}',
        f'--tick={plan["kimg"] / plan["snapshots"]:g}', '--snap=1', '--keep=1', '--metrics=none',
        '--log=none', '--workers=0', f'--device={device}', *plan['base'], *cell.options]


def score_command(plan: Plan, run_dir: Path, device: str) -> list[str]:
    """How all snapshots of a run are scored, against the whole of its data set."""
    return [sys.executable, 'calc_metrics.py', f'--network={run_dir}', '--snapshots=all',
            f'--metrics={",".join(plan["metrics"])}', '--workers=0', f'--device={device}']


def run_dir_in(folder: Path) -> Path | None:
    """The directory of the run that train.py made in a folder."""
    return max(folder.glob('0*-*/'), default=None)


def kimg_so_far(folder: Path) -> float:
    """Where a run in a folder was last saved."""
    run_dir = run_dir_in(folder)
    states = run_dir.glob('training-state-*.safetensors') if run_dir else []
    return max((int(path.stem.rpartition('-')[2]) for path in states), default=0) / 1000


def curve_of(run_dir: Path) -> list[tuple[float, dict[str, float]]]:
    """(kimg, {metric: value}) of the snapshot at the end of every tick, but the untrained one.

    A run that was stopped inside a tick has one more, which other runs have not.
    """
    from metrics.plots import read_curves
    from training.run.run_files import read_stats
    ticks = {int(kimg) for _, kimg in read_stats(run_dir / 'stats.jsonl')['Progress/kimg']}
    points: dict[float, dict[str, float]] = {}
    for name, curve in read_curves(str(run_dir)).items():
        for kimg, value in curve:
            if kimg in ticks:
                points.setdefault(kimg, {})[name] = value
    return [(kimg, points[kimg]) for kimg in sorted(points) if kimg > 0]


def weights_of(run_dir: Path) -> str:
    """SHA-256 of the averaged generator of the last snapshot: two runs that trained alike have the same."""
    from torch_utils.network_file import load_network
    digest = hashlib.sha256()
    for name, tensor in sorted(load_network(run_dir, only=['G_ema'])['G_ema'].state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def clean_up(run_dir: Path) -> None:
    """Removes what takes space: states, and all snapshots but the last."""
    snapshots = sorted(run_dir.glob('network-snapshot-*'))
    for path in [*run_dir.glob('training-state-*'), *snapshots[:-1]]:
        path.unlink()


def facts_of_here(command: list[str], device: str) -> dict:
    """What a result may depend on besides the plan. Where there is no repository, LOSS_ZOO_COMMIT says which commit this is."""
    import numpy
    import torch

    def git(*arguments: str) -> str:
        if shutil.which('git') is None:
            return ''
        return subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    shown = [part for part in command[1:] if not part.startswith(('--outdir=', '--data='))]
    return dict(
        commit=(git('rev-parse', 'HEAD') or os.environ.get('LOSS_ZOO_COMMIT', ''))
        + ('+' if git('status', '--porcelain', '--untracked-files=no') else ''),
        command=' '.join(shown), processor=torch.cuda.get_device_name() if device == 'cuda' else processor_name(),
        torch=torch.__version__, numpy=numpy.__version__,
        python=platform.python_version())


def processor_name() -> str:
    """Of this machine, as far as it tells."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    lines = [line.strip() for line in log.read_text(encoding='utf-8', errors='replace').splitlines()
             if line.strip()]
    return lines[-1] if lines else 'it said nothing'


def check_data(plan: Plan, data: dict[str, Path]) -> None:
    """Raises PlanError unless every data set of the plan is there and is the one that was meant."""
    from training.dataset import ImageFolderDataset
    for name, meant in plan['data'].items():
        if name not in data:
            raise PlanError(f'the plan needs the data set {name} ({meant["about"]}): give --data {name}=PATH')
        try:
            dataset = ImageFolderDataset(str(data[name]))
        except OSError as error:
            raise PlanError(f'--data {name}={data[name]}: {error}') from error
        found = dataset.fingerprint()
        dataset.close()
        if found != meant['fingerprint']:
            raise PlanError(f'--data {name}={data[name]} is not the data set of the plan: its fingerprint is {found}, '
                            f'that of the plan {meant["fingerprint"]}')
