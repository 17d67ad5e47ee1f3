"""A cell of a sweep: its description, and its status from its folder and its driver."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from tensorrl.errors import shown
from tensorrl.trial import folder as trial_folder
from tensorrl.trial.folder import DamagedFile, load_json
from tensorrl.trial.names import is_part

SWEEPS_FOLDER = ".sweeps"
CELLS_FILE = "cells.json"

State = Literal["waiting", "unfinished", "running", "finished", "stopped", "failed", "damaged"]
"""The state of a cell. `waiting`: not started; `unfinished`: started, but not running now; `running`; `finished`: has a
result (only these cells count in averages); `stopped`: a scheduler stopped it early because of its figures; `failed`:
its driver gave up on it; `damaged`: its folder holds a description or a result that cannot be read, so it cannot
continue."""


def _folder_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not is_part(name):
        raise ValueError(f"{shown(name)} is not a name of a cell's folder")
    return name


@dataclass(frozen=True)
class Cell:
    """One trial of a sweep.

    Attributes:
        key: digest of everything that determines its result; cells with the same key are the same cell in every sweep.
        folder: the name of its folder in the store. It names another variant if another sweep made the same cell.
        game: its game.
        variant: its variant in this sweep.
        seed: its seed.
        steps: its length in agent steps.
        axes: its values of the sweep's axes.
    """

    key: str
    folder: Annotated[str, AfterValidator(_folder_name)]
    game: str
    variant: str
    seed: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=1)]
    axes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<game>-<variant>-seed<k>`; cells that differ only in settings have the same name."""
        return f"{self.game}-{self.variant}-seed{self.seed}"

    @property
    def label(self) -> str:
        """The agent that the cell is a run of: its variant, and the value of each axis."""
        return " ".join([self.variant, *(f"{name}={_short(value)}" for name, value in self.axes.items())])

    def row(self) -> dict[str, Any]:
        """The cell as `cells.json` has it."""
        return {
            "key": self.key,
            "folder": self.folder,
            "game": self.game,
            "variant": self.variant,
            "seed": self.seed,
            "steps": self.steps,
            "axes": dict(self.axes),
        }


@dataclass(frozen=True)
class CellStatus:
    """The status of a cell.

    Attributes:
        cell: the cell.
        folder: its folder, which may not exist yet.
        state: see `State`.
        agent_steps: the agent steps that it has reported.
        figures: its last report; empty before the first report, and for a finished cell.
        trial: its `trial.json` (coefficients, settings, …); empty before it has started.
        result: its final figures; empty until it is finished.
        failures: how often it failed in the sweep's last run.
        error: the last lines of its last error, or which part of its folder is damaged.
    """

    cell: Cell
    folder: Path
    state: State = "waiting"
    agent_steps: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    failures: int = 0
    error: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.cell.key

    @property
    def game(self) -> str:
        """The cell's game."""
        return self.cell.game

    @property
    def variant(self) -> str:
        """The cell's variant in this sweep."""
        return self.cell.variant

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return self.cell.seed

    @property
    def steps(self) -> int:
        """The cell's length in agent steps."""
        return self.cell.steps

    @property
    def axes(self) -> Mapping[str, Any]:
        """The cell's values of the sweep's axes."""
        return self.cell.axes

    @property
    def label(self) -> str:
        """The agent that the cell is a run of."""
        return self.cell.label

    @property
    def steps_per_second(self) -> float | None:
        """Agent steps per second from its last report; None if the report has no such figure."""
        speed = self.figures.get("steps_per_second")
        return float(speed) if trial_folder.is_number(speed) else None


def cell_status(
    cell: Cell, store: Path, *, state: State = "waiting", failures: int = 0, error: Sequence[str] = ()
) -> CellStatus:
    """Returns the status of a cell.

    Args:
        cell: the cell.
        store: its store. Files of another trial in its folder are ignored.
        state: its state according to its driver: `waiting`, `running` or `failed`. If the folder has a result, the cell
            is `finished` in any case.
        failures: how often it failed.
        error: the last lines of its last failure.
    """
    folder = store / cell.folder
    trial: Mapping[str, Any] = {}
    result: Mapping[str, Any] | None = None
    damage = ""
    try:
        held = trial_folder.load_trial(folder)
        if held is not None and held["key"] == cell.key:
            trial = held
            result = trial_folder.load_result(folder)
    except DamagedFile as found:
        damage = str(found)
    if result is not None:
        return CellStatus(cell, folder, "finished", cell.steps, trial=trial, result=result, failures=failures)
    if damage and state != "failed":
        state, error = "damaged", (damage,)
    elif trial and state == "waiting":
        state = "stopped" if (folder / trial_folder.STOPPED_FILE).is_file() else "unfinished"
    figures = trial_folder.last_report(folder) if trial else {}
    steps = min(int(figures.get(trial_folder.STEP, 0)), cell.steps)
    return CellStatus(cell, folder, state, steps, figures=figures, trial=trial, failures=failures, error=tuple(error))


def read_cells(path: Path) -> list[Cell] | None:
    """Returns the cells that a sweep's `cells.json` lists, in order; None if there is no such file.

    Raises:
        DamagedFile: the file holds no list of cells.
    """
    content = load_json(path)
    if content is None:
        return None
    try:
        return _cells().validate_python(content["cells"])
    except KeyError:
        raise DamagedFile(path, "no list of cells") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedFile(path, f"cells{'.' + where if where else ''}: {first['msg']}") from None


@functools.cache
def _cells() -> TypeAdapter[list[Cell]]:
    return TypeAdapter(list[Cell])


def sweeps_with(directory: Path) -> list[str]:
    """Returns the sorted names of the sweeps, in the store around a trial's folder, that list it as a cell."""
    trial = trial_folder.read_trial(directory)
    if trial is None:
        return []
    found = []
    for path in sorted((directory.parent / SWEEPS_FOLDER).glob(f"*/{CELLS_FILE}")):
        try:
            listed = read_cells(path) or []
        except DamagedFile:
            continue
        if any(cell.key == trial["key"] for cell in listed):
            found.append(path.parent.name)
    return found


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
