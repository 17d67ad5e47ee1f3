"""Reports a cell's progress to Tune while it trains, and asks whether to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorrl.trial.folder import read_progress

ACTION_REPEAT = 4
"""Frames per agent step, repeated here because the modules that define it load PyTorch and ALE."""

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
"""The keys of every report. A figure without a value yet is NaN, so schedulers and tables always find every key."""


class TuneReports:
    """Passes a trial's reports to Tune, one for each line of its report file.

    Args:
        folder: the trial's folder.
        halted: called after each report; returns whether a scheduler wants the trial to stop.
    """

    def __init__(self, folder: Path, halted: Callable[[], bool] | None) -> None:
        self._folder, self._halted = folder, halted
        self.last: dict[str, float] = {}
        self.halt = False

    def __call__(self, line: dict[str, Any]) -> None:
        """Takes a report of the trial. A report that only holds a message is ignored."""
        if "message" in line:
            return
        self.last = {name: line.get(name, self.last.get(name, math.nan)) for name in FIGURES}
        if "evaluation_return" in line:
            self.last["score"] = score(self._folder)
        report(self.last)
        self.halt = self.halt or (self._halted is not None and self._halted())

    def finished(self, result: dict[str, Any]) -> None:
        """Takes the figures of a trial that was already finished."""
        self.last = {**dict.fromkeys(FIGURES, math.nan), **{n: result[n] for n in ("score", "episodes") if n in result}}
        if isinstance(result.get("steps"), int):
            self.last |= {"agent_steps": result["steps"], "frames": result["steps"] * ACTION_REPEAT}


def score(folder: Path) -> float:
    """Returns the mean over the evaluation games so far, the score at a trial's end; NaN before the first game."""
    played = [line for line in read_progress(folder) if "evaluation_return" in line]
    games = sum(line["evaluation_episodes"] for line in played)
    return (
        sum(line["evaluation_return"] * line["evaluation_episodes"] for line in played) / games if games else math.nan
    )


def report(figures: dict[str, float]) -> None:
    """Reports to Tune, unless the cell runs without it."""
    from ray import tune

    if tune.get_context().get_trial_name() is not None:
        tune.report(dict(figures))
