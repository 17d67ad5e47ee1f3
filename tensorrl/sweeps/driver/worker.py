"""Runs one cell inside a Tune trial's process: in the cell's folder, from its last checkpoint, with its record.

PyTorch is imported last, so a cell that need not run here is recognised within a second.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypedDict

from tensorrl.errors import InputError
from tensorrl.files import LockedError, file_lock, is_full, write_json
from tensorrl.sweeps.driver.halving import ACTOR, NAMESPACE
from tensorrl.sweeps.driver.reporting import TuneReports
from tensorrl.sweeps.store.layout import VERSION_FILE, find_folder, lock_file, open_store
from tensorrl.sweeps.store.signals import StopFlag, watch_flag
from tensorrl.tracking import EventFiles, MlflowRecord
from tensorrl.trial.folder import STOPPED_FILE, read_result
from tensorrl.trial.spec import TrialSpec

TRIAL_FUNCTION = "tensorrl.rllib.trial:run_trial"
RECORD_TIMEOUT = 5.0
"""Seconds that a trial waits for MLflow at its end. The sweep sends the rest when all trials are done."""
_OUTAGE_TIMEOUT = 0.5
"""The same if MLflow did not answer before: an outage must not delay the next trial."""
_LOCK_PATIENCE = 10.0

Outcome = Literal["done", "busy", "stopped", "halted", "refused", "full"]


class CellTask(TypedDict):
    """The input of a Tune trial: plain values only, because Tune writes them to its files.

    `remote` is empty if all machines share the store; otherwise `claim` and `remote_stop` are names in it. `scheduler`
    is the sweep's scheduler, empty if it has none.
    """

    spec: dict[str, Any]
    key: str
    store: str
    folder: str
    stop_file: str
    tracking_uri: str
    experiment: str
    trial_function: str
    remote: str
    claim: str
    remote_stop: str
    scheduler: dict[str, Any]
    tensorboard: bool


class CellEnd(TypedDict):
    """How a cell's process ended, except by an error, which Tune keeps.

    `outcome` is `done`; `busy` if another process runs the cell, or ran it in another folder; `stopped` after a
    checkpoint, to continue later; `halted` if the sweep's scheduler stopped it; `refused` if a retry cannot help;
    `full` if the store has no space left.
    """

    outcome: Outcome
    reason: str


def run_cell(config: dict[str, CellTask]) -> dict[str, Any]:
    """Runs one cell of a sweep to its end, from its last checkpoint if it has one.

    Every report of the trial is passed on to Tune.

    Args:
        config: Tune's configuration of the trial, with the task under `cell`.

    Returns:
        A `CellEnd`, and the figures of the last report.
    """
    task = config["cell"]
    name = task["folder"]
    reports = TuneReports(Path(task["store"]) / name, (lambda: _was_halted(name)) if task["scheduler"] else None)
    end = _run_cell(task, reports)
    return {**reports.last, **end}


def _was_halted(name: str) -> bool:
    import ray

    return bool(ray.get(ray.get_actor(ACTOR, namespace=NAMESPACE).asked.remote(name)))


def _run_cell(task: CellTask, reports: TuneReports) -> CellEnd:
    store, name = Path(task["store"]), task["folder"]
    if task["remote"]:
        try:
            open_store(store)
        except InputError as error:
            return CellEnd(outcome="refused", reason=f"{socket.gethostname()}: {error}")
    elif not (store / VERSION_FILE).is_file():
        reason = f"{store}: not there on {socket.gethostname()} (every machine must have the store under this path)"
        return CellEnd(outcome="refused", reason=reason)
    stop = watch_flag(StopFlag(Path(task["stop_file"])))
    with ExitStack() as held:
        try:
            if stop():
                return CellEnd(outcome="stopped", reason="")
            if not _hold(lock_file(store, task["key"]), held):
                return CellEnd(outcome="busy", reason="another process runs it")
            if find_folder(store, task["key"]) not in (None, name):
                return CellEnd(outcome="busy", reason="another sweep began it")
            if task["remote"]:
                return _train_with_remote(task, store, stop, reports)
            return _train(task, store / name, stop, reports)
        except Exception as error:
            if is_full(error):
                return CellEnd(outcome="full", reason=str(error))
            raise


def _train_with_remote(task: CellTask, store: Path, stop: Callable[[], bool], reports: TuneReports) -> CellEnd:
    """Trains a cell that is copied from and to a remote."""
    from tensorrl.sweeps.remote.files import Remote
    from tensorrl.sweeps.remote.trial_side import Exchange

    remote = Remote(task["remote"])
    with Exchange(remote, store, task["folder"], claim=task["claim"], stop=task["remote_stop"]) as exchange:
        if not exchange.begin():
            return CellEnd(outcome="busy", reason="another machine runs it")
        end = _train(task, store / task["folder"], lambda: stop() or exchange.asked(), reports)
        exchange.finish()
        return CellEnd(outcome="busy", reason="another machine took it over") if exchange.lost else end


def _train(task: CellTask, folder: Path, stop: Callable[[], bool], reports: TuneReports) -> CellEnd:
    result = read_result(folder)
    if result is not None:
        reports.finished(result)
        return CellEnd(outcome="done", reason="")
    mark = folder / STOPPED_FILE
    if task["scheduler"] and mark.exists():
        return CellEnd(outcome="halted", reason="")
    # A sweep without a scheduler trains all cells to the end.
    mark.unlink(missing_ok=True)
    from tensorrl.trial.run import FolderInUse, Interrupted

    module, _, name = task["trial_function"].partition(":")
    run: Callable[..., Any] = getattr(importlib.import_module(module), name)
    record = MlflowRecord(folder, tracking_uri=task["tracking_uri"], experiment=task["experiment"])
    failed, busy = True, False
    try:
        run(
            TrialSpec(**task["spec"]),
            folder,
            resume=True,
            record=lambda _: _Copies(record, EventFiles(folder) if task["tensorboard"] else None),
            on_report=reports,
            stop=lambda: reports.halt or stop(),
        )
        failed = False
    except Interrupted as stopped:
        failed = False
        if not reports.halt:
            return CellEnd(outcome="stopped", reason=str(stopped))
        write_json(mark, {"scheduler": task["scheduler"], "agent_steps": reports.last["agent_steps"]})
        return CellEnd(outcome="halted", reason=str(stopped))
    except FolderInUse as error:
        busy = True
        return CellEnd(outcome="busy", reason=str(error))
    except InputError as error:
        return CellEnd(outcome="refused", reason=str(error))
    finally:
        # The process that trains in the folder also keeps its record.
        if not busy:
            record.close(RECORD_TIMEOUT if record.problem is None else _OUTAGE_TIMEOUT, failed=failed)
    return CellEnd(outcome="done", reason="")


class _Copies:
    """The records of a trial. `run_cell` closes MLflow's, because it knows whether the trial failed."""

    def __init__(self, record: MlflowRecord, events: EventFiles | None) -> None:
        self._record, self._events = record, events

    def poke(self) -> None:
        """Tells both that the folder has changed."""
        if self._events is not None:
            self._events.poke()
        self._record.poke()

    def close(self, *, failed: bool = False) -> None:
        """Closes the event files only."""
        if self._events is not None:
            self._events.close(failed=failed)


def _hold(lock: Path, held: ExitStack) -> bool:
    """Takes the cell's lock. Processes of a killed sweep release it within seconds."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            held.enter_context(file_lock(lock, wait=False))
        except LockedError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        else:
            return True
