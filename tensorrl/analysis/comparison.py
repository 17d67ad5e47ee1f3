"""Runs side by side: their differences and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorrl.errors import InputError
from tensorrl.trial import difference, folder


@dataclass(frozen=True)
class Comparison:
    """Two runs or more.

    Attributes:
        names: of the runs, in the order given.
        differing: values that differ between them: game, variant, seed, steps, settings. A text for each run.
        figures: their results: steps done, sizes, scores, speed. A text for each run.
    """

    names: tuple[str, ...]
    differing: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, tuple[str, ...]]

    def table(self, rows: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
        """Returns rows for a table: a column for each run."""
        return [{"": name, **dict(zip(self.names, values, strict=True))} for name, values in rows.items()]

    def as_dict(self) -> dict[str, Any]:
        """Returns everything for JSON, by run."""

        def by_run(rows: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
            return [{name: values[place] for name, values in rows.items()} for place in range(len(self.names))]

        return {"runs": list(self.names), "differing": by_run(self.differing), "figures": by_run(self.figures)}


def compare(runs: Sequence[Path]) -> Comparison:
    """Compares runs, finished or not.

    Args:
        runs: their folders.

    Raises:
        InputError: fewer than two folders, a folder named twice, or one without a run.
    """
    if len(runs) < 2:
        raise InputError("compare: give at least two runs")
    trials = []
    for run in runs:
        trial = folder.load_trial(run)
        if trial is None:
            raise InputError(f"{run}: contains no run of tensorrl (expected {folder.TRIAL_FILE})")
        trials.append(trial)
    names = _names(runs)
    if len(set(names)) < len(names):
        raise InputError("compare: a run is named twice")
    results = [folder.load_result(run) or {} for run in runs]
    last = [folder.last_report(run) for run in runs]
    figures = {
        "agent steps": [
            f"{done.get(folder.STEP, 0):,} of {trial['steps']:,}" for done, trial in zip(last, trials, strict=True)
        ],
        "coefficients": [f"{trial['coefficients']:,}" for trial in trials],
        "compression ratio": [f"{trial['compression_ratio']:.2f}" for trial in trials],
        "score": [_number(result.get("score"), 1) for result in results],
        "human-normalised": [_number(result.get("human_normalized"), 3) for result in results],
        "final score": [_number(result.get("final_score"), 1) for result in results],
        "last return": [_number(done.get("episode_return"), 1) for done in last],
        "steps/s": [
            _number(result.get("steps_per_second", done.get("steps_per_second")), 0)
            for result, done in zip(results, last, strict=True)
        ],
        "parameters": [str(result.get("parameters_sha256", "-"))[:12] for result in results],
    }
    return Comparison(names, difference.rows(trials), {name: tuple(values) for name, values in figures.items()})


def _names(runs: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of their paths that tell the runs apart."""
    parts = [run.absolute().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = tuple("/".join(each[-depth:]) for each in parts)
        if len(set(names)) == len(names):
            return names
    return names


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if folder.is_number(value) else "-"
