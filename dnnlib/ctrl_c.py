"""Ctrl-C, from a program's first import on: one sentence, and the exit status of shells.

A program calls `hear()` before its other imports. While a module is imported an exception may be swallowed, by a
C extension or by whoever tries an import and goes on without; so it is raised in whoever asked for the import, when that is
through. A second Ctrl-C does not wait. Training and the projector have an answer of their own once they work.
"""
import os
import signal
import sys
from contextlib import contextmanager
from functools import partial

STATUS = 128 + signal.SIGINT
SENTENCE = 'Ended by Ctrl-C.'

_is_asked = False


def hear() -> None:
    """Of a process that has just begun. Where Ctrl-C is ignored, as in the background of some shells, it stays so."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _heard)
        sys.excepthook = partial(_tell, sys.excepthook)


@contextmanager
def ending():
    """Within a command of click, which has another answer to Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        from click.exceptions import Exit
        print(f'\n{SENTENCE}', file=sys.stderr, flush=True)
        raise Exit(STATUS) from None


def _heard(_number, frame):
    """Raises KeyboardInterrupt, now or when nothing is imported."""
    global _is_asked
    if _is_asked:
        os.write(2, f'\n{SENTENCE}\n'.encode())
        os._exit(STATUS)
    importer = _importer(frame)
    if importer is None or sys.gettrace() is not None:      # A debugger's trace is left alone.
        raise KeyboardInterrupt
    _is_asked = True
    importer.f_trace = _raise
    sys.settrace(lambda *_: None)                           # Without one, that of a frame is not called.


def _importer(frame):
    """The function that waits for all that is being imported, None if nothing is."""
    found = None
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            found = frame.f_back
        frame = frame.f_back
    return found


def _raise(frame, *_):
    """At the first line behind the import."""
    global _is_asked
    _is_asked, frame.f_trace = False, None
    sys.settrace(None)
    raise KeyboardInterrupt


def _tell(otherwise, kind, error, traceback):
    """What is printed of an exception that ends a program."""
    if not issubclass(kind, KeyboardInterrupt):
        return otherwise(kind, error, traceback)
    print(f'\n{SENTENCE}', file=sys.stderr, flush=True)
    sys.exit(STATUS)
