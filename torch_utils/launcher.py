"""Starts the processes of a data-parallel run, and ends them all when one of them fails.

Two ways lead to a process group: `launch` spawns the processes of one machine itself,
or torchrun has started them, on one or several machines, and `launch` only joins them. Tensors on the CPU
travel by gloo, CUDA tensors by nccl.
"""
import ctypes
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dnnlib import output, torchrun, writing

# How long a collective waits for a machine or network that has gone silent, which no parent process notices.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
FIRST_TIMEOUT = timedelta(hours=12)     # For what the first process alone finds out: of a folder on a slow disk.
SECONDARY_SEC = 1  # Failures within this time after the first one count as its consequences.
TERMINATE_SEC = 5                           # Between asking a process to end and killing it.
INTERRUPT_SEC = 600                         # After Ctrl-C, for ranks that finish and save something.
PASSED_ON = ('SIGTERM', 'SIGUSR1', 'SIGHUP')  # The signals that ask a process to end; Windows lacks some.
INTERRUPTED = 130                           # Exit status of a process after Ctrl-C, as in shells.
QUIET_TRACKER = 'ignore::UserWarning:multiprocessing.resource_tracker'
PR_SET_PDEATHSIG = 1  # Of Linux's prctl: the signal that a process gets when its parent ends.


class RankError(click.ClickException):
    """A process of the group failed; the message is one sentence that names its rank."""


def torchrun_world_size() -> int | None:
    """Number of processes that torchrun has started, on all machines together; None if it has not."""
    here = torchrun.place()
    return here.world_size if here else None


_questions = itertools.count()


def of_first(find_out: Callable[[], str]) -> str:
    """The text that `find_out()` gives in the first of torchrun's processes, in all of them; the others wait.

    For what takes long and is wanted before there is a process group.
    All ask the same questions in the same order.

    Raises what `find_out` raises; in the others, click.UsageError with the same sentence.
    """
    here = torchrun.place()
    if here is None or here.world_size == 1:
        return find_out()
    store, rank, world_size = next(rendezvous('env://', timeout=COLLECTIVE_TIMEOUT))
    name = f'of_first/{next(_questions)}'
    if rank > 0:
        store.wait([name], FIRST_TIMEOUT)
        failed, text = json.loads(store.get(name))
        store.set(f'{name}/{rank}', '')
        if failed:
            raise click.UsageError(text)
        return text
    try:
        failed, text = False, find_out()
        return text
    except Exception as error:
        failed, text = True, str(error)
        raise
    finally:
        store.set(name, json.dumps([failed, text]))
        # The store may be this process's own, and end with it.
        store.wait([f'{name}/{other}' for other in range(1, world_size)], COLLECTIVE_TIMEOUT)


def launch(fn: Callable, num_processes: int, args: Sequence = ()) -> None:
    """Runs `fn(rank, *args)` in `num_processes` processes that form a process group, and waits for their end.

    One process is this one, without a group. Several are spawned,
    hence `fn` and `args` must be picklable. Under torchrun this process is one of the group already.

    If a spawned process raises or dies, the others are ended within seconds. The traceback goes to stderr.

    Raises:
        RankError: For the first process that failed. A `click.ClickException` of it (a user's error)
            is raised as such, without a traceback.
        click.UsageError: torchrun has started another number of processes.
    """
    world_size = torchrun_world_size()
    if world_size is not None and world_size != num_processes:
        raise click.UsageError(f'torchrun has started {world_size} processes, the options ask for {num_processes}')
    if num_processes == 1:
        fn(0, *args)
    elif world_size is not None:
        run_in_group(fn, torchrun.place().rank, world_size, args)
    else:
        _spawn(fn, num_processes, args)


def run_in_group(fn, rank, world_size, args, store=None):
    """Calls `fn` with the process group up.

    Without a store, the ranks meet where torchrun's environment says.
    """
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # gloo connects when it needs to; else each process has a socket to every other. (A value that is set wins.)
    os.environ.setdefault('TORCH_GLOO_LAZY_INIT', '1')
    backend = 'cpu:gloo,cuda:nccl' if nccl else 'gloo'
    dist.init_process_group(backend, rank=rank, world_size=world_size, store=store,
                            timeout=COLLECTIVE_TIMEOUT)
    fn(rank, *args)
    dist.all_reduce(torch.zeros([]))        # Nobody leaves while another may still need the group.
    dist.destroy_process_group()


def in_child(function: Callable, *args: Any) -> Any:
    """`function(*args)`, computed in a process of its own, whose end frees what it holds of a GPU.

    Raises what the function raises; RuntimeError if the process dies.
    """
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise RuntimeError(f'the process that computed {function.__name__} has died') from error


def ask(function: Callable, *args: Any, num_processes: int) -> Any:
    """`function(*args)`, about a GPU: in this process if it is the only one that will compute,
    else in a child."""
    return function(*args) if num_processes == 1 else in_child(function, *args)


# The parent process.


def _spawn(fn, num_processes, args):
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context('spawn')
        processes = [
            context.Process(target=_child, args=(fn, rank, num_processes, args, folder), name=f'rank{rank}')
            for rank in range(num_processes)
        ]
        _start_resource_tracker()
        with _Interrupts() as interrupts:
            try:
                with _signals_passed_on(processes):
                    for process in processes:
                        process.start()
                    _wait_to_the_end(processes, interrupts)
                error = cause_among(processes, folder)
            finally:
                _end(processes)
    if error is not None:
        raise error


class _Interrupts:
    """Counts Ctrl-C instead of raising KeyboardInterrupt, which could come anywhere,
    also while the processes are ended.

    number: how often Ctrl-C was pressed so far. reader: a connection that has something to read after each.
    """

    def __init__(self):
        self.number = 0
        self.reader, self._writer = multiprocessing.Pipe(duplex=False)

    def __enter__(self):
        is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # As in the background of some shells.
        self._is_heard = threading.current_thread() is threading.main_thread() and not is_ignored
        if self._is_heard:
            self._previous = signal.signal(signal.SIGINT, self._count)
        return self

    def __exit__(self, *_):
        if self._is_heard:
            # After the second Ctrl-C this process ends, and no further one may interrupt that.
            ends = self.number >= 2
            signal.signal(signal.SIGINT, signal.SIG_IGN if ends else self._previous)
        self.reader.close()
        self._writer.close()

    def _count(self, _signum, _frame):
        self.number += 1
        if self.number <= 2:            # Two are all that `launch` distinguishes.
            self._writer.send(None)

    def take(self):
        """Empties the reader."""
        while self.reader.poll():
            self.reader.recv()


def _start_resource_tracker():
    """Starts the process that multiprocessing needs beside the spawned ones,
    which ignores signals sent to the whole process group.

    It would die of them with a traceback. What it says of objects
    that killed processes left behind helps nobody.
    """
    numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    warnings = os.environ.get('PYTHONWARNINGS')
    try:
        os.environ['PYTHONWARNINGS'] = ','.join(filter(None, [warnings, QUIET_TRACKER]))
        resource_tracker.ensure_running()
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.environ.pop('PYTHONWARNINGS')
        if warnings is not None:
            os.environ['PYTHONWARNINGS'] = warnings


def _wait_to_the_end(processes, interrupts):
    """Returns when all have ended, or soon after one has failed."""
    _wait(processes, interrupts, 1)
    if interrupts.number == 0:
        return
    # Ctrl-C reaches the ranks as well; they get time to finish and save.
    _wait(processes, interrupts, 2, INTERRUPT_SEC)
    if interrupts.number >= 2:
        raise SystemExit(INTERRUPTED)
    if any(process.exitcode != 0 for process in processes):
        raise KeyboardInterrupt


def _wait(processes, interrupts, max_interrupts, patience_sec=math.inf):
    """Returns when all have ended, soon after one has failed, after so many interrupts,
    or when the time is up."""
    deadline = time.monotonic() + patience_sec
    while running := [process.sentinel for process in processes if process.exitcode is None]:
        if _ended_badly(processes):
            _join(processes, SECONDARY_SEC)
            return
        if time.monotonic() > deadline or interrupts.number >= max_interrupts:
            return
        # It takes no infinite number.
        connection.wait([*running, interrupts.reader], min(deadline - time.monotonic(), 60))
        interrupts.take()


def _ended_badly(processes):
    """The processes that have ended with a failure, by rank."""
    return {rank: process for rank, process in enumerate(processes) if process.exitcode not in (None, 0)}


def _join(processes, patience_sec):
    deadline = time.monotonic() + patience_sec
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))


def _end(processes):
    """Ends all processes, by force those that do not answer the request."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    _join(started, TERMINATE_SEC)
    for process in started:
        process.kill()
        process.join()


def cause_among(processes, folder):
    """The exception for what went wrong first, None if nothing did.

    A process that was killed left no report, but its peers may have, of a broken connection:
    gloo raises, nccl aborts.
    """
    failed = _ended_badly(processes)
    reports = [json.loads(path.read_text()) for path in Path(folder).glob('failure*.json')]
    killed = [rank for rank, process in failed.items()
              if process.exitcode < 0 and process.exitcode != -signal.SIGABRT]
    if reports and not killed:
        return _reported_error(min(reports, key=lambda report: report['time']), len(processes))
    for rank in [*killed, *failed]:
        return RankError(f'rank {rank} of {len(processes)} {_end_in_words(processes[rank].exitcode)}')
    return None


def _end_in_words(exitcode):
    if exitcode == INTERRUPTED:
        return 'was interrupted'
    if exitcode > 0:
        return f'ended with status {exitcode}'
    name = signal.Signals(-exitcode).name
    return f'was killed by {name}' + (' (is the memory of this machine exhausted?)' if name == 'SIGKILL'
                                      else '')


def _reported_error(report, num_processes):
    if report['exit_code'] is not None:
        error = click.ClickException(report['message'])
        error.exit_code = report['exit_code']
        return error
    sys.stderr.write(report['traceback'])
    return RankError(f'rank {report["rank"]} of {num_processes} failed: {report["message"]}')


@contextmanager
def _signals_passed_on(processes):
    """A request that this process end is passed on to all of them. (Only the main thread can listen for it.)

    It reaches them as SIGINT: some senders ask the whole process group, and a second SIGTERM might cut short what the first
    one began. Where that is ignored, as in what a script starts in the background, so it is in the ranks, and another is taken.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(signum, _frame):
        others = [number for number in (signal.SIGINT, *numbers) if number != signum]
        passed_on = next((number for number in others if signal.getsignal(number) != signal.SIG_IGN), signum)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, passed_on)

    numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
    # nohup ignores SIGHUP.
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)


# In a spawned process.


def _child(fn, rank, num_processes, args, folder):
    output.prepare(may_fail=True)
    os.environ['LOCAL_RANK'] = str(rank)
    end_with_parent()
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // num_processes, 1))
    try:
        run_in_group(fn, rank, num_processes, args,
                      dist.FileStore(os.path.join(folder, 'store'), num_processes))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except Exception as error:
        report_to_parent(error, rank, folder)
        sys.stdout.flush()
        os._exit(1)  # Not sys.exit(): tearing down a broken group may wait for its peers.


def end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, also while it waits inside of torch.

    A thread of Python cannot do that: it needs the interpreter, which torch may hold,
    as it does while it tears down the connections to peers that are gone. Linux can;
    elsewhere the thread has to do.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Also if the parent has ended before prctl() was called.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def report_to_parent(error, rank, folder):
    """Writes down what the parent needs to know."""
    by_user = isinstance(error, click.ClickException)
    writing.write_text(Path(folder, f'failure{rank}.json'), json.dumps({
        'time': time.time(),
        'rank': rank,
        'message': error.format_message() if by_user else _first_line(error),
        'exit_code': error.exit_code if by_user else None,
        'traceback': traceback.format_exc(),
    }), 'any')


def _first_line(error):
    return f'{type(error).__name__}: {error}'.splitlines()[0].rstrip(': ')
