"""The live record of a trial: a daemon thread that keeps MLflow up to date and never delays training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tensorrl import files
from tensorrl.tracking import connection
from tensorrl.tracking.memory import recall_experiment, remember
from tensorrl.tracking.mirror import LOCK_FILE, Mirror
from tensorrl.trial import folder
from tensorrl.uris import redact

if TYPE_CHECKING:
    # It imports PyTorch.
    from tensorrl.trial.loop import Record

_log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between two passes, so that lines written in quick succession are sent together."""
_BACKOFF = (1.0, 60.0)
"""Seconds before the first retry, and the longest wait before a retry; each wait is twice the one before."""
_CLOSING_BACKOFF = 0.5
_MODEL_TIMEOUT = 60.0
"""Seconds to wait further at the end while only the model of the policy is missing: the server has just answered."""


class MlflowRecord:
    """Mirrors a trial's folder into one MLflow run while the trial trains.

    It reads only the trial's folder, never the trial itself, and only after `poke`. If the server is down, is slow or
    refuses, the record retries with growing pauses, and later sends what the server missed from the folder.

    Args:
        directory: the trial's folder; it may not exist yet.
        tracking_uri: the MLflow server. None takes `MLFLOW_TRACKING_URI`, or an SQLite file beside the folder.
        experiment: the MLflow experiment. None takes the one this folder was recorded in before, or the name of the
            folder around it.

    Attributes:
        problem: the error of the last try, in one line; None if it succeeded.
    """

    def __init__(self, directory: Path, *, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        self.directory = directory.absolute()
        self.tracking_uri = connection.tracking_uri_for(self.directory, tracking_uri)
        self.experiment = experiment or recall_experiment(self.directory)
        self.problem: str | None = None
        self._mirror = Mirror(self.directory, tracking_uri=self.tracking_uri, experiment=self.experiment)
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._deadline = 0.0
        self._failed = False
        self._delivered = True
        self._locked = False

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, once it is known."""
        return self._mirror.run_id

    @property
    def experiment_id(self) -> str | None:
        """The id of the MLflow experiment that holds the run, once it is known."""
        return self._mirror.experiment_id

    @property
    def delivered(self) -> bool:
        """Whether MLflow holds everything that was in the folder when the record was closed."""
        return self._delivered

    def poke(self) -> None:
        """Tells the record that the trial's folder has changed. Returns immediately, never raises."""
        if self._thread is None:
            self._delivered = False
            self._thread = threading.Thread(target=self._work, name="mlflow-record", daemon=True)
            self._thread.start()
        self._news.set()

    def close(self, timeout: float = 30.0, *, failed: bool = False) -> None:
        """Sends what is left and ends the run: FINISHED if the trial has its result, otherwise FAILED or KILLED.

        Never raises. A second call does nothing.

        Args:
            timeout: seconds to try, and a minute more if then only the model of the policy is missing. If anything is
                still unsent, one line in the log says so. It stays in the folder, for the trial's next start or for
                `sync_directory`.
            failed: whether a trial without a result ended with an error (FAILED) and was not interrupted (KILLED).
        """
        if self._closing.is_set() or (self._thread is None and folder.read_trial(self.directory) is None):
            return
        self._failed = failed
        self._deadline = time.monotonic() + timeout
        # The order matters: the thread waits for news before it checks whether this is the end.
        self._closing.set()
        self.poke()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive() and self._mirror.recorded:
                self._thread.join(_MODEL_TIMEOUT)
        if not self._delivered:
            reason = self.problem or "no answer in time"
            _log.warning("MLflow lacks a part of %s (%s); `tensorrl sync` sends it later", self.directory, reason)

    def _work(self) -> None:
        """The thread's work. It holds the folder's lock from the first pass to its end, so no sync sends the same."""
        with ExitStack() as held:
            self._keep_up(held)

    def _keep_up(self, held: ExitStack) -> None:
        """Makes a pass after every poke, and retries it until it succeeds or the deadline of `close` has passed."""
        pause = 0.0
        while True:
            if not pause:
                self._news.wait()
                self._news.clear()
            # Read before the pass, so that the last pass has seen everything written before `close`.
            closing = self._closing.is_set()
            try:
                self._pass(held, closing=closing)
            except Exception as error:
                self._mirror.forget()
                self.problem = one_line(error)
                _log.info("MLflow at %s: %s; tried again later", self.tracking_uri, self.problem)
                pause = min(2 * pause or _BACKOFF[0], _BACKOFF[1])
                if closing:
                    if time.monotonic() + _CLOSING_BACKOFF > self._deadline:
                        return
                    time.sleep(_CLOSING_BACKOFF)
                else:
                    self._closing.wait(pause)
            else:
                self.problem, pause = None, 0.0
                if closing:
                    self._delivered = True
                    return
                self._closing.wait(_PAUSE)

    def _pass(self, held: ExitStack, *, closing: bool) -> None:
        if folder.read_trial(self.directory) is None:
            return
        if not self._locked:
            held.enter_context(files.file_lock(self.directory / LOCK_FILE, wait=False))
            self._locked = True
            remember(self.directory, experiment=self.experiment)
        self._mirror.catch_up(live=not closing)
        if self._mirror.finished:
            remember(self.directory, experiment=self.experiment, complete_in=self.tracking_uri)
        if closing:
            self._mirror.settle("FAILED" if self._failed else "KILLED")


class Records:
    """Several records of one trial, as one.

    Args:
        kept: the records.
    """

    def __init__(self, kept: Sequence[Record]) -> None:
        self._kept = kept

    def poke(self) -> None:
        """Tells every record that the trial's folder has changed."""
        for each in self._kept:
            each.poke()

    def close(self, *, failed: bool = False) -> None:
        """Closes every record, and tells it whether the trial failed."""
        for each in self._kept:
            each.close(failed=failed)


def one_line(error: BaseException) -> str:
    """Returns an error's message as one line of at most 200 characters, with passwords hidden."""
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
