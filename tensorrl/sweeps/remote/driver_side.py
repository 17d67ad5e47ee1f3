"""The driver's exchange with a remote, for machines that share no folder: what it fetches and what it sends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tensorrl.errors import InputError
from tensorrl.files import LockedError, file_lock, is_draft, is_full
from tensorrl.sweeps.grid.cells import PlannedCell
from tensorrl.sweeps.remote.cell_copy import CellCopy, Copy, bring_cell
from tensorrl.sweeps.remote.claim import BEAT_SECONDS, Claim
from tensorrl.sweeps.remote.files import Remote, at_once, patiently
from tensorrl.sweeps.store.board import Board
from tensorrl.sweeps.store.layout import (
    STATE_FILE,
    STOP_FILE,
    TUNE_FOLDER,
    VERSION,
    VERSION_FILE,
    locate,
    lock_file,
    open_store,
    sweep_folder,
    sweep_name,
    version_text,
)
from tensorrl.sweeps.store.signals import RUN, STOP, StopFlag, StopRequest
from tensorrl.tracking.connection import sqlite_path
from tensorrl.tracking.record import one_line
from tensorrl.trial.cell import CELLS_FILE, SWEEPS_FOLDER, Cell

_DRIVER_CLAIM = "driver.json"
_LEFT_HERE = ("driver.lock", STOP_FILE)
_log = logging.getLogger(__name__)


class RemoteSweep:
    """The exchange of a sweep's driver with a remote.

    Args:
        remote: the remote.
        store: the store of this machine.
        name: the sweep's name.
    """

    def __init__(self, remote: Remote, store: Path, name: str) -> None:
        self.remote, self.store, self.name = remote, store, name
        self._claim = Claim(remote, sweep_name(name, _DRIVER_CLAIM), store)
        self._files = Copy(remote, store, f"{SWEEPS_FOLDER}/{name}")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, sleep: Callable[[float], None]) -> bool:
        """Becomes the sweep's driver; returns False if a driver on another machine is alive.

        Args:
            sleep: waits some seconds, or raises if the user wants to stop.

        Raises:
            InputError: the remote does not answer or refuses.
        """
        try:
            if not self._claim.take(sleep=sleep):
                return False
            # Tune's files from earlier runs: a sweep continues from its cells.
            at_once(self.remote.remove, self.remote.names(sweep_name(self.name, TUNE_FOLDER)))
        except OSError as error:
            raise self._unusable(error) from None
        return True

    def bring_sweep(self, listed: Sequence[Cell]) -> None:
        """Fetches the last state of the sweep's driver on another machine, and the cells' reports.

        Raises:
            InputError: the remote did not answer for ten minutes.
        """
        self._patiently(lambda: self._files.take([CELLS_FILE, STATE_FILE]))
        self.bring(listed)

    def bring(self, listed: Sequence[Cell]) -> None:
        """Fetches the reports of cells, including cells to which another sweep gave another name.

        Raises:
            InputError: the remote did not answer for ten minutes.
        """
        self._patiently(lambda: bring_reports(self.remote, self.store, listed))

    def bring_checkpoints(self, folders: Iterable[Path]) -> None:
        """Fetches the final checkpoints of cells that have none here.

        Raises:
            InputError: the remote did not answer for ten minutes.
        """
        for folder in folders:
            copy = CellCopy(self.remote, self.store, folder.name)
            if not copy.newest():
                self._patiently(copy.bring_checkpoints)

    def _patiently(self, work: Callable[[], None]) -> None:
        try:
            patiently(work)
        except OSError as error:
            if is_full(error):
                raise
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> InputError:
        return InputError(f"remote {self.remote.uri}: {one_line(error)}; run the same command again to continue")

    def tell(self, name: str, content: bytes) -> None:
        """Writes a file in the remote.

        Raises:
            InputError: the remote did not answer for ten minutes.
        """
        self._patiently(lambda: self.remote.write(name, content))

    def flag(self) -> StopFlag:
        """Returns the flag that tells trials to stop, on this machine and on others."""
        return _RemoteFlag(sweep_folder(self.store, self.name) / STOP_FILE, self)

    def follow(self, board: Board, stop: StopRequest) -> None:
        """Keeps the board's running cells up to date from now on, and renews the driver's claim.

        Args:
            board: the driver's board.
            stop: is set if a driver on another machine takes over.
        """
        self._thread = threading.Thread(target=self._follow, args=(board, stop), name="remote", daemon=True)
        self._thread.start()

    def _follow(self, board: Board, stop: StopRequest) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._claim.keep()
            if self._claim.lost and not stop.requested:
                _log.warning("%s: another machine runs the sweep now; this one stops", self.name)
                stop.requested = True
            try:
                _bring_all(self.remote, self.store, {cell.folder: cell.key for cell in board.under_way()})
                self.send()
            except OSError as error:
                _log.info("%s: %s; tried again", self.remote.uri, one_line(error))

    def send(self) -> None:
        """Sends the sweep's own files, including its report.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        if self._claim.lost:
            return
        folder = self._files.folder
        paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        self._files.send(
            path.as_posix()
            for path in paths
            if path.parts[0] != TUNE_FOLDER and path.name not in _LEFT_HERE and not is_draft(path)
        )

    def __enter__(self) -> RemoteSweep:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            try:
                self.send()
            except OSError as problem:
                _log.warning("%s lacks the sweep's last state (%s)", self.remote.uri, one_line(problem))
        self._claim.release()


def join_remote(uri: str, store: Path, name: str, tracking_uri: str) -> RemoteSweep:
    """Returns the driver's exchange with a remote, which becomes a store if it is not one yet.

    Args:
        uri: the remote's URI.
        store: the store of this machine.
        name: the sweep's name.
        tracking_uri: MLflow's URI.

    Raises:
        InputError: the remote cannot be used, or MLflow's record is a file, which other machines cannot reach.
    """
    remote = Remote(uri)
    if sqlite_path(tracking_uri) is not None:
        raise InputError(f"{name}: MLflow at {tracking_uri} (allowed with a remote: a server, by MLFLOW_TRACKING_URI)")
    check_remote(remote)
    return RemoteSweep(remote, store, name)


def bring_reports(remote: Remote, store: Path, listed: Sequence[Cell]) -> None:
    """Copies cells' reports from a remote into a store, including cells to which another sweep gave another name.

    Args:
        remote: the remote; it is only read.
        store: the store. Cells that a process of this machine runs are left alone.
        listed: the cells.

    Raises:
        OSError: the remote does not answer or refuses, or this machine's disk does.
    """
    keys = {cell.folder.rpartition("-")[2]: cell.key for cell in listed}
    there = {name.partition("/")[0] for name in remote.names() if not name.startswith(".")}
    found = {name: keys[name.rpartition("-")[2]] for name in there if name.rpartition("-")[2] in keys}
    _bring_all(remote, store, found)


def _bring_all(remote: Remote, store: Path, keys: Mapping[str, str]) -> None:
    def bring(name: str) -> None:
        with suppress(LockedError), file_lock(lock_file(store, keys[name]), wait=False):
            bring_cell(remote, store, name)

    at_once(bring, keys)


def look(uri: str, store: Path, grid: Sequence[PlannedCell]) -> None:
    """Copies cells' reports from a remote into a store, which is created for it.

    Raises:
        InputError: the remote cannot be read.
    """
    open_store(store)
    remote = Remote(uri)
    try:
        remote.check_bucket()
        bring_reports(remote, store, locate(store, grid))
    except OSError as error:
        raise InputError(f"remote {remote.uri}: cannot be read: {one_line(error)}") from None


def check_remote(remote: Remote) -> None:
    """Makes a remote a store if it is not one yet, and checks that it can be written to.

    Raises:
        InputError: the remote does not answer, refuses, or is a store of another version.
    """
    try:
        remote.check_bucket()
        if remote.read(VERSION_FILE) not in (None, version_text().encode()):
            raise InputError(f"remote {remote.uri}: is a store of another version (allowed: {VERSION})")
        # Written even if it exists: this shows now, not after the first checkpoint, whether writing works.
        remote.write(VERSION_FILE, version_text().encode())
    except OSError as error:
        raise InputError(f"remote {remote.uri}: cannot be used: {one_line(error)}") from None


class _RemoteFlag(StopFlag):
    """A flag that trials on other machines can see, too."""

    def __init__(self, path: Path, sweep: RemoteSweep) -> None:
        super().__init__(path)
        self._sweep = sweep
        self.name = sweep_name(sweep.name, STOP_FILE)

    def lower(self) -> None:
        super().lower()
        self._sweep.tell(self.name, RUN)

    def up(self) -> None:
        super().up()
        try:
            self._sweep.remote.write(self.name, STOP)
        except OSError as error:
            _log.warning("trials on other machines cannot be told to stop (%s); Ray ends them", one_line(error))
