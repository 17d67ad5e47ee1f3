"""How far a sweep is: the cells' folders are the truth, its driver's last word says which of them run or failed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tensorrl.sweeps.store.layout import STATE_FILE, Entry, find_sweep, sweep_folder
from tensorrl.trial.folder import PROGRESS_FILE, STEP, read_json, read_result, read_trial

State = Literal["waiting", "running", "finished", "failed"]
DriverState = Literal["running", "waiting", "stopped", "ended", "gone", "none"]

HEARTBEAT = 5.0
"""Seconds between two writings of a driver's state, at most."""
_STALE = 45.0
_TAIL = 16_384


@dataclass(frozen=True)
class CellStatus:
    """One cell of a sweep.

    Attributes:
        folder: the cell's folder.
        game: its game.
        variant: its variant in this sweep.
        seed: its seed.
        steps: agent steps it is to make.
        state: `waiting` also of a cell that was begun and is not being run now.
        key: the cell's key.
        axes: its values of the sweep's axes.
        agent_steps: agent steps it has reported.
        figures: its last report; empty before the first, and of a cell that is finished.
        trial: its `trial.json` (coefficients, settings, …), empty before it was begun.
        result: its final figures, None until it is finished.
        failures: how often it failed in the sweep's last run.
        error: the last lines of its last failure.
    """

    folder: Path
    game: str
    variant: str
    seed: int
    steps: int
    state: State
    key: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    agent_steps: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    failures: int = 0
    error: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as a whole.

    Attributes:
        name: its name.
        driver: what its driver does: `running`, `waiting` for another driver, `stopped` or `ended` in order, `gone`
            where it died, `none` where the sweep was never run.
        where: host and process of the driver, empty where there was none.
        rows: its cells, in order.
    """

    name: str
    driver: DriverState
    where: str
    rows: Sequence[CellStatus]

    def count(self, state: State) -> int:
        """Returns how many cells are in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def steps_per_second(self) -> float:
        """Agent steps a second of all running cells together, by each one's last report."""
        return steps_per_second(self.rows)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last agent step at the present speed; None where nothing runs."""
        return seconds_left(self.rows)


def steps_per_second(rows: Sequence[CellStatus]) -> float:
    """Returns the agent steps a second of all running cells together, by each one's last report."""
    return float(sum(row.figures.get("steps_per_second") or 0.0 for row in rows if row.state == "running"))


def seconds_left(rows: Sequence[CellStatus]) -> float | None:
    """Returns the seconds until the last agent step at the present speed; None where nothing runs."""
    speed = steps_per_second(rows)
    left = sum(row.steps - row.agent_steps for row in rows if row.state in ("waiting", "running"))
    return left / speed if speed else None


def cell_status(
    entry: Entry, store: Path, *, state: State = "waiting", failures: int = 0, error: tuple[str, ...] = ()
) -> CellStatus:
    """Returns one cell's status.

    Args:
        entry: the cell.
        store: its store. What another trial left in its folder does not count.
        state: what its runner knows of it; a result in the folder makes it `finished` all the same.
        failures: how often it failed.
        error: the last lines of its last failure.
    """
    folder = store / entry.folder
    trial = read_trial(folder) or {}
    own = trial.get("key") == entry.key
    result = read_result(folder) if own else None
    figures = last_report(folder) if own and result is None else {}
    return CellStatus(
        folder=folder,
        game=entry.game,
        variant=entry.variant,
        seed=entry.seed,
        steps=entry.steps,
        key=entry.key,
        axes=entry.axes,
        state="finished" if result is not None else state,
        agent_steps=entry.steps if result is not None else int(figures.get(STEP, 0)),
        figures=figures,
        trial=trial if own else {},
        result=result,
        failures=failures,
        error=() if result is not None else error,
    )


def last_report(folder: Path) -> dict[str, Any]:
    """Returns the last whole line of a cell's `progress.jsonl`, reading little else; empty where there is none."""
    try:
        with (folder / PROGRESS_FILE).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for raw in reversed(lines):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get(STEP), int):
            return line
    return {}


def sweep_status(store: Path, wanted: str) -> SweepStatus:
    """Returns how a sweep stands, read from any process.

    Args:
        store: the store.
        wanted: a sweep file, or the name of a sweep that was run in the store.

    Raises:
        InputError: there is no such sweep, or the store is of another version.
    """
    name, listed = find_sweep(store, wanted)
    return read_status(store, name, listed)


def read_status(store: Path, name: str, listed: Sequence[Entry]) -> SweepStatus:
    """Returns how the sweep of these cells stands, with what its driver last wrote."""
    held = read_json(sweep_folder(store, name) / STATE_FILE) or {}
    driver = _driver_state(held)
    known = held.get("cells") or {}
    return SweepStatus(
        name=name,
        driver=driver,
        where=str(held.get("where", "")),
        rows=[_from_state(entry, store, known.get(entry.folder) or {}, driver) for entry in listed],
    )


def _from_state(entry: Entry, store: Path, known: Mapping[str, Any], driver: DriverState) -> CellStatus:
    state: State = known.get("state", "waiting")
    if state == "running" and driver != "running":
        state = "waiting"
    error = tuple(known.get("error") or ())
    return cell_status(entry, store, state=state, failures=int(known.get("failures") or 0), error=error)


def _driver_state(held: Mapping[str, Any]) -> DriverState:
    if not held:
        return "none"
    said: DriverState = held.get("driver", "gone")
    live = said in ("running", "waiting")
    return "gone" if live and time.time() - float(held.get("updated") or 0.0) > _STALE else said
