"""How a sweep is asked to stop, and how it asks its trials, which signals do not reach."""

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
"""What the file says that tells trials whether to go on."""
_POLL_SECONDS = 1.0


class StopRequest:
    """The first SIGINT, SIGTERM or SIGHUP is a request to stop in order; the second acts as it always did."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """Takes the signals, from Ray too, which sets handlers of its own when it starts."""
        if self.requested or threading.current_thread() is not threading.main_thread():
            return
        for number in _ASKED:
            handler = signal.getsignal(number)
            if handler is signal.SIG_IGN or handler == self._handle:  # nohup's choice; ours already
                continue
            self._before.setdefault(number, handler)
            signal.signal(number, self._handle)

    def release(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what getsignal gave
        self._before.clear()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self.release()


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Listens to the signals for the length of the block; outside a process's main thread, to none."""
    request = StopRequest()
    request.listen()
    try:
        yield request
    finally:
        request.release()


class StopFlag:
    """A file that tells trials, on whatever machine, to checkpoint and leave.

    It keeps its length, so that raising it needs no space where the store is full; and it is there from the start,
    because a network's file system may go on denying a file that it once looked for in vain.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lower(self) -> None:
        """Makes the file, or takes a former request back."""
        self.path.write_bytes(RUN)

    def up(self) -> None:
        """Tells the trials to leave."""
        with self.path.open("r+b") as file:
            file.write(STOP)

    def is_up(self) -> bool:
        """Whether the trials are to leave."""
        try:
            return self.path.read_bytes() == STOP
        except OSError:
            return False


def watch_flag(flag: StopFlag) -> Callable[[], bool]:
    """Returns a question that looks at the flag at most once a second."""
    looked = float("-inf")
    up = False

    def asked() -> bool:
        nonlocal looked, up
        now = time.monotonic()
        if not up and now - looked >= _POLL_SECONDS:
            looked, up = now, flag.is_up()
        return up

    return asked
