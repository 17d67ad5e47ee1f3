"""Figure 1: histograms of a layer's singular values over training, many runs pooled, a panel for each variant."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensorrl import files
from tensorrl.analysis.pooled_spectra import RunSpectra, pool
from tensorrl.errors import InputError
from tensorrl.trial.spectra import MATRIX, ZERO, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_BINS = 64
_COLUMNS = 3
_OVERLAP = 1.3
_INITIAL = "#c2410c"

Histogram = npt.NDArray[np.float64]


def bins(spectra: Sequence[Values]) -> Histogram:
    """Edges of logarithmic bins from the smallest value above zero, or a thousandth of the largest, to the largest.

    Training adds a few values many times those of the bulk: on a linear axis they would press it into a few bins.
    """
    largest = max(float(values.max()) for values in spectra)
    if largest <= 0:
        return np.geomspace(0.1, 1.0, _BINS + 1)
    smallest = min(float(values[values > ZERO * largest].min(initial=largest)) for values in spectra)
    return np.geomspace(max(smallest, largest / 1000) / 1.02, largest * 1.02, _BINS + 1)


def histogram(spectra: Sequence[Values], edges: npt.NDArray[np.float64]) -> Histogram:
    """Number of singular values in each bin, a run: values that are zero but for rounding are left out.

    A low-rank weight has exact zeros by construction: they say nothing about what was learned, and their bar would
    flatten all others. A value above zero but outside the edges counts in the nearest bin.
    """
    kept = np.concatenate([values[values > ZERO * values.max()] for values in spectra])
    return np.histogram(kept.clip(edges[0], edges[-1]), edges)[0] / len(spectra)


def check_path(path: Path) -> None:
    """Refuses a place where no picture can be written, before there is anything to draw.

    Raises:
        InputError: another suffix, no such folder, or a folder of that name.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: the name must end in .png or .svg")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: no such folder")
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder")


def draw(runs: Sequence[RunSpectra], path: Path, unfolding: str = MATRIX) -> None:
    """Draws the histograms; the file appears whole or not at all.

    Each panel is a variant. Its ridges go up with training, a moment each, all to one scale; the first moment's outline
    is repeated over every later one.

    Args:
        runs: at least one.
        path: .png or .svg.
        unfolding: whose singular values (see `tensorrl.trial.spectra.Spectrum`).

    Raises:
        InputError: see `check_path`; a run lacks the unfolding; or the file cannot be written.
    """
    check_path(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    pooled = pool(runs, unfolding)
    edges = bins([values for moments in pooled.values() for spectra in moments.values() for values in spectra])
    columns = min(_COLUMNS, len(pooled))
    rows = math.ceil(len(pooled) / columns)
    tallest = max(len(moments) for moments in pooled.values())
    size = (max(4.6 * columns, 6.4), (1.6 + 0.34 * max(tallest, 6)) * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (label, moments) in zip(grid.flat, pooled.items(), strict=False):
        _panel(axes, label, moments, edges)
    for axes in list(grid.flat)[len(pooled) :]:
        axes.set_visible(False)
    games = ", ".join(sorted({run.game for run in runs}))
    layer = "value stream's hidden layer" + ("" if unfolding == MATRIX else f", unfolding {unfolding}")
    figure.suptitle(f"Singular values of the {layer} during training ({games})", fontsize=11)
    for axes in grid[-1]:
        # Not a label of the whole figure: the legend would lie over it.
        axes.set_xlabel("singular value σ of W  (σ² are the eigenvalues of W Wᵀ)", fontsize=9)
    figure.supylabel("agent steps", fontsize=10)
    legend = [
        Patch(color="0.6", label="values a bin and run, to one scale in each panel"),
        Line2D([], [], color=_INITIAL, linewidth=1, label="at the first moment"),
    ]
    figure.legend(handles=legend, loc="outside lower right", ncols=2, fontsize=7, frameon=False)
    try:
        with (
            files.replacing(path, sync=False, keep_suffix=True) as draft,
            rc_context({"svg.hashsalt": "tensorrl", "svg.fonttype": "none"}),
        ):
            figure.savefig(draft, dpi=150, metadata=_undated(path))
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror or error})") from None


def _panel(axes: Axes, label: str, moments: Mapping[int, Sequence[Values]], edges: Histogram) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    ridges = {steps: histogram(spectra, edges) for steps, spectra in moments.items()}
    highest = max(float(ridge.max()) for ridge in ridges.values()) or 1.0
    x, (first, *_) = np.repeat(edges, 2)[1:-1], ridges.values()
    shades = colormaps["viridis"](np.linspace(0.15, 0.9, max(len(ridges), 2)))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    for level, ridge in enumerate(ridges.values()):
        # Later moments lie behind: the ridges rise, and a low front one must not hide under a high one behind it.
        order = 2 + len(ridges) - level
        outline = level + np.repeat(ridge, 2) * (_OVERLAP / highest)
        axes.fill_between(x, level, outline, color=shades[level], linewidth=0, zorder=order)
        axes.plot(x, outline, color="white", linewidth=0.7, zorder=order)
        if level:
            initial = level + np.repeat(first, 2) * (_OVERLAP / highest)
            axes.plot(x, initial, color=_INITIAL, linewidth=0.7, zorder=order)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.1, len(ridges) - 1 + _OVERLAP + 0.25)
    axes.set_yticks(range(len(ridges)), [f"{steps:,}" for steps in ridges], fontsize=7)
    axes.tick_params(axis="x", labelsize=8, labelbottom=True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("\n".join([*textwrap.wrap(label, 60), _caption(moments)]), fontsize=9)


def _caption(moments: Mapping[int, Sequence[Values]]) -> str:
    *_, last = moments.values()
    size = max(len(values) for values in last)
    nonzero = max(int((values > ZERO * values.max()).sum()) for values in last)
    runs = max(len(spectra) for spectra in moments.values())
    return f"{runs} run{'s' if runs > 1 else ''}, {nonzero} of {size} values above zero"


def _undated(path: Path) -> dict[str, Any]:
    # The same spectra give the same bytes.
    return {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
