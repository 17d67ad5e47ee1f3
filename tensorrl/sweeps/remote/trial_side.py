"""A trial's exchange with a remote while it trains: its claim, its checkpoints, and the sweep's request to stop."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tensorrl.sweeps.remote.cell_copy import CellCopy
from tensorrl.sweeps.remote.claim import BEAT_SECONDS, Claim
from tensorrl.sweeps.remote.files import Remote, patiently
from tensorrl.sweeps.store.signals import STOP

_POLL_SECONDS = 1.0
_LOOK_SECONDS = 5.0
_RECORDS_SECONDS = 15.0
_log = logging.getLogger(__name__)


class Exchange:
    """Keeps one cell's copy in a remote up to date in the background. Training never waits for it.

    Args:
        remote: the remote.
        store: the store of this machine.
        name: the cell's folder in both.
        claim: the name of the file with which a machine claims the cell.
        stop: the name of the file that says whether the sweep must stop.
    """

    def __init__(self, remote: Remote, store: Path, name: str, *, claim: str, stop: str) -> None:
        self.remote = remote
        self.copy = CellCopy(remote, store, name)
        self._claim = Claim(remote, claim, store)
        self._stop = stop
        self._asked = False
        self._done, self._ended = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep_claim, name="exchange-claim", daemon=True)
        self._sender = threading.Thread(target=self._keep_sending, name="exchange-send", daemon=True)
        self._sent = ""

    def begin(self) -> bool:
        """Claims the cell and fetches it; returns False if another machine runs it.

        Raises:
            OSError: the remote did not answer for ten minutes.
        """
        if not patiently(self._claim.take):
            return False
        self._keeper.start()
        self._look()
        patiently(self.copy.bring)
        self._sent = self.copy.newest()
        self._sender.start()
        return True

    @property
    def lost(self) -> bool:
        """Whether another machine has taken over the cell."""
        return self._claim.lost

    def asked(self) -> bool:
        """Returns whether the trial must write a checkpoint and stop."""
        return self._asked or self.lost

    def finish(self) -> None:
        """Sends what is left, unless another machine has taken over the cell.

        Raises:
            OSError: the remote did not answer for ten minutes.
        """
        self._done.set()
        self._sender.join()
        patiently(self._send_last)

    def _send_last(self) -> None:
        if self._claim.renew():
            self.copy.send_cell()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        if kind is not None and self._sender.is_alive() and not self.lost:
            self._sender.join()
            # The next try may be on another machine.
            with suppress(OSError):
                self._send_last()
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
            self._claim.release()

    def _keep_claim(self) -> None:
        beat = 0.0
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()
            if time.monotonic() - beat >= BEAT_SECONDS:
                beat = time.monotonic()
                self._claim.keep()

    def _look(self) -> None:
        with suppress(OSError):
            self._asked = self.remote.read(self._stop) == STOP

    def _keep_sending(self) -> None:
        recorded, pause = time.monotonic(), _POLL_SECONDS
        while not self._done.wait(pause) and not self.lost:
            newest, now = self.copy.newest(), time.monotonic()
            if not self._claim.sure:
                continue
            try:
                if newest != self._sent:
                    self.copy.send_cell()
                    self._sent = newest
                elif now - recorded >= _RECORDS_SECONDS:
                    self.copy.send_records()
                    recorded = now
                pause = _POLL_SECONDS
            except OSError as error:
                # This also happens if the trial has removed an old checkpoint in between.
                _log.info("%s: %s; tried again", self.copy.name, error)
                pause = _LOOK_SECONDS
