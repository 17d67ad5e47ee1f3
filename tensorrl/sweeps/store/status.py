"""The status of a sweep: progress comes from the cells' folders, running and failed cells from the driver's state."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tensorrl.sweeps.store.layout import STATE_FILE, find_sweep, sweep_folder
from tensorrl.trial.cell import Cell, CellStatus, State, cell_status
from tensorrl.trial.folder import is_number, read_json
from tensorrl.trial.time_left import FINAL_GAMES, GAME_SECONDS, evaluation_games_left

DriverState = Literal["running", "waiting", "stopped", "ended", "gone", "none"]

HEARTBEAT = 5.0
"""The longest time between two writes of a driver's state, in seconds."""
_STALE = 45.0


@dataclass(frozen=True)
class SweepStatus:
    """The status of a whole sweep.

    Attributes:
        name: the sweep's name.
        driver: the state of its driver: `running`, `waiting` for another driver, `stopped` or `ended` in order, `gone`
            if it died, `none` if the sweep was never run.
        where: host and process of the driver; empty if there was none.
        rows: the status of each cell, in order.
    """

    name: str
    driver: DriverState
    where: str
    rows: Sequence[CellStatus]

    def count(self, state: State) -> int:
        """Returns the number of cells in a state."""
        return sum(row.state == state for row in self.rows)

    @property
    def steps_per_second(self) -> float:
        """Agent steps per second of all running cells together, from each cell's last report."""
        return steps_per_second(self.rows)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last evaluation game ends, at the current speed; None if nothing runs."""
        return seconds_left(self.rows)


def steps_per_second(rows: Sequence[CellStatus]) -> float:
    """Returns the agent steps per second of all running cells together, from each cell's last report."""
    return float(sum(row.steps_per_second or 0.0 for row in rows if row.state == "running"))


def seconds_left(rows: Sequence[CellStatus]) -> float | None:
    """Returns the seconds until the last evaluation game ends; None if nothing runs.

    Agent steps are counted at the current speed of all running cells, evaluation games at their measured time.
    """
    speed = steps_per_second(rows)
    if not speed:
        return None
    open_rows = [row for row in rows if row.state in ("waiting", "unfinished", "running")]
    # Cells that have not begun are counted like one that runs.
    usual = next(number for row in rows if row.state == "running" for number in [_final_episodes(row, FINAL_GAMES)])
    games = sum(evaluation_games_left(row.agent_steps, row.steps, _final_episodes(row, usual)) for row in open_rows)
    at_once = sum(row.state == "running" for row in rows)
    return sum(row.steps - row.agent_steps for row in open_rows) / speed + games * GAME_SECONDS / at_once


def _final_episodes(row: CellStatus, otherwise: int) -> int:
    value = _mapping(row.trial.get("settings")).get("final_episodes")
    return value if isinstance(value, int) else otherwise


def sweep_status(store: Path, wanted: str) -> SweepStatus:
    """Returns the status of a sweep. Any process can read it.

    Args:
        store: the store.
        wanted: a sweep file, or the name of a sweep that was run in the store.

    Raises:
        InputError: there is no such sweep, or the store has another version.
    """
    name, listed = find_sweep(store, wanted)
    return read_status(store, name, listed)


def read_status(store: Path, name: str, listed: Sequence[Cell]) -> SweepStatus:
    """Returns the status of the sweep of these cells, including the last state that its driver wrote."""
    held = read_json(sweep_folder(store, name) / STATE_FILE) or {}
    driver = _driver_state(held)
    known = _mapping(held.get("cells"))
    return SweepStatus(
        name=name,
        driver=driver,
        where=str(held.get("where", "")),
        rows=[_from_state(cell, store, _mapping(known.get(cell.folder)), driver) for cell in listed],
    )


def _from_state(cell: Cell, store: Path, known: Mapping[str, Any], driver: DriverState) -> CellStatus:
    said, failures, error = known.get("state"), known.get("failures"), known.get("error")
    state: State = "failed" if said == "failed" else "waiting"
    if said == "running" and driver == "running":
        state = "running"
    return cell_status(
        cell,
        store,
        state=state,
        failures=failures if isinstance(failures, int) else 0,
        error=[str(line) for line in error] if isinstance(error, list) else [],
    )


def _driver_state(held: Mapping[str, Any]) -> DriverState:
    if not held:
        return "none"
    said, updated = held.get("driver"), held.get("updated")
    known: DriverState = next((state for state in get_args(DriverState) if state == said), "gone")
    live = known in ("running", "waiting")
    return "gone" if live and time.time() - (updated if is_number(updated) else 0.0) > _STALE else known


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
