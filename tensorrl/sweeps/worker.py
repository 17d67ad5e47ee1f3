"""What runs inside a Tune trial's process: one trial in its folder, from its last checkpoint, with its record."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

from tensorrl.errors import InputError
from tensorrl.tracking import MlflowRecord
from tensorrl.tracking.store import LockedError, file_lock
from tensorrl.trial import TrialSpec

TRIAL_FUNCTION = "tensorrl.trial:run_trial"
RECORD_TIMEOUT = 5.0
"""Seconds a trial waits for MLflow at its end. The sweep sends what is then missing when all trials are done."""
_LOCK_PATIENCE = 60.0


class CellTask(TypedDict):
    """What a Tune trial is given: plain values only, because Tune writes them to its files."""

    spec: dict[str, Any]
    folder: str
    lock: str
    tracking_uri: str
    experiment: str
    trial_function: str


def run_cell(config: dict[str, CellTask]) -> dict[str, Any]:
    """Runs one trial of a sweep to its end, or goes on with it from its last checkpoint.

    Args:
        config: Tune's configuration of the trial, with the task under `cell`.

    Returns:
        What Tune keeps: `refused` with the reason where trying again cannot help, nothing otherwise.
    """
    task = config["cell"]
    folder = Path(task["folder"])
    module, _, name = task["trial_function"].partition(":")
    run: Callable[..., Any] = getattr(importlib.import_module(module), name)
    with ExitStack() as held:
        _hold(Path(task["lock"]), held)
        record = MlflowRecord(folder, tracking_uri=task["tracking_uri"], experiment=task["experiment"])
        finished = False
        try:
            run(TrialSpec(**task["spec"]), folder, resume=True, record=lambda _: _Poked(record))
            finished = True
        except InputError as error:
            return {"refused": str(error)}
        finally:
            record.close(RECORD_TIMEOUT, failed=not finished)
    return {}


class _Poked:
    """The record as a trial sees it. It is closed here, where it is known whether the trial failed."""

    def __init__(self, record: MlflowRecord) -> None:
        self.poke = record.poke

    def close(self, *, failed: bool = False) -> None:
        """Leaves closing to `run_cell`."""


def _hold(lock: Path, held: ExitStack) -> None:
    """Waits for a process that a killed sweep left behind to be gone from the folder: that takes seconds."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            held.enter_context(file_lock(lock, wait=False))
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return
