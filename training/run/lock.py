"""The lock on a run's directory: one process trains there at a time. Imports no torch, so that a refusal comes at once."""
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnlib import writing
from dnnlib.output import printable

try:
    import fcntl
except ImportError:         # Windows: there is no lock.
    fcntl = None

LOCK_FILE = '.lock'
MAX_HOLDER = 200            # Characters of what the file says of its holder that are repeated.


class BusyError(Exception):
    """Another process trains in the directory; the text is for users."""


@contextmanager
def locked(run_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from training in the directory.

    Two locks of the operating system: on the directory, so that removing LOCK_FILE lets nobody in, and on
    that file, as some network file systems know no other. They are this process's alone: its children do not
    hold them, and however it ends, they are free at once. Where there are no locks, that is said. Raises
    BusyError.
    """
    path = Path(run_dir, LOCK_FILE)
    writing.require_free(path, 'any')
    with open(path, 'a+', encoding='utf-8', errors='replace') as file, _open_folder(run_dir) as folder:
        file.seek(0)
        holder = printable(file.read(MAX_HOLDER).strip(), keep='')
        try:
            is_locked = fcntl is None or _try_lock('flock', folder) + _try_lock('lockf', file.fileno()) > 0
        except BlockingIOError:
            raise BusyError(f'{run_dir}: another process trains in this directory ({holder}); wait for it, stop it, or '
                            'start another run with --new') from None
        if not is_locked:
            print(f'Warning: {run_dir} cannot be locked on this file system: see to it that no other process trains there.',
                  file=sys.stderr, flush=True)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield


_open_folders: set[int] = set()


@contextmanager
def _open_folder(path):
    """The number of an open directory, None where there is no such thing. Forked children do not have it open."""
    if fcntl is None:
        yield None
        return
    number = os.open(path, os.O_RDONLY)
    _open_folders.add(number)
    try:
        yield number
    finally:
        _open_folders.discard(number)
        os.close(number)


def _close_folders():
    """In a forked child: a lock on an open directory lasts as long as any process has it open."""
    while _open_folders:
        os.close(_open_folders.pop())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_folders)


def _try_lock(kind, number):
    """Takes one kind of lock; returns whether this file system has it. Raises BlockingIOError if another process holds it."""
    try:
        getattr(fcntl, kind)(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise BlockingIOError from error
        return False                    # ENOLCK, ENOTSUP, EBADF, ...: no locks here.
