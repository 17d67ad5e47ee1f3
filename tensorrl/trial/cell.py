"""A cell of a sweep: what it is, and how it stands by what its folder holds and what its driver says."""

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
"""How a cell stands. `waiting`: not begun; `unfinished`: begun, and not being run now; `running`; `finished`: with a
result, and the only state that counts in averages; `stopped`: a scheduler ended it early, for its figures; `failed`:
its driver gave it up; `damaged`: its folder holds a description or a result that cannot be read, so that it cannot go
on."""


def _folder_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not is_part(name):
        raise ValueError(f"{shown(name)} is no name of a cell's folder")
    return name


@dataclass(frozen=True)
class Cell:
    """One trial of a sweep.

    Attributes:
        key: digest of what determines it; two cells of one key are one cell, in whatever sweep.
        folder: name of its folder in the store. It names another variant where another sweep made the same cell.
        game: its game.
        variant: its variant in this sweep.
        seed: its seed.
        steps: agent steps it is to make.
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
        """`<game>-<variant>-seed<k>`, which cells that differ in settings share."""
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
    """How a cell stands.

    Attributes:
        cell: the cell.
        folder: its folder, which may not exist yet.
        state: see `State`.
        agent_steps: agent steps it has reported.
        figures: its last report; empty before the first, and of a cell that is finished.
        trial: its `trial.json` (coefficients, settings, …), empty before it was begun.
        result: its final figures, empty until it is finished.
        failures: how often it failed in the sweep's last run.
        error: the last lines of its last failure, or what of its folder is damaged.
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
        """Agent steps the cell is to make."""
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
        """Agent steps a second by its last report; None where that has no such figure."""
        speed = self.figures.get("steps_per_second")
        return float(speed) if trial_folder.is_number(speed) else None


def cell_status(
    cell: Cell, store: Path, *, state: State = "waiting", failures: int = 0, error: Sequence[str] = ()
) -> CellStatus:
    """Returns how a cell stands.

    Args:
        cell: the cell.
        store: its store. What another trial left in its folder does not count.
        state: what its driver knows of it: `waiting`, `running` or `failed`. A result in the folder makes it `finished`
            all the same.
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
    """Returns the cells that a sweep's `cells.json` lists, in order; None where there is no such file.

    Raises:
        DamagedFile: it lists none.
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
    """Returns the names of the sweeps beside a trial's folder that list it among their cells, sorted."""
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
