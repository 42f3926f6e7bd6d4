"""Standard output and error of a command: every name can be printed, and output that cannot be written need
not end the command.

Every command begins with `output.prepare()`:

- a character that the terminal or file does not know, or a file name that is no text, is printed as an escape
  sequence;
- a stream that is closed becomes the null device; otherwise the next file that the command opens would get
  its descriptor, and what is printed would go into that file;
- with `may_fail` a full disk, a closed pipe or a terminal that is gone ends nothing: what is printed there is
  lost, and `problem()` says why; without it, the command ends with one sentence: at once, or `finishing()` what
  is worth more than what it prints; warnings that standard error does not take are lost in any case.
"""
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

NAMES = {1: 'stdout', 2: 'stderr'}

_problem: str | None = None
_lost: list[OSError] | None = None          # What could not be printed within `finishing`.


def prepare(may_fail: bool = False) -> None:
    """Replaces `sys.stdout` and `sys.stderr` of a process that has just begun."""
    for number, name in NAMES.items():
        stream = getattr(sys, name)
        if stream is None:
            note(OSError('it was closed from the start'))
            stream = open(os.devnull, 'w', encoding='utf-8')        # noqa: SIM115 (Until the process ends.)
        elif isinstance(stream, io.TextIOWrapper) and os.name != 'nt':
            stream = _same_but_tolerant(stream, number, may_fail)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
        setattr(sys, name, stream)
        setattr(sys, f'__{name}__', stream)
    for number in (0, *NAMES):
        _occupy(number)
    sys.excepthook = partial(_tell, sys.excepthook)


def printable(text: str, keep: str = '\n') -> str:
    """Text that strangers may have written, without what controls a terminal. Bytes of file names that are no text
    stay: `prepare` shows them."""
    return ''.join(c if c.isprintable() or c in keep or '\udc80' <= c <= '\udcff' else '?' for c in text)


def problem() -> str | None:
    """Why something that was printed is lost, None if nothing is."""
    return _problem


def note(error: Exception) -> None:
    """Remembers the first thing that went wrong with what is printed."""
    global _problem
    _problem = _problem or getattr(error, 'strerror', None) or str(error)


@contextmanager
def finishing() -> Iterator[None]:
    """Within, lost output ends nothing, for files may be made that are worth more; behind it, its sentence ends the
    command, also where output `may_fail`."""
    global _lost
    _lost = lost = []
    try:
        yield
        sys.stdout.flush()
    finally:
        _lost = None
    if lost:
        from click import ClickException
        raise ClickException(f'{lost[0].filename}: {lost[0].strerror}')


def _tell(otherwise, kind, error, traceback):
    """What is printed of an exception that ends a command: of output that is lost, one sentence."""
    if isinstance(error, OSError) and error.filename in NAMES.values():
        print(f'Error: {error.filename}: {error.strerror}', file=sys.stderr)
    else:
        otherwise(kind, error, traceback)


def _same_but_tolerant(stream, number, may_fail):
    with suppress(OSError):
        stream.flush()
    raw = _Raw(stream.fileno() if _has_number(stream) else number, may_fail)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors='backslashreplace',
                            line_buffering=stream.line_buffering, write_through=stream.write_through)


def _has_number(stream):
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False


def _occupy(number):
    """Opens the null device under the number of a standard stream that is closed."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


class _Raw(io.RawIOBase):
    """The bytes of a stream; with `may_fail`, and of standard error, those that cannot be written count as written.

    Without it the first failure of standard output is raised, with the name of the stream; what follows, at the end of
    Python too, is lost.
    """
    mode = 'wb'

    def __init__(self, number: int, may_fail: bool):
        self._number, self._may_fail = number, may_fail

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        try:
            return os.write(self._number, data)
        except OSError as error:
            named = OSError(error.errno, error.strerror, NAMES.get(self._number, 'output'))
            if self._number == 1 and _lost is not None:
                _lost.append(named)
            elif self._number == 1 and not self._may_fail:
                self._may_fail = True
                raise named from error
            note(error)
            return len(data)
