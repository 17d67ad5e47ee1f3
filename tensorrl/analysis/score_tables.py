"""What the paper's tables lack: aggregates with intervals, comparisons, how every cell stands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tensorrl.analysis import statistics
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import Block, Protocol, Size, baseline
from tensorrl.analysis.statistics import Estimate, Scores
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import FEW_RUNS, NO_WIDTH, NOTHING, interval_text
from tensorrl.trial.cell import CellStatus


def aggregate_estimates(scores: Mapping[str, Scores]) -> dict[str, dict[str, Estimate]]:
    """Every aggregate of every agent, by label, then by the aggregate's name."""
    return {
        label: {name: statistics.estimate(statistic, values) for name, statistic in statistics.AGGREGATES.items()}
        for label, values in scores.items()
    }


def ratio_estimates(scores: Mapping[str, Scores], to: str) -> dict[str, Estimate]:
    """Mean human-normalised score of every other agent over that of `to`, by label.

    Empty where the mean of `to` is not surely above 0, a random agent's: a ratio to it would mean nothing.
    """
    if statistics.estimate(statistics.mean, scores[to]).low <= 0:
        return {}
    return {
        label: statistics.estimate_pair(statistics.ratio_of_means, values, scores[to])
        for label, values in scores.items()
        if label != to
    }


def improvement_estimates(scores: Mapping[str, Scores]) -> dict[tuple[str, str], Estimate]:
    """Probability that a run of the first is above one of the second, for every ordered pair of agents."""
    found = {}
    for one, other in itertools.combinations(scores, 2):
        value, low, high = statistics.estimate_pair(statistics.improvement, scores[one], scores[other])
        # The same resamples seen from the other side.
        found[one, other] = Estimate(value, low, high)
        found[other, one] = Estimate(1 - value, 1 - high, 1 - low)
    return found


def aggregate_table(
    estimates: Mapping[str, Mapping[str, Estimate]],
    ratios: Mapping[str, Estimate],
    size: Mapping[str, Size],
    block: Block,
    protocol: Protocol,
) -> Table:
    """Aggregates of human-normalised scores with their intervals."""
    against = baseline(block)
    rows, records = [], []
    for label, by_name in estimates.items():
        ratio = ratios.get(label)
        rows.append(
            [
                label,
                _coefficients(size[label]),
                f"{size[label].ratio:.2f}",
                *map(interval_text, by_name.values()),
                interval_text(ratio) if ratio else NOTHING,
            ]
        )
        record: dict[str, Any] = {"agent": label, "compression_ratio": size[label].ratio}
        record |= {"coefficients_least": size[label].fewest, "coefficients_most": size[label].most}
        named = {**by_name, **({f"ratio to {against}": ratio} if ratio else {})}
        for name, estimate in named.items():
            key = name.replace(" ", "_").lower()
            record |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
        records.append(record)
    return Table(
        name=f"aggregates-{protocol.name}",
        title=f"Human-normalised scores over {_extent(block)} ({protocol.title})",
        columns=[
            "Agent", "Coefficients", "Compression", "IQM", "Median", "Mean", "Optimality gap", f"Mean ÷ {against}"
        ],
        rows=rows,
        notes=[
            "0 is a random agent, 1 the human tester. In brackets: 95 % stratified bootstrap intervals, runs resampled "
            f"within each game, {statistics.REPETITIONS:,} times.",
            *interval_notes(block),
        ],
        records=records,
    )  # fmt: skip


def improvement_table(estimates: Mapping[tuple[str, str], Estimate], block: Block, protocol: Protocol) -> Table:
    """Probability of improvement of each agent (row) over each other (column)."""
    return Table(
        name=f"improvement-{protocol.name}",
        title=f"Probability that a run of the row's agent scores above one of the column's ({protocol.title})",
        columns=["Agent", *block.labels],
        rows=[
            [one, *("" if one == other else interval_text(estimates[one, other]) for other in block.labels)]
            for one in block.labels
        ],
        notes=[
            f"Mean over games of {_extent(block)}; 0.5: neither is better. 95 % stratified bootstrap intervals.",
            *interval_notes(block),
        ],
        records=[
            {"agent": one, "over": other, "probability": each.value, "low": each.low, "high": each.high}
            for (one, other), each in estimates.items()
        ],
    )


def open_cells_table(record: SweepRecord) -> Table | None:
    """The cells without a result, each by name; None where there is none."""
    rows = [
        [
            f"{cell.label} on {cell.game}, seed {cell.seed}",
            cell.state,
            f"{cell.agent_steps:,} of {cell.steps:,}",
            str(cell.failures or ""),
            " | ".join(cell.error),
        ]
        for cell in record.cells
        if cell.state != "finished"
    ]
    if not rows:
        return None
    return Table(
        name="open-cells",
        title=f"{len(rows)} of {len(record.cells)} cells have no result, and no figure counts them",
        columns=["Cell", "State", "Agent steps", "Failures", "Last lines"],
        rows=rows,
    )


def cells_table(record: SweepRecord, protocols: Sequence[Protocol]) -> Table:
    """Every cell and its scores, for analyses of one's own."""

    def row(cell: CellStatus) -> dict[str, Any]:
        return {
            "key": cell.key,
            "game": cell.game,
            "agent": cell.label,
            "variant": cell.variant,
            **{f"axis_{name}": value for name, value in cell.axes.items()},
            "seed": cell.seed,
            "steps": cell.steps,
            "state": cell.state,
            "coefficients": cell.trial.get("coefficients"),
            "compression_ratio": cell.trial.get("compression_ratio"),
            **{protocol.field: cell.result.get(protocol.field) for protocol in protocols},
            "steps_per_second": cell.result.get("steps_per_second"),
            "parameters_sha256": cell.result.get("parameters_sha256"),
        }

    records = [row(cell) for cell in record.cells]
    return Table("cells", "Every cell", list(records[0]), [], records=records)


def interval_notes(block: Block) -> list[str]:
    """What a reader must know of intervals from few runs; nothing where there are more."""
    if block.runs == 1:
        return [
            f"{NO_WIDTH} One run a game: nothing can be resampled, so intervals have no width. No figure is certain."
        ]
    if block.runs <= FEW_RUNS:
        return [
            f"{block.runs} runs a game: resampling sees only these, so intervals are too narrow. {NO_WIDTH} A figure "
            "whose interval has no width, such as [1.000, 1.000], is not certain."
        ]
    return []


def _coefficients(size: Size) -> str:
    return f"{size.fewest:,}" if size.fewest == size.most else f"{size.fewest:,} to {size.most:,}"


def _extent(block: Block) -> str:
    games_text = f"{len(block.games)} game{'s' if len(block.games) > 1 else ''}"
    return f"{games_text} with {block.runs} run{'s' if block.runs > 1 else ''} each"
