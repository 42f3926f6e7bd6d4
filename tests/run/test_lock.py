"""training/run/lock.py: one process trains in a directory."""
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.run import lock

ROOT = Path(__file__).parents[2]


def test_two_runs_in_one_directory_are_refused_and_the_dead_hold_nothing(tmp_path):
    code = 'import sys, time; from training.run.lock import locked\n' \
           'with locked(sys.argv[1]): print("held", flush=True); time.sleep(60)'
    holder = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'held\n'
    with pytest.raises(lock.BusyError, match=f'process {holder.pid} on'), lock.locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with lock.locked(tmp_path):
        pass


def test_whatever_the_lock_file_says_it_is_text_without_control(tmp_path):
    (tmp_path / '.lock').write_bytes(b'\xff\x1b[2J process 1 on x')
    with lock.locked(tmp_path):
        assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on ')
    holder = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              start_new_session=True)
    try:
        assert holder.stdout.readline() == 'held\n'
        (tmp_path / '.lock').write_bytes(b'\xff\x1b[2J process 1')
        with pytest.raises(lock.BusyError, match=r'\(.\?\[2J process 1\)'), lock.locked(tmp_path):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


HOLD = 'import os, sys, time; from training.run.lock import locked\n' \
       'with locked(sys.argv[1]):\n' \
       '    if os.fork(): print("held", flush=True)\n' \
       '    time.sleep(60)'


def wait_until_free(folder):
    """Takes the lock, soon: a child that has just been forked holds it until it has closed it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with lock.locked(folder):
                return
        except lock.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_removing_the_lock_file_lets_nobody_in_and_children_hold_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              start_new_session=True)
    try:
        assert holder.stdout.readline() == 'held\n'
        (tmp_path / '.lock').unlink()
        with pytest.raises(lock.BusyError, match='another process trains'), lock.locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
        wait_until_free(tmp_path)           # Its child still runs.
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_told_as_such(tmp_path, monkeypatch, capsys):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(lock.fcntl, 'flock', no_locks)
    monkeypatch.setattr(lock.fcntl, 'lockf', no_locks)
    with lock.locked(tmp_path):
        assert 'cannot be locked on this file system' in capsys.readouterr().err


def test_a_lock_that_is_a_link_writes_nowhere(tmp_path):
    (tmp_path / 'precious').write_text('data')
    (tmp_path / '.lock').symlink_to('precious')
    with pytest.raises(OSError, match='is a link'), lock.locked(tmp_path):
        pass
    assert (tmp_path / 'precious').read_text() == 'data'
