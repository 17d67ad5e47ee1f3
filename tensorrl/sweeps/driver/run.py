"""Runs a sweep: trains the cells that are not finished yet, and leaves finished cells as they are."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from tensorrl.errors import InputError
from tensorrl.files import LockedError, file_lock, is_full
from tensorrl.sweeps.driver import mps
from tensorrl.sweeps.driver.cluster import check_address, joins_ray, ray_session
from tensorrl.sweeps.driver.estimate import this_machine
from tensorrl.sweeps.driver.resources import await_machine, fit, trial_resources
from tensorrl.sweeps.driver.tuning import Control, tune_cells
from tensorrl.sweeps.grid.cells import PlannedCell, cells, select
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.remote.driver_side import RemoteSweep, join_remote
from tensorrl.sweeps.store.board import Board, OnUpdate
from tensorrl.sweeps.store.gauges import SweepGauges
from tensorrl.sweeps.store.layout import (
    DRIVER_LOCK,
    STATE_FILE,
    STOP_FILE,
    locate,
    lock_file,
    open_store,
    sweep_folder,
    write_sweep,
)
from tensorrl.sweeps.store.signals import StopFlag, StopRequest, stop_signals
from tensorrl.sweeps.store.status import read_status
from tensorrl.tracking import add_event_files, prepare_database, require_tensorboard, sync_missing, tracking_uri_for
from tensorrl.tracking.memory import is_complete
from tensorrl.tracking.mirror import LOCK_FILE
from tensorrl.tracking.record import one_line
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import STOPPED_FILE, is_in_use, read_result

Say = Callable[[str], None]

_POLL_SECONDS = 1.0
_RECORD_PATIENCE = 30.0
_log = logging.getLogger(__name__)


def run_sweep(
    spec: SweepSpec,
    store: Path,
    *,
    only: str | None = None,
    max_concurrent: int | None = None,
    address: str | None = None,
    remote: str | None = None,
    on_update: OnUpdate | None = None,
    say: Say | None = None,
) -> list[CellStatus]:
    """Runs the unfinished cells of a sweep, and returns the status of all of them.

    Each cell has its own folder in the store, as `tensorrl train` writes it, and its own run in MLflow. A cell that was
    started before continues from its last checkpoint. A cell that fails is retried from there, as often as the sweep
    allows, and then reported; the other cells continue. If another process runs a cell, this one waits for it, and
    takes over if that process dies. The same holds for the whole sweep. After any interruption, the same call completes
    the sweep.

    Args:
        spec: the sweep.
        store: the folder of cells, created if it does not exist. Every machine must have it under this path, or there
            must be a remote.
        only: a pattern for `<game>-<variant>-seed<k>`; other cells are left alone.
        max_concurrent: most trials at once; None takes the sweep's own limit, or runs as many as fit.
        address: the address of a running Ray (`auto`, HOST:PORT); None takes `RAY_ADDRESS`, or starts a new Ray.
        remote: the URI of the remote, if machines share no folder; `store` is then a separate folder on each machine.
            None if they share the store.
        on_update: called about once per second, and at the end, with every cell's status. Its errors are logged.
        say: called from time to time with a line for the user.

    Returns:
        The status of every chosen cell, in order: `finished` with its result, `stopped` by its scheduler, or `failed`
        with the last lines of its error.

    Raises:
        InputError: the store has another version, is full or cannot be written to; the remote cannot be used; no Ray
            answers; or a trial needs more than any machine has.
        RayLost: Ray did not start, or has no machine left.
        KeyboardInterrupt: the sweep was asked to stop; its trials have written checkpoints.
    """
    check_address(address)
    if spec.tensorboard:
        require_tensorboard()
    store, say = store.absolute(), say or (lambda _: None)
    grid = cells(spec)
    chosen = select(grid, only)
    if not joins_ray(address) and not remote:
        _refuse_early(spec, store, chosen)
    uri = tracking_uri_for(store / "cell", _given_uri(spec))
    shared = join_remote(remote, store, spec.name, uri) if remote else None
    open_store(store)
    try:
        with stop_signals() as stop, shared or nullcontext():
            return _Sweep(spec, store, grid, chosen, uri, shared, stop, on_update, say).run(max_concurrent, address)
    except Exception as error:
        if isinstance(error, InputError) or not is_full(error):
            raise
        raise _full(store) from None


def _refuse_early(spec: SweepSpec, store: Path, chosen: Sequence[PlannedCell]) -> None:
    """Refuses a sweep that this machine cannot run, before anything is written. A new Ray has only this machine."""
    try:
        fit(spec, [this_machine()])
    except InputError:
        # Finished cells need no resources; at most their record or report is missing.
        if any(read_result(store / cell.folder) is None for cell in locate(store, chosen)):
            raise


class _Sweep:
    """One run of a sweep."""

    def __init__(
        self,
        spec: SweepSpec,
        store: Path,
        grid: Sequence[PlannedCell],
        chosen: Sequence[PlannedCell],
        uri: str,
        shared: RemoteSweep | None,
        stop: StopRequest,
        on_update: OnUpdate | None,
        say: Say,
    ) -> None:
        self.spec, self.store, self.grid, self.chosen = spec, store, grid, chosen
        self.uri, self.shared = uri, shared
        self.stop, self.on_update, self.say = stop, on_update, say
        self.folder = sweep_folder(store, spec.name)
        # Indices of the cells that another process runs.
        self.busy: set[int] = set()

    def run(self, max_concurrent: int | None, address: str | None) -> list[CellStatus]:
        write_sweep(self.store, self.spec, locate(self.store, self.grid))
        with ExitStack() as held:
            self._become_driver(held)
            # Once more: while this process waited, the other may have made cells, or have run from another file.
            if self.shared is not None:
                self.shared.bring(locate(self.store, self.grid))
            write_sweep(self.store, self.spec, locate(self.store, self.grid))
            if self.spec.scheduler is None:
                # Without a scheduler all cells run to the end, including cells that another sweep's scheduler stopped.
                for cell in locate(self.store, self.chosen):
                    (self.store / cell.folder / STOPPED_FILE).unlink(missing_ok=True)
            board = Board(locate(self.store, self.chosen), self.store, self.folder / STATE_FILE, self.on_update)
            if self.shared is not None:
                self.shared.follow(board, self.stop)
            try:
                self._complete(board, max_concurrent or self.spec.max_concurrent, address)
            except BaseException:
                board.driver = "stopped"
                raise
            else:
                board.driver = "ended"
            finally:
                board.show(at_once=True)
        return board.rows()

    def _become_driver(self, held: ExitStack) -> None:
        """Takes the sweep's lock. Shows the progress of the process that holds it until then."""
        said = False
        while True:
            try:
                with ExitStack() as here:
                    here.enter_context(file_lock(self.folder / DRIVER_LOCK, wait=False))
                    if self.shared is not None and not self.shared.claim(self._pause):
                        self.shared.bring_sweep(locate(self.store, self.chosen))
                        raise LockedError
                    held.push(here.pop_all())
            except LockedError:
                where = read_status(self.store, self.spec.name, []).where
                if not said:
                    self.say(f"{self.spec.name}: another process runs it ({where}); waiting for that to end")
                said = True
                if self.on_update is not None:
                    listed = locate(self.store, self.chosen)
                    self.on_update(list(read_status(self.store, self.spec.name, listed).rows))
                self._pause()
            else:
                return

    def _complete(self, board: Board, max_concurrent: int | None, address: str | None) -> None:
        if board.open_cells():
            with self._shared_card(address), ray_session(address):
                # Ray sets handlers of its own.
                self.stop.listen()
                await_machine(self.spec, self.say, self._pause)
                resources, device = trial_resources(self.spec)
                _prepare(self.uri)
                board.gauges = SweepGauges(self.spec.name)
                board.show(at_once=True)
                flag = self.shared.flag() if self.shared is not None else StopFlag(self.folder / STOP_FILE)
                flag.lower()
                control = Control(
                    spec=self.spec,
                    store=self.store,
                    folder=self.folder,
                    board=board,
                    device=device,
                    stop=self.stop,
                    flag=flag,
                    uri=self.uri,
                    resources=resources,
                    max_concurrent=max_concurrent,
                    say=self.say,
                    remote=self.shared.remote.uri if self.shared is not None else "",
                )
                try:
                    self._rounds(board, control)
                finally:
                    board.show(at_once=True)
                    board.gauges = None
        self._sync(board)

    def _shared_card(self, address: str | None) -> AbstractContextManager[object]:
        """Returns NVIDIA's MPS for the trials of this machine, if it is wanted and installed."""
        asked = self.spec.resources
        gpus = this_machine().gpus if asked.gpus else 0
        if not mps.is_wanted(asked.mps, gpus=gpus, joins_ray=joins_ray(address)):
            return nullcontext()
        self.say("trials share each GPU through NVIDIA's MPS, which stops when this sweep ends")
        return mps.daemon()

    def _rounds(self, board: Board, control: Control) -> None:
        """Gives Tune the open cells until none is left. Cells that other processes run are checked repeatedly."""
        while True:
            self._relocate(board)
            ready = [index for index in board.open_cells() if index not in self.busy or self._free(board, index)]
            if ready:
                end = tune_cells(control, ready)
                if self.shared is not None:
                    self.shared.bring([board.listed[index] for index in ready])
                self.busy = (self.busy - set(ready)) | set(end.busy)
                if end.full:
                    raise _full(self.store)
                if end.stopped:
                    raise KeyboardInterrupt
            elif board.open_cells():
                board.show()
                self._pause()
            else:
                return

    def _relocate(self, board: Board) -> None:
        if self.busy:
            for index, cell in enumerate(locate(self.store, self.chosen)):
                if index in self.busy and cell.folder != board.listed[index].folder:
                    board.move(index, cell)
            board.refresh(self.busy)

    def _free(self, board: Board, index: int) -> bool:
        cell = board.listed[index]
        try:
            with file_lock(lock_file(self.store, cell.key), wait=False):
                # `tensorrl train` only locks the folder.
                return not is_in_use(self.store / cell.folder)
        except LockedError:
            return False

    def _sync(self, board: Board) -> None:
        folders = [self.store / cell.folder for cell in board.listed]
        # For cells that finished earlier, or on a machine that shares no folder with this one.
        for folder in folders if self.spec.tensorboard else ():
            add_event_files(folder)
        _await_records(folders)
        if self.shared is not None:
            self.shared.bring_checkpoints(
                folder
                for folder in folders
                if not is_complete(folder, experiment=self.spec.experiment, tracking_uri=self.uri)
            )
        missed = [
            outcome
            for outcome in sync_missing(
                folders, tracking_uri=self.uri, experiment=self.spec.experiment, failed=board.failed_folders()
            )
            if outcome.problem
        ]
        if missed:
            _log.warning(
                "MLflow lacks a part of %d of %d trials (%s); `tensorrl sync %s` sends it later",
                len(missed), len(folders), missed[0].problem, self.store,
            )  # fmt: skip
        board.show(at_once=True)
        self._report(reach_mlflow=not missed)

    def _report(self, *, reach_mlflow: bool) -> None:
        """Writes the sweep's report to the store and to MLflow. An error in the report does not fail the sweep."""
        from tensorrl.sweeps.store.report import keep_report, sweep_record, write_report

        try:
            if reach_mlflow:
                keep_report(self.store, self.spec.name, tracking_uri=self.uri, experiment=self.spec.experiment)
            else:
                write_report(sweep_record(self.store, self.spec.name), self.store)
        except Exception as error:
            _log.warning("%s: the report is not complete (%s); see `tensorrl report`", self.spec.name, one_line(error))

    def _pause(self, seconds: float = _POLL_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.stop.requested:
                raise KeyboardInterrupt
            time.sleep(0.1)


def _given_uri(spec: SweepSpec) -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri


def _full(store: Path) -> InputError:
    return InputError(
        f"{store}: no space left on the device; finished work is kept; free some space and run the same command again"
    )


def _await_records(folders: Sequence[Path]) -> None:
    """Waits a while for processes of trials that have finished training and still send their record."""
    deadline = time.monotonic() + _RECORD_PATIENCE
    for lock in (folder / LOCK_FILE for folder in folders):
        while lock.exists() and time.monotonic() < deadline:
            try:
                with file_lock(lock, wait=False):
                    break
            except LockedError:
                time.sleep(0.2)


def _prepare(uri: str) -> None:
    """Prepares MLflow's store for trials that start together. If that fails, each trial's record handles the error."""
    try:
        prepare_database(uri)
    except Exception as error:
        _log.warning("MLflow at %s is not ready (%s); the trials run and are recorded later", uri, error)
