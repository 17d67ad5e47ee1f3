"""Figures of a sweep's scores: aggregates, performance profiles, probability of improvement, score against size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorrl.analysis import statistics
from tensorrl.analysis.scoreboard import FINAL, PAPER, PROTOCOLS, Block, Protocol, Size, baseline
from tensorrl.analysis.statistics import Estimate, Scores
from tensorrl.analysis.style import Look, look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PROFILE_REPETITIONS = 2_000
_PROFILE_POINTS = 201
_BAND = 0.16
_SMALL = 8
_RATIO = " compression="

ByLabel = Mapping[str, Mapping[str, Estimate]]


def draw_aggregates(estimates: Mapping[Protocol, ByLabel], block: Block) -> Figure:
    """Intervals of every aggregate: a panel an aggregate, a row an agent, a mark a protocol.

    Args:
        estimates: by protocol, by label, by aggregate.
        block: what they are of.
    """
    names = list(statistics.AGGREGATES)
    figure = new_figure(11, 1.5 + 0.42 * len(block.labels))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for protocol, shift in ((PAPER, -0.14), (FINAL, 0.14)):
            each = {label: by_name[name] for label, by_name in estimates[protocol].items()}
            _intervals(axes, each, block.labels, shift=shift, filled=protocol is PAPER)
        better = "less is better" if name == "optimality gap" else "more is better"
        axes.set_title(f"{name}\n({better})", fontsize=10)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_xlabel("human-normalised score", fontsize=9)
    _rows(figure.axes[0], block.labels)
    _protocol_legend(figure)
    return figure


def draw_improvement(estimates: Mapping[Protocol, Mapping[tuple[str, str], Estimate]], block: Block) -> Figure:
    """Probability that a run of each agent is above one of the baseline's."""
    against = baseline(block)
    labels = [label for label in block.labels if label != against]
    figure = new_figure(7, 1.5 + 0.42 * len(labels))
    axes = figure.subplots()
    for protocol, shift in ((PAPER, -0.14), (FINAL, 0.14)):
        each = {label: estimates[protocol][label, against] for label in labels}
        _intervals(axes, each, labels, shift=shift, filled=protocol is PAPER, places=block.labels)
    axes.axvline(0.5, color="0.4", linewidth=0.9, linestyle="--")
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_xlabel(f"P(a run is above one of {against}), mean over games; bars: 95 % intervals", fontsize=9)
    _rows(axes, labels)
    _protocol_legend(figure)
    return figure


def draw_profiles(scores: Mapping[Protocol, Mapping[str, Scores]], block: Block, kfac: Sequence[str]) -> Figure:
    """Performance profiles: share of runs and games above each score. A row a protocol, a panel an optimizer.

    Args:
        scores: human-normalised (runs, games), by protocol and label.
        block: what they are of.
        kfac: labels of the agents trained with K-FAC, which have a panel of their own beside the baseline.
    """
    against = baseline(block)
    others = [label for label in block.labels if label not in kfac]
    groups = [others]
    if kfac:
        groups.append([against, *(label for label in block.labels if label in kfac and label != against)])
    figure = new_figure(5.4 * len(groups) + 1.0, 7.4)
    grid = figure.subplots(len(PROTOCOLS), len(groups), squeeze=False, sharex=True, sharey=True)
    highest = max(float(np.quantile(values, 0.98)) for by_label in scores.values() for values in by_label.values())
    thresholds = np.linspace(min(0.0, -0.02 * highest), max(highest, 0.1), _PROFILE_POINTS)
    for row, protocol in zip(grid, PROTOCOLS, strict=True):
        for axes, group in zip(row, groups, strict=True):
            for label in group:
                _profile(axes, label, scores[protocol][label], thresholds, look(label, block.labels.index(label)))
            axes.set_title(protocol.title, fontsize=10)
            axes.set_ylim(0, 1)
            axes.set_xlim(thresholds[0], thresholds[-1])
            axes.grid(color="0.92", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=_SMALL, frameon=False, handlelength=3.6)
    figure.supxlabel("human-normalised score τ", fontsize=10)
    figure.supylabel("share of runs and games above τ; bands: 95 % intervals", fontsize=10)
    return figure


def draw_frontier(
    estimates: Mapping[Protocol, ByLabel],
    size: Mapping[str, Size],
    block: Block,
    reference: str,
    aggregate: str = "IQM",
) -> Figure:
    """An aggregate score against compression ratio, with intervals; a panel a protocol.

    Args:
        estimates: by protocol, by label, by aggregate.
        size: by label.
        block: what the estimates are of.
        reference: whose coefficients ratios divide.
        aggregate: which.
    """
    against = baseline(block)
    figure = new_figure(11, 4.6)
    panels = figure.subplots(1, len(PROTOCOLS), sharey=True, sharex=True)
    at = _spread({label: size[label].ratio for label in block.labels})
    for axes, protocol in zip(panels, PROTOCOLS, strict=True):
        band = estimates[protocol][against][aggregate]
        axes.axhspan(band.low, band.high, color="0.93", zorder=0)
        axes.axhline(band.value, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
        for series in _series(block.labels):
            line = [(at[label], estimates[protocol][label][aggregate].value) for label in series]
            if len(line) > 1:
                axes.plot(*zip(*sorted(line), strict=True), color="0.75", linewidth=1, zorder=1)
        for place, label in enumerate(block.labels):
            # One look for all ratios of a variant: the axis tells them apart.
            variant = label.partition(_RATIO)[0]
            each, seen = estimates[protocol][label][aggregate], look(variant, place)
            axes.errorbar(
                at[label], each.value, [[each.value - each.low], [each.high - each.value]],
                color=seen.colour, marker=seen.mark, markersize=7, capsize=3, linestyle="none", label=variant, zorder=3,
            )  # fmt: skip
        axes.set_xscale("log")
        _ratio_ticks(axes, list(at.values()))
        axes.set_title(protocol.title, fontsize=10)
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{aggregate} of human-normalised scores", fontsize=9)
    figure.supxlabel(
        f"compression ratio: coefficients of {reference} ÷ the agent's (agents of one ratio are drawn side by side); "
        f"band: {against}'s 95 % interval",
        fontsize=9,
    )
    handles, labels = panels[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(list(once.values()), list(once), loc="outside right upper", fontsize=_SMALL, frameon=False)
    return figure


def _intervals(
    axes: Axes,
    estimates: Mapping[str, Estimate],
    labels: Sequence[str],
    *,
    shift: float,
    filled: bool,
    places: Sequence[str] = (),
) -> None:
    for row, label in enumerate(labels):
        each, seen = estimates[label], look(label, (places or labels).index(label))
        axes.plot([each.low, each.high], [row + shift] * 2, color=seen.colour, linewidth=2.6, solid_capstyle="butt")
        axes.plot(
            each.value, row + shift, marker=seen.mark, color=seen.colour, markersize=6.5,
            markerfacecolor=seen.colour if filled else "white", markeredgewidth=1.2,
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _protocol_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color="0.2", marker="o", linewidth=2.6, markerfacecolor=face, label=protocol.title)
        for protocol, face in ((PAPER, "0.2"), (FINAL, "white"))
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, fontsize=_SMALL, frameon=False)


def _profile(axes: Axes, label: str, scores: Scores, thresholds: Scores, seen: Look) -> None:
    low, high = statistics.interval(
        lambda each: statistics.profile(each, thresholds), scores, repetitions=_PROFILE_REPETITIONS
    )
    axes.fill_between(thresholds, low, high, color=seen.colour, alpha=_BAND, linewidth=0)
    axes.plot(
        thresholds, statistics.profile(scores, thresholds), color=seen.colour, linestyle=seen.dashes, linewidth=1.7,
        label=label,
    )  # fmt: skip


def _spread(ratios: Mapping[str, float]) -> dict[str, float]:
    """Moves agents of almost one ratio apart, by factors, so that their bars do not hide each other."""
    groups: list[list[str]] = []
    for label in sorted(ratios, key=lambda label: ratios[label]):
        if groups and ratios[label] < 1.06 * ratios[groups[-1][0]]:
            groups[-1].append(label)
        else:
            groups.append([label])
    return {
        label: ratios[label] * 1.05 ** (place - (len(group) - 1) / 2)
        for group in groups
        for place, label in enumerate(group)
    }


def _series(labels: Sequence[str]) -> list[list[str]]:
    """Agents that differ in compression alone, each series to be joined by a line."""
    series: dict[str, list[str]] = {}
    for label in labels:
        name, mark, _ = label.partition(_RATIO)
        if mark:
            series.setdefault(name, []).append(label)
        elif label.startswith("trl-"):
            series.setdefault("trl-", []).append(label)
        elif label.startswith("kfac-trl-"):
            series.setdefault("kfac-trl-", []).append(label)
    return list(series.values())


def _ratio_ticks(axes: Axes, ratios: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    low, high = min(ratios) / 1.15, max(ratios) * 1.15
    ticks = [tick for tick in (0.5, 1, 2, 2.5, 5, 10, 20, 40, 80) if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
