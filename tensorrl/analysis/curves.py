"""Learning curves of runs: returns of training games over agent steps, evaluation beside them (figures 3 and 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tensorrl import files, games
from tensorrl.errors import InputError
from tensorrl.trial import folder

_SUFFIXES = (".png", ".svg")


class Curve(NamedTuple):
    """What a run reported.

    `returns` and `evaluations` hold (agent steps, true return): means of the training games finished since the report
    before, and of three games of evaluation.
    """

    game: str
    label: str
    returns: list[tuple[int, float]]
    evaluations: list[tuple[int, float]]


def load_curve(run: Path) -> Curve:
    """Reads a run's folder.

    Raises:
        InputError: it is not a run's folder, has no report yet, or has a damaged description.
    """
    trial, lines = folder.load_trial(run), folder.read_progress(run)
    if trial is None or not lines:
        raise InputError(
            f"{run}: no run of tensorrl with reports (expected {folder.TRIAL_FILE}, {folder.PROGRESS_FILE})"
        )
    lacking = [name for name in ("game", "variant", "seed") if name not in trial]
    if lacking:
        raise folder.DamagedFile(run / folder.TRIAL_FILE, f"no {lacking[0]}")

    def points(name: str) -> list[tuple[int, float]]:
        return [(line[folder.STEP], float(line[name])) for line in lines if folder.is_number(line.get(name))]

    label = f"{trial['variant']}, seed {trial['seed']}"
    return Curve(trial["game"], label, points("episode_return"), points("evaluation_return"))


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Moving average over the last `window` values, over fewer at the beginning."""
    return [float(np.mean(values[max(0, i - window + 1) : i + 1])) for i in range(len(values))]


def draw(runs: Sequence[Path], out: Path, *, window: int = 10) -> None:
    """Draws a panel for each game: returns smoothed over `window` reports, marks for evaluation.

    Raises:
        InputError: a folder that is no run, or a file that cannot be written.
    """
    if out.suffix not in _SUFFIXES:
        raise InputError(f"--out {out}: the name must end in {' or '.join(_SUFFIXES)}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no such folder")
    panels: dict[str, list[Curve]] = defaultdict(list)
    for run in runs:
        curve = load_curve(run)
        panels[curve.game].append(curve)
    figure = Figure(figsize=(6.2 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any
    for axes, (game, curves) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        for curve in curves:
            steps, returns = zip(*curve.returns, strict=True) if curve.returns else ((), ())
            (line,) = axes.plot(steps, smooth(returns, window), label=curve.label, linewidth=1.4)
            axes.plot(steps, returns, color=line.get_color(), alpha=0.18, linewidth=0.8)
            if curve.evaluations:
                axes.plot(*zip(*curve.evaluations, strict=True), "D", color=line.get_color(), markersize=5)
        about = games.get(game)
        if about.random is not None:
            axes.axhline(about.random, color="0.5", linewidth=0.9, linestyle=":", label="random")
        axes.set(title=about.title, xlabel="agent steps", ylabel="true return of training games")
        axes.legend(fontsize=8, frameon=False)
    with files.replacing(out, sync=False, keep_suffix=True) as draft:
        figure.savefig(draft, dpi=130)
