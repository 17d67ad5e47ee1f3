"""Signals that ask a sweep to stop, and a file that passes the request on to its trials, which get no signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RUN, STOP = b"run \n", b"stop\n"
"""The contents of the file that tells trials whether to stop."""
_POLL_SECONDS = 1.0


class StopRequest:
    """The first SIGINT, SIGTERM or SIGHUP asks for an orderly stop; the second has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """Installs the signal handlers. Call it again after Ray starts, because Ray installs its own."""
        if self.requested or threading.current_thread() is not threading.main_thread():
            return
        for number in _ASKED:
            handler = signal.getsignal(number)
            if handler is signal.SIG_IGN or handler == self._handle:  # nohup's choice; ours already
                continue
            self._before.setdefault(number, handler)
            signal.signal(number, self._handle)

    def release(self) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what getsignal gave
        self._before.clear()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self.release()


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Listens to the signals within the block; outside a process's main thread, to none."""
    request = StopRequest()
    request.listen()
    try:
        yield request
    finally:
        request.release()


class StopFlag:
    """A file that tells trials, on any machine, to write a checkpoint and stop.

    Its length never changes, so raising the flag needs no space when the store is full. It exists from the start,
    because a network file system may cache that a file is missing.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lower(self) -> None:
        """Creates the file, or withdraws an earlier request."""
        self.path.write_bytes(RUN)

    def up(self) -> None:
        """Tells the trials to stop."""
        with self.path.open("r+b") as file:
            file.write(STOP)

    def is_up(self) -> bool:
        """Returns whether the trials are told to stop."""
        try:
            return self.path.read_bytes() == STOP
        except OSError:
            return False


def watch_flag(flag: StopFlag) -> Callable[[], bool]:
    """Returns a function that says whether the flag is up. It reads the file at most once per second."""
    looked = float("-inf")
    up = False

    def asked() -> bool:
        nonlocal looked, up
        now = time.monotonic()
        if not up and now - looked >= _POLL_SECONDS:
            looked, up = now, flag.is_up()
        return up

    return asked
