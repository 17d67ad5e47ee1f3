"""Numbers as people read them in tables: three digits, thousands apart, one minus sign, intervals always shown."""

from __future__ import annotations

from tensorrl.analysis.statistics import Estimate

NOTHING = "–"
NO_WIDTH = "†"
"""Marks an interval of no width."""
FEW_RUNS = 3
"""Runs of a game up to which resampling says little."""


def three_digits(value: float) -> str:
    """Three digits behind the point, and the minus sign of the rest of the page; no "−0.000"."""
    text = f"{value:.3f}"
    return ("0.000" if text == "-0.000" else text).replace("-", "−")


def number(value: float, *, like: float | None = None) -> str:
    """A score: a digit behind the point below 1,000, as in papers; a spread has as many as the mean it is `like`."""
    text = f"{value:,.1f}" if abs(value if like is None else like) < 1_000 else f"{value:,.0f}"
    return text.replace("-", "−")


def interval_text(estimate: Estimate) -> str:
    """A figure and its interval in brackets; an interval of no width is marked, for it is no certainty."""
    low, high = three_digits(estimate.low), three_digits(estimate.high)
    return f"{three_digits(estimate.value)} [{low}, {high}]{NO_WIDTH if low == high else ''}"
