"""The paper's figures 3 and 4 from a sweep's cells: learning curves of the tensorized DQN on Pong, and one run of it.

The paper smooths by "a 30 episodes moving average". It draws figure 4 over thousands of episodes; figure 3 is
drawn over agent steps here, because runs differ in how many episodes these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorrl import games
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.style import look, new_figure
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import read_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAME = "pong"
FAMILY = "pong-dqn"
WINDOW = 30
"""Episodes averaged."""
_GRID = 400

Numbers = npt.NDArray[np.float64]


class Returns(NamedTuple):
    """True returns of a run's training games, in the order of its reports that finished a game.

    Attributes:
        steps: agent steps at each report.
        episodes: games finished by then.
        mean: return of the games since the report before.
        smooth: mean return of the last `WINDOW` games.
    """

    steps: Numbers
    episodes: Numbers
    mean: Numbers
    smooth: Numbers


def returns_of(lines: Sequence[Mapping[str, Any]]) -> Returns:
    """Reads the returns out of progress lines.

    A report gives the mean over the games it finished: each of them counts with that mean in the average.
    """
    kept = [line for line in lines if "episode_return" in line]
    episodes = np.array([line["episodes"] for line in kept], np.float64)
    mean = np.array([line["episode_return"] for line in kept], np.float64)
    ends = episodes.astype(int)
    one_by_one = np.repeat(mean, np.diff(ends, prepend=0))
    smooth = [one_by_one[max(0, end - WINDOW) : end].mean() for end in ends]
    return Returns(
        np.array([line["agent_steps"] for line in kept], np.float64), episodes, mean, np.array(smooth, np.float64)
    )


def pong_cells(record: SweepRecord) -> list[CellStatus]:
    """Cells of figures 3 and 4 that have reported a finished game."""
    return [
        cell
        for cell in record.cells
        if cell.game == GAME
        and cell.variant.startswith(FAMILY)
        and any("episode_return" in line for line in read_progress(cell.folder))
    ]


def draw_figure_3(cells: Sequence[CellStatus], labels: Sequence[str]) -> Figure:
    """Learning curves of the dense and the factorised agents: mean over seeds, a band from the lowest to the highest.

    Args:
        cells: at least one, see `pong_cells`.
        labels: every agent of the sweep, in its order, for looks.
    """
    figure = new_figure(9, 4.8)
    axes = figure.subplots()
    for label in dict.fromkeys(cell.label for cell in cells):
        runs = [cell for cell in cells if cell.label == label]
        curves = [returns_of(read_progress(cell.folder)) for cell in runs]
        # Where every run has a curve: a mean over fewer runs at the ends would jump.
        grid = np.linspace(max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves), _GRID)
        values = np.array([np.interp(grid, curve.steps, curve.smooth) for curve in curves])
        seen = look(label, labels.index(label))
        axes.fill_between(grid, values.min(0), values.max(0), color=seen.colour, alpha=0.12, linewidth=0)
        ratio = runs[0].trial.get("compression_ratio")
        named = f"{label}, {ratio:.2f}x" if ratio else label
        axes.plot(
            grid, values.mean(0), color=seen.colour, linestyle=seen.dashes, linewidth=1.8, marker=seen.mark,
            markevery=_GRID // 8, markersize=5, label=f"{named}, {len(runs)} seed{'s' if len(runs) > 1 else ''}",
        )  # fmt: skip
    _finish(axes, "agent steps", f"return of training games, mean of the last {WINDOW}")
    axes.set_title("Prioritized tensorized DQN on Pong: mean over seeds, band from lowest to highest", fontsize=10)
    axes.legend(fontsize=8, frameon=False, handlelength=4, loc="upper left")
    return figure


def typical_run(cells: Sequence[CellStatus]) -> CellStatus:
    """Of the most compressed agent's runs, the one with the median final return: "a typical single run"."""
    most = max(cells, key=lambda cell: (cell.trial.get("compression_ratio", 0.0), cell.label)).label
    runs = [cell for cell in cells if cell.label == most]
    by_end = sorted(runs, key=lambda cell: (returns_of(read_progress(cell.folder)).smooth[-1], cell.seed))
    return by_end[(len(by_end) - 1) // 2]


def draw_figure_4(cell: CellStatus) -> Figure:
    """One run of the tensorized agent: return over training games, as reported and smoothed."""
    curve = returns_of(read_progress(cell.folder))
    # The paper counts thousands, which a short run does not reach.
    unit, along = (1_000, "thousand episodes") if curve.episodes[-1] >= 1_000 else (1, "episodes")
    figure = new_figure(9, 4.2)
    axes = figure.subplots()
    axes.plot(curve.episodes / unit, curve.mean, color="0.65", linewidth=0.9, label="as reported")
    axes.plot(curve.episodes / unit, curve.smooth, color="#000000", linewidth=1.8, label=f"mean of {WINDOW} games")
    _finish(axes, along, "return of training games")
    ratio = cell.trial.get("compression_ratio")
    axes.set_title(
        f"{cell.label}, seed {cell.seed}" + (f", compression {ratio:.2f}x" if ratio else "") + ", Pong", fontsize=10
    )
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def _finish(axes: Any, along: str, up: str) -> None:
    axes.axhline(games.get(GAME).random, color="0.5", linewidth=0.9, linestyle=":", label="random agent")
    axes.set_xlabel(along)
    axes.set_ylabel(up)
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
