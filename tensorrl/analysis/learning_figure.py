"""Learning curves of a sweep's agents on each of its games, with bands over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorrl import games
from tensorrl.analysis.curves import smooth
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import finished
from tensorrl.analysis.style import look, new_figure
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import STEP, is_number, read_progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = 10
"""Reports averaged: a tenth of a whole trial."""
_POINTS = 80
_ACROSS = 3
_TOGETHER = 6

Numbers = npt.NDArray[np.float64]


class Band(NamedTuple):
    """Curves of an agent's runs on one game, where all of them have reported.

    Attributes:
        steps: agent steps.
        mean: over runs, at each of them.
        low: the lowest run's.
        high: the highest run's.
        runs: how many.
    """

    steps: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    runs: int


def groups(record: SweepRecord) -> list[list[str]]:
    """The games with a finished run that has reported a finished game, those of each picture together."""
    held = finished(record)
    shown = [game for game in record.games if any(band(cells) for (_, other), cells in held.items() if other == game)]
    return [shown[start : start + _TOGETHER] for start in range(0, len(shown), _TOGETHER)]


def band(cells: Sequence[CellStatus]) -> Band | None:
    """Mean return over runs of the training games, smoothed over `WINDOW` reports; None where no run has a curve."""
    curves = []
    for cell in cells:
        lines = read_progress(cell.folder)
        points = [(line[STEP], line["episode_return"]) for line in lines if is_number(line.get("episode_return"))]
        if points:
            steps, returns = zip(*points, strict=True)
            curves.append((np.array(steps, np.float64), np.array(smooth(returns, WINDOW))))
    if not curves:
        return None
    # Where every run has a curve: a mean over fewer runs at the ends would jump.
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    if start > end:
        return None
    grid = np.linspace(start, end, _POINTS)
    values = np.array([np.interp(grid, *curve) for curve in curves])
    return Band(grid, values.mean(0), values.min(0), values.max(0), len(curves))


def draw(record: SweepRecord, names: Sequence[str]) -> Figure:
    """A panel for each game, a line for each agent.

    Args:
        record: the sweep.
        names: of games, at least one, as `groups` gives them.
    """
    held = finished(record)
    rows = math.ceil(len(names) / _ACROSS)
    across = min(_ACROSS, len(names))
    figure = new_figure(4.2 * across, 3.1 * rows + 0.7)
    panels = list(figure.subplots(rows, across, squeeze=False).flat)
    for axes, game in zip(panels, names, strict=False):
        _panel(
            axes, game, {label: held[label, game] for label in record.labels if (label, game) in held}, record.labels
        )
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("agent steps", fontsize=9)
    figure.supylabel(f"return of training games, mean of {WINDOW} reports", fontsize=9)
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    order = [label for label in (*record.labels, "random agent") if label in found]
    figure.legend(
        [found[label] for label in order], order, loc="outside upper center", ncols=min(6, len(order)), fontsize=8,
        frameon=False, handlelength=3.6,
    )  # fmt: skip
    return figure


def _panel(axes: Axes, game: str, runs: dict[str, list[CellStatus]], labels: Sequence[str]) -> None:
    counts = set()
    for label, cells in runs.items():
        curve, seen = band(cells), look(label, labels.index(label))
        if curve is None:
            continue
        counts.add(curve.runs)
        axes.fill_between(curve.steps, curve.low, curve.high, color=seen.colour, alpha=0.13, linewidth=0)
        axes.plot(
            curve.steps, curve.mean, color=seen.colour, linestyle=seen.dashes, linewidth=1.6, marker=seen.mark,
            markevery=_POINTS // 5, markersize=4, label=label,
        )  # fmt: skip
    about = games.get(game)
    if about.random is not None:
        axes.axhline(about.random, color="0.5", linewidth=0.9, linestyle=":", label="random agent")
    listed = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    axes.set_title(f"{about.title}, {listed} run{'s' if max(counts) > 1 else ''} each", fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
