"""How far a sweep is, read from its trials' folders: they are the truth, whoever runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tensorrl.sweeps.spec import SweepSpec, cell_folder, cells
from tensorrl.tracking.folder import STEP, read_progress, read_result, read_trial
from tensorrl.trial import TrialSpec

State = Literal["waiting", "running", "finished", "failed"]


@dataclass(frozen=True)
class CellStatus:
    """One trial of a sweep.

    Attributes:
        folder: the trial's folder.
        game: its game.
        variant: its variant.
        seed: its seed.
        steps: agent steps it is to make.
        state: `waiting` also of a trial that was begun and is not being run now.
        agent_steps: agent steps it has reported.
        figures: its last report, empty before the first.
        trial: its `trial.json` (coefficients, settings, …), empty before it was begun.
        result: its final figures, None until it is finished.
        failures: how often it failed in this run of the sweep.
        error: the last lines of its last failure.
    """

    folder: Path
    game: str
    variant: str
    seed: int
    steps: int
    state: State
    agent_steps: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    failures: int = 0
    error: tuple[str, ...] = ()


def cell_status(
    cell: TrialSpec, folder: Path, *, state: State = "waiting", failures: int = 0, error: tuple[str, ...] = ()
) -> CellStatus:
    """Returns one trial's status.

    Args:
        cell: the trial.
        folder: its folder. What another trial left there does not count.
        state: what its runner knows of it; a result in the folder makes it `finished` all the same.
        failures: how often it failed.
        error: the last lines of its last failure.
    """
    trial = read_trial(folder) or {}
    own = trial.get("key") == cell.key
    result = read_result(folder) if own else None
    lines = read_progress(folder) if own else []
    return CellStatus(
        folder=folder,
        game=cell.game,
        variant=cell.variant,
        seed=cell.seed,
        steps=cell.steps,
        state="finished" if result is not None else state,
        agent_steps=cell.steps if result is not None else (int(lines[-1][STEP]) if lines else 0),
        figures=lines[-1] if lines else {},
        trial=trial if own else {},
        result=result,
        failures=failures,
        error=() if result is not None else error,
    )


def sweep_status(spec: SweepSpec, out: Path) -> list[CellStatus]:
    """Returns the status of every trial of a sweep from its folder alone: `finished`, or `waiting`.

    Args:
        spec: the sweep.
        out: the sweep's folder.
    """
    return [cell_status(cell, out / cell_folder(cell)) for cell in cells(spec)]
