"""The driver's view of its cells while they run, which it also writes for `tensorrl status`."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tensorrl.files import write_text
from tensorrl.sweeps.grid.cells import PlannedCell
from tensorrl.sweeps.store.gauges import SweepGauges
from tensorrl.sweeps.store.status import HEARTBEAT, DriverState
from tensorrl.trial.cell import CellStatus, State, cell_status

OnUpdate = Callable[[list[CellStatus]], None]

_UPDATE_SECONDS = 1.0
_STATES: dict[str, State] = {"RUNNING": "running", "ERROR": "failed"}
_log = logging.getLogger(__name__)


class Board:
    """Every cell's status while the sweep runs, from Tune's state and the cell's folder.

    Args:
        listed: the cells.
        store: their store.
        state_file: the file in which the driver writes its state for `tensorrl status`.
        on_update: called with every cell's status.
    """

    def __init__(
        self, listed: Sequence[PlannedCell], store: Path, state_file: Path, on_update: OnUpdate | None
    ) -> None:
        self.listed = list(listed)
        self.store = store
        self.states: list[State] = ["waiting"] * len(listed)
        self.failures = [0] * len(listed)
        self.errors: list[tuple[str, ...]] = [()] * len(listed)
        self.driver: DriverState = "running"
        # Set while Ray is connected.
        self.gauges: SweepGauges | None = None
        # Only these cells' folders are read again: a large sweep has hundreds of others.
        self._begun = [False] * len(listed)
        self._on_update = on_update
        self._state_file = state_file
        self._started = time.time()
        self._shown = self._saved = float("-inf")
        self._written: Any = None
        self._rows = [self._read(index) for index in range(len(listed))]

    def _read(self, index: int) -> CellStatus:
        return cell_status(
            self.listed[index],
            self.store,
            state=self.states[index],
            failures=self.failures[index],
            error=self.errors[index],
        )

    def tell(self, index: int, status: str, *, failures: int | None = None, error: tuple[str, ...] = ()) -> None:
        """Notes Tune's state of a cell: its status in Tune's words, its failures, the last lines of the last error."""
        self._begun[index] |= status != "PENDING"
        self.states[index] = _STATES.get(status, "waiting")
        self.failures[index] = self.failures[index] if failures is None else failures
        self.errors[index] = error

    def move(self, index: int, cell: PlannedCell) -> None:
        """Notes that a cell is in another folder, because another sweep made it."""
        self.listed[index] = cell
        self._begun[index] = True

    def failed_folders(self) -> frozenset[Path]:
        """Returns the folders of the cells that have failed for good."""
        return frozenset(row.folder for row in self.rows() if row.state == "failed")

    def refresh(self, places: Iterable[int]) -> None:
        """Has the folders of these cells read again, because other processes write them."""
        for index in places:
            self._begun[index] = True

    def rows(self) -> list[CellStatus]:
        """Returns every cell's current status."""
        for index, row in enumerate(self._rows):
            if row.state != "finished" and self._begun[index]:
                self._rows[index] = self._read(index)
        return list(self._rows)

    def under_way(self) -> list[PlannedCell]:
        """Returns the cells that this run started and does not know to be finished. Safe to call from other threads."""
        pairs = zip(self.listed, self._begun, list(self._rows), strict=True)
        return [cell for cell, begun, row in pairs if begun and row.state != "finished"]

    def open_cells(self) -> list[int]:
        """Returns the indices of the cells that are not finished, stopped or failed for good."""
        return [index for index, row in enumerate(self.rows()) if row.state not in ("finished", "stopped", "failed")]

    def show(self, *, at_once: bool = False) -> None:
        """Reports all statuses to the caller and to disk. Skips this shortly after the last time, unless `at_once`."""
        now = time.monotonic()
        if not at_once and now - self._shown < _UPDATE_SECONDS:
            return
        self._shown = now
        rows = self.rows()
        self._save(rows, now, at_once=at_once)
        if self.gauges is not None:
            self.gauges.show(rows)
        if self._on_update is None:
            return
        try:
            self._on_update(rows)
        except Exception:  # a caller's display may fail in any way; trials of hours must not end with it
            _log.exception("the sweep continues, but its progress cannot be shown")

    def _save(self, rows: Sequence[CellStatus], now: float, *, at_once: bool) -> None:
        told = {
            row.folder.name: {"state": row.state, "failures": row.failures, "error": list(row.error)}
            for row in rows
            if row.state in ("running", "failed") or row.failures
        }
        if not at_once and told == self._written and now - self._saved < HEARTBEAT:
            return
        content = {
            "driver": self.driver,
            "where": f"{socket.gethostname()}, process {os.getpid()}",
            "started": self._started,
            "updated": time.time(),
            "cells": told,
        }
        self._written, self._saved = told, now
        try:
            # Not synced to disk: the file is rewritten every few seconds.
            write_text(self._state_file, json.dumps(content) + "\n", sync=False)
        except OSError as error:
            _log.info("the sweep continues, but its state cannot be written: %s", error)
