"""What a cell's process tells Tune while it trains, and what it hears back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorrl.trial.folder import read_progress

ACTION_REPEAT = 4
"""Frames of an agent step; PyTorch and ALE, which know it too, are loaded later than this."""

FIGURES = (
    "agent_steps",
    "frames",
    "episodes",
    "episode_return",
    "loss",
    "steps_per_second",
    "evaluation_return",
    "score",
)
"""Keys of every report; a figure that there is none of yet is NaN, so that schedulers and tables find all of them."""


class TuneReports:
    """Hands a trial's reports to Tune, one for each line of its report file.

    Args:
        folder: the trial's.
        halted: asked after each report whether a scheduler wants the trial to stop.
    """

    def __init__(self, folder: Path, halted: Callable[[], bool] | None) -> None:
        self._folder, self._halted = folder, halted
        self.last: dict[str, float] = {}
        self.halt = False

    def __call__(self, line: dict[str, Any]) -> None:
        """Takes a report of the trial; what is only for people to read is passed over."""
        if "message" in line:
            return
        self.last = {name: line.get(name, self.last.get(name, math.nan)) for name in FIGURES}
        if "evaluation_return" in line:
            self.last["score"] = score(self._folder)
        report(self.last)
        self.halt = self.halt or (self._halted is not None and self._halted())

    def finished(self, result: dict[str, Any]) -> None:
        """Takes the figures of a trial that was finished before."""
        self.last = {**dict.fromkeys(FIGURES, math.nan), **{n: result[n] for n in ("score", "episodes") if n in result}}
        if isinstance(result.get("steps"), int):
            self.last |= {"agent_steps": result["steps"], "frames": result["steps"] * ACTION_REPEAT}


def score(folder: Path) -> float:
    """The mean over the evaluation games so far, which at a trial's end is its score; NaN before the first."""
    played = [line for line in read_progress(folder) if "evaluation_return" in line]
    games = sum(line["evaluation_episodes"] for line in played)
    return (
        sum(line["evaluation_return"] * line["evaluation_episodes"] for line in played) / games if games else math.nan
    )


def report(figures: dict[str, float]) -> None:
    """Reports to Tune, where there is one: a cell can be run by hand."""
    from ray import tune

    if tune.get_context().get_trial_name() is not None:
        tune.report(dict(figures))
