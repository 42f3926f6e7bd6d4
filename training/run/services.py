"""What goes on beside training and must never end it: pictures, statistics, metrics, saved files.

A service that fails is named with the reason, tried once more, and tried again the next time it is due.
One that has not worked by the end of the run makes the run end with a failure, after all training is done.
"""
import threading
from collections.abc import Callable
from typing import Any


class Services:
    """Runs side services and remembers which of them are failing."""

    def __init__(self):
        self._failing: dict[str, str] = {}          # What fails -> why.
        self._thread: threading.Thread | None = None

    def run(self, what: str, service: Callable[[], Any], tries: int = 2) -> bool:
        """Calls `service`; answers whether it worked. Interrupts and other exits pass."""
        for _ in range(tries):
            try:
                service()
            except Exception as error:              # Whatever it is, training is worth more.
                reason = f'{error}' if isinstance(error, OSError) else f'{type(error).__name__}: {error}'
            else:
                self.note(what, None)
                return True
        print(f'Warning: {what} failed, training goes on: {reason}', flush=True)
        self.note(what, reason)
        return False

    def note(self, what: str, reason: str | None) -> None:
        """Remembers why a service failed, None if it worked."""
        if reason is not None:
            self._failing[what] = reason
        elif self._failing.pop(what, None) is not None:
            print(f'{what}: works again.', flush=True)

    def run_beside(self, what: str, service: Callable[[], Any]) -> None:
        """The same in a thread, while training goes on. One at a time: waits for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self.run, args=(what, service))
        self._thread.start()

    def wait(self) -> None:
        """Returns when nothing runs beside training any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def is_failing(self, what: str) -> bool:
        """Did it not work when it was last tried (not counting what is running now)?"""
        return what in self._failing

    @property
    def failing(self) -> dict[str, str]:
        """{what: why} of the services that did not work when they were last tried."""
        self.wait()
        return dict(self._failing)
