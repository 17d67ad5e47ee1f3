"""Aggregates of human-normalised scores with stratified bootstrap intervals (Agarwal et al. 2021).

Scores are arrays (runs, games). A resample draws runs with replacement, for each game on its own, so that every game
keeps its weight. Draws are those of the library rliable after `numpy.random.seed(seed)`, so intervals equal its, to
rounding; `docs/decisions/0010-rliables-statistics-without-rliable.md` says why it is not called itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats

Scores = npt.NDArray[np.float64]
Statistic = Callable[[Scores], Scores]

REPETITIONS = 10_000
"""Resamples behind an interval."""
LEVEL = 0.95
"""Share of resamples that an interval holds."""
SEED = 0
_AT_ONCE = 4_000_000


class Estimate(NamedTuple):
    """A figure and its 95 % interval (percentiles of the resamples)."""

    value: float
    low: float
    high: float


def iqm(scores: Scores) -> Scores:
    """Interquartile mean: of the middle half of all runs and games. Takes (…, runs, games), returns (…)."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(scipy.stats.trim_mean(flat, 0.25, axis=-1))


def mean(scores: Scores) -> Scores:
    """Mean over games of the means over runs. Takes (…, runs, games), returns (…)."""
    return np.asarray(scores.mean(-2).mean(-1))


def median(scores: Scores) -> Scores:
    """Median over games of the means over runs. Takes (…, runs, games), returns (…)."""
    return np.asarray(np.median(scores.mean(-2), axis=-1))


def optimality_gap(scores: Scores) -> Scores:
    """How far below 1, the human tester, on average; scores above 1 count as 1. Takes (…, runs, games), returns (…)."""
    return np.asarray(1.0 - np.minimum(scores, 1.0).mean((-2, -1)))


AGGREGATES: Mapping[str, Statistic] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def improvement(ours: Scores, theirs: Scores) -> Scores:
    """P(a run of ours is above a run of theirs on the same game), ties half, mean over games (Mann-Whitney's U).

    Args:
        ours: (…, runs, games).
        theirs: (…, runs, games), as many games.

    Returns:
        (…), 0 to 1; 0.5 means neither.
    """
    # A run at a time: all differences at once would be an array of runs² × games a resample.
    wins = sum(np.sign(ours[..., run, None, :] - theirs).sum((-2, -1)) for run in range(ours.shape[-2]))
    return np.asarray((1.0 + wins / (ours.shape[-2] * theirs.shape[-2] * ours.shape[-1])) / 2)


def ratio_of_means(ours: Scores, theirs: Scores) -> Scores:
    """`mean` of ours over that of theirs: "109 % of data-efficient Rainbow" is 1.09. Shapes as in `improvement`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mean(ours) / mean(theirs))


def profile(scores: Scores, thresholds: Scores) -> Scores:
    """Performance profile: share of runs and games above each threshold. (…, runs, games) becomes (…, thresholds)."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.stack([(flat > threshold).mean(-1) for threshold in thresholds], axis=-1)


def estimate(statistic: Statistic, scores: Scores, *, repetitions: int = REPETITIONS, seed: int = SEED) -> Estimate:
    """A statistic of one agent's scores (runs, games) with its interval."""
    low, high = interval(statistic, scores, repetitions=repetitions, seed=seed)
    return Estimate(float(statistic(scores)), float(low), float(high))


def estimate_pair(
    statistic: Callable[[Scores, Scores], Scores],
    ours: Scores,
    theirs: Scores,
    *,
    repetitions: int = REPETITIONS,
    seed: int = SEED,
) -> Estimate:
    """A statistic of two agents' scores, each (runs, games) and resampled on its own, with its interval."""
    draws = np.random.RandomState(seed)
    values = []
    for count in _blocks(repetitions, ours.size + theirs.size):
        first, second = _resample_pair(ours, theirs, count, draws)
        values.append(statistic(first, second))
    low, high = _percentiles(np.concatenate(values))
    return Estimate(float(statistic(ours, theirs)), float(low), float(high))


def interval(
    statistic: Statistic, scores: Scores, *, repetitions: int = REPETITIONS, seed: int = SEED
) -> tuple[Scores, Scores]:
    """The ends of a statistic's interval, for a number or an array of them (a profile).

    Args:
        statistic: of (…, runs, games).
        scores: (runs, games).
        repetitions: resamples.
        seed: of the resamples.
    """
    draws = np.random.RandomState(seed)
    columns = np.arange(scores.shape[1])
    values = [
        statistic(scores[draws.randint(0, len(scores), size=(count, *scores.shape)), columns])
        for count in _blocks(repetitions, scores.size)
    ]
    low, high = _percentiles(np.concatenate(values))
    return low, high


def _resample_pair(ours: Scores, theirs: Scores, count: int, draws: np.random.RandomState) -> tuple[Scores, Scores]:
    """Draws of both in turn, as rliable makes them."""
    columns = np.arange(ours.shape[1])
    if ours.shape == theirs.shape:
        places = draws.randint(0, len(ours), size=(count, 2, *ours.shape))
        return ours[places[:, 0], columns], theirs[places[:, 1], columns]
    pairs: list[tuple[Scores, Scores]] = [
        (
            ours[draws.randint(0, len(ours), size=ours.shape), columns],
            theirs[draws.randint(0, len(theirs), size=theirs.shape), columns],
        )
        for _ in range(count)
    ]
    return np.stack([first for first, _ in pairs]), np.stack([second for _, second in pairs])


def _blocks(repetitions: int, size: int) -> Sequence[int]:
    """Splits resamples so that no array outgrows some ten megabytes. The draws are the same however it is done."""
    at_once = max(1, _AT_ONCE // size)
    whole, rest = divmod(repetitions, at_once)
    return [*[at_once] * whole, *([rest] if rest else [])]


def _percentiles(values: Scores) -> Scores:
    tail = 100 * (1 - LEVEL) / 2
    return np.asarray(np.percentile(values, [tail, 100 - tail], axis=0))
