"""A sweep's cells as a report reads them: what the sweep asked for, and what each cell's folder holds by now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["finished", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep.

    Attributes:
        key: of its trial.
        folder: of its trial, which may not exist yet.
        game: name of the game.
        variant: name of the variant.
        seed: of the trial.
        steps: agent steps asked for.
        axes: values of the sweep's further axes, e.g. {"compression": 8}.
        state: "finished" with a result; "failed": the driver gave up on it; "unfinished": begun; "missing": not begun.
        agent_steps: agent steps reported so far.
        failures: how often it failed.
        error: the last lines of its last failure.
        trial: `trial.json`, empty where there is none.
        result: `result.json`, empty until it is finished.
    """

    key: str
    folder: Path
    game: str
    variant: str
    seed: int
    steps: int
    axes: Mapping[str, Any] = field(default_factory=dict)
    state: State = "missing"
    agent_steps: int = 0
    failures: int = 0
    error: tuple[str, ...] = ()
    trial: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The agent that the cell is a run of: its variant, and the value of each further axis."""
        return " ".join([self.variant, *(f"{name}={_short(value)}" for name, value in self.axes.items())])


@dataclass(frozen=True)
class SweepRecord:
    """A sweep's name and its cells, in its own order.

    Attributes:
        name: of the sweep.
        cells: at least one.
    """

    name: str
    cells: Sequence[Cell]

    @property
    def labels(self) -> list[str]:
        """Labels of the agents, in the sweep's order."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def games(self) -> list[str]:
        """Names of the games, in the sweep's order."""
        return list(dict.fromkeys(cell.game for cell in self.cells))

    @property
    def synthetic(self) -> bool:
        """Whether a cell says of itself that no agent was trained for it."""
        return any(cell.trial.get("synthetic") for cell in self.cells)

    def of(self, label: str) -> list[Cell]:
        """The cells of one agent."""
        return [cell for cell in self.cells if cell.label == label]


def read_cells(
    name: str, rows: Sequence[Mapping[str, Any]], store: Path, state: Mapping[str, Any] | None = None
) -> SweepRecord:
    """Reads the folders of cells.

    Args:
        name: of the sweep.
        rows: key, folder (inside the store), game, variant, seed, steps and axes of every cell.
        store: the folder that holds the cells.
        state: what the sweep's driver last knew of its cells (`state.json`), by folder.
    """
    told = (state or {}).get("cells") or {}
    return SweepRecord(name, [_read_cell(row, store, told.get(row["folder"]) or {}) for row in rows])


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a cell's `progress.jsonl`; none where there is no such file."""
    try:
        content = (folder / "progress.jsonl").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return []
    lines = []
    for text in content.splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _read_cell(row: Mapping[str, Any], store: Path, told: Mapping[str, Any]) -> Cell:
    folder = store / row["folder"]
    trial = _read_object(folder / "trial.json")
    own = trial.get("key") == row["key"]
    result = _read_object(folder / "result.json") if own else {}
    finished = result.get("key") == row["key"]
    lines = [] if finished or not own else read_lines(folder)
    failed = told.get("state") == "failed"
    return Cell(
        key=row["key"],
        folder=folder,
        game=row["game"],
        variant=row["variant"],
        seed=int(row["seed"]),
        steps=int(row["steps"]),
        axes=dict(row.get("axes") or {}),
        state="finished" if finished else "failed" if failed else "unfinished" if own else "missing",
        agent_steps=int(row["steps"]) if finished else int(lines[-1]["agent_steps"]) if lines else 0,
        failures=int(told.get("failures") or 0),
        error=() if finished else tuple(str(line) for line in told.get("error") or ()),
        trial=trial if own else {},
        result=result if finished else {},
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
