"""A copy of everything printed, in a file."""
import sys
import traceback
from contextlib import suppress
from typing import Any

from dnnlib import output, writing


class Logger:
    """While open, everything written to stdout or stderr goes to stdout and to a file.

    Writing never raises: the file tells if stdout cannot be written, and stdout tells if the file cannot.

    Leaving its `with` block by an exception writes the traceback to the file: nothing else would,
    as the interpreter prints it when the logger is closed.

    Args:
        file_name: The file; None: only stderr is led into stdout.
        file_mode: 'w' to begin it anew, 'a' to append.
        should_flush: Whether everything is in the file, and on the terminal, as soon as it is written.

    Raises OSError if the file cannot be opened, or is none (a link, a device).
    """

    def __init__(self, file_name: str | None = None, file_mode: str = 'w', should_flush: bool = True):
        self.file = None
        if file_name is not None:
            writing.require_free(file_name, 'any')
            self.file = open(file_name, file_mode, encoding='utf-8', errors='backslashreplace')     # noqa: SIM115
        self._told = False
        self.should_flush = should_flush
        self.stdout, self.stderr = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self

    def __enter__(self) -> 'Logger':
        return self

    def __exit__(self, error_type, error, _traceback) -> None:
        if isinstance(error, Exception):
            self._try_on_file('write', traceback.format_exc())
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a stream can be asked (isatty, encoding, fileno) is answered by stdout."""
        return getattr(self.stdout, name)

    def write(self, text: str | bytes) -> None:
        """Writes to both."""
        if isinstance(text, bytes):
            text = text.decode('utf-8', errors='backslashreplace')
        self._try_on_stdout('write', text)
        self._try_on_file('write', text)
        if self.should_flush:
            self.flush()

    def flush(self) -> None:
        """Flushes both."""
        self._try_on_stdout('flush')
        self._try_on_file('flush')

    def _try_on_stdout(self, action: str, *args: str) -> None:
        """A closed pipe, a full disk or a terminal that is gone must not end what is being logged."""
        try:
            if self.stdout is not None:
                getattr(self.stdout, action)(*args)
        except (OSError, ValueError) as error:
            output.note(error)
        if output.problem() and not self._told:
            self._told = True
            self._try_on_file('write', f'Warning: what is printed cannot be written to standard output '
                                       f'({output.problem()}); this file has it all.\n')

    def _try_on_file(self, action: str, *args: str) -> None:
        """A full disk must not end what is being logged: the file is given up, with a word on stdout."""
        if self.file is None:
            return
        try:
            getattr(self.file, action)(*args)
        except OSError as error:
            name = self.file.name
            self._close_file()
            self._try_on_stdout('write', f'Warning: {name} is not written any more: {error.strerror}.\n')

    def _close_file(self) -> None:
        with suppress(OSError):             # Closing writes what is left in the buffer, which may fail again.
            self.file.close()
        self.file = None

    def close(self) -> None:
        """Closes the file and puts the streams back.

        What still holds this logger then writes to stdout only.
        """
        self.flush()
        if sys.stdout is self:
            sys.stdout = self.stdout
        if sys.stderr is self:
            sys.stderr = self.stderr
        if self.file is not None:
            self._close_file()
