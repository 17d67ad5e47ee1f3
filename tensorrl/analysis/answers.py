"""The questions that a sweep is run for, and the answers of its finished cells: differences with intervals, and how
many runs would show more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorrl import games
from tensorrl.analysis import scoreboard, statistics
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import Protocol
from tensorrl.analysis.statistics import Estimate, Scores
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import FEW_RUNS, NO_WIDTH, NOTHING, interval_text

SHARE = 0.1
"""Difference to be told, as a share of the mean of the agent that is compared with."""
# Normal quantiles: a two-sided interval of 95 %, and a power of 80 %.
_CONFIDENCE, _POWER = 1.959964, 0.841621


@dataclass(frozen=True)
class Question:
    """One comparison of two agents.

    Attributes:
        text: the question.
        ours: label of the agent it is about.
        theirs: label of the agent that it is compared with.
    """

    text: str
    ours: str
    theirs: str


QUESTIONS = (
    Question("Does the agent lose by giving up NoisyNet?", "denoised", "rainbow"),
    Question("What do 5x fewer coefficients cost?", "trl-5x", "rainbow"),
    Question("What do 10x fewer coefficients cost?", "trl-10x", "rainbow"),
    Question("Does K-FAC win it back at 5x?", "kfac-trl-5x", "trl-5x"),
    Question("Does K-FAC win it back at 10x?", "kfac-trl-10x", "trl-10x"),
    Question("Do fixed wavelets do for the first convolution?", "scattering", "kfac-trl-10x"),
)


def difference(ours: Scores, theirs: Scores) -> Scores:
    """Mean of ours minus that of theirs, human-normalised. Shapes as in `statistics.improvement`."""
    return statistics.mean(ours) - statistics.mean(theirs)


def runs_to_tell(spreads: Sequence[tuple[float, float]], gap: float) -> int | None:
    """Runs of each of two agents on each game that detect a difference of their means, in four of five tries.

    By the normal approximation: the difference of the means of n runs of G games has the variance Σ (a² + b²) / (n G²).

    Args:
        spreads: standard deviations of a run of each of the two on each game, human-normalised.
        gap: the difference, human-normalised.

    Returns:
        The number, at least 2; None for a difference of 0.
    """
    if not gap:
        return None
    variance = sum(one**2 + other**2 for one, other in spreads) / len(spreads) ** 2
    return max(2, math.ceil((_CONFIDENCE + _POWER) ** 2 * variance / gap**2))


def runs_by_spread(ours: Scores, theirs: Scores) -> int | None:
    """Runs that would tell a difference of `SHARE` of the second agent's mean, by how far these runs differ.

    Args:
        ours: (runs, games), human-normalised, at least two runs.
        theirs: likewise.

    Returns:
        As `runs_to_tell`.
    """
    spreads = list(zip(ours.std(0, ddof=1), theirs.std(0, ddof=1), strict=True))
    return runs_to_tell(spreads, SHARE * abs(float(statistics.mean(theirs))))


def table(record: SweepRecord, protocol: Protocol) -> Table:
    """The answers of a sweep's finished cells to each question about two of its agents."""
    rows = [_row(record, protocol, each) for each in QUESTIONS if record.of(each.ours) and record.of(each.theirs)]
    return Table(
        name=f"answers-{protocol.name}",
        title=f"Differences of human-normalised scores ({protocol.title})",
        columns=[
            "Question", "Agents", "Games × runs", "Mean difference", "P(improvement)", "What it says",
            f"Runs to tell {SHARE:.0%}",
        ],
        rows=rows,
        notes=[
            "Both agents on the games and runs that both have finished; 95 % stratified bootstrap intervals. "
            f"With {FEW_RUNS} runs a game or fewer they are too narrow; {NO_WIDTH} one of no width is no certainty.",
            f"Runs to tell {SHARE:.0%}: of each agent on each game, for a difference of that share of the other's "
            "mean to be seen in four of five such experiments, by the normal approximation. The spread of runs is that "
            "of the finished cells where there are two a game or more (~), else that of 100 published runs of "
            "data-efficient Rainbow for both agents.",
        ],
    )  # fmt: skip


def _row(record: SweepRecord, protocol: Protocol, question: Question) -> list[str]:
    two = SweepRecord(record.name, [*record.of(question.ours), *record.of(question.theirs)])
    block = scoreboard.choose_block(two)
    agents = f"{question.ours}, {question.theirs}"
    if not block or set(block.labels) != {question.ours, question.theirs}:
        return [question.text, agents, "0", NOTHING, NOTHING, "nothing yet", _published_runs(record)]
    scores = scoreboard.normalized(two, block, protocol)
    ours, theirs = scores[question.ours], scores[question.theirs]
    gap = statistics.estimate_pair(difference, ours, theirs)
    better = statistics.estimate_pair(statistics.improvement, ours, theirs)
    runs = _published_runs(record)
    if block.runs > 1:
        wanted = runs_by_spread(ours, theirs)
        runs = NOTHING if wanted is None else f"~{wanted}"
    extent = f"{len(block.games)} × {block.runs}"
    return [question.text, agents, extent, interval_text(gap), interval_text(better), _reading(gap, block.runs), runs]


def _reading(gap: Estimate, runs: int) -> str:
    if runs == 1:
        return "one run a game: no interval"
    if gap.low > 0:
        return "higher"
    return "lower" if gap.high < 0 else "not told apart"


def _published_runs(record: SweepRecord) -> str:
    known = games.published()
    names = [game for game in record.games if game in known]
    if not names:
        return NOTHING

    def share(game: str) -> float:
        about = games.get(game)
        return known[game].der_rliable100_sd / (float(about.human or 0) - float(about.random or 0))

    means = [games.human_normalized(game, known[game].der_rliable100_mean) or 0.0 for game in names]
    wanted = runs_to_tell([(share(game), share(game)) for game in names], SHARE * abs(float(np.mean(means))))
    return NOTHING if wanted is None else str(wanted)
