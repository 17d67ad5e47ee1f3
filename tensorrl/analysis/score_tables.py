"""The paper's tables 1 and 2 beside published columns, and what the paper lacks: aggregates, comparisons, the standing.

The paper's own columns are not published apart from it and are not shipped; those of the agents it compares with are
(`tensorrl/data/README.md` has their sources).
"""

from __future__ import annotations

import itertools
import statistics as plain
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorrl import games
from tensorrl.analysis import statistics
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import Block, Protocol, Size, baseline, finished
from tensorrl.analysis.statistics import Estimate, Scores
from tensorrl.analysis.table_formats import Table
from tensorrl.trial.cell import CellStatus

NOTHING = "–"


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables.

    Attributes:
        name: of its files.
        title: what it shows.
        published: column of published scores → heading.
        variants: variant → heading.
    """

    name: str
    title: str
    published: Mapping[str, str]
    variants: Mapping[str, str]


TABLES = (
    PaperTable(
        "table1",
        "Table 1: mean episode returns of published agents and of ours, by compression of the dense layers",
        {
            "simple_v1_in_der_paper": "SimPLe (v1)",
            "der_paper": "DER (paper)",
            "der_rliable100_mean": "DER (100 runs)",
        },
        {
            "rainbow": "Rainbow",
            "denoised": "Denoised",
            "trl-2.5x": "TRL 2.5x",
            "trl-5x": "TRL 5x",
            "trl-10x": "TRL 10x",
        },
    ),
    PaperTable(
        "table2",
        "Table 2: mean episode returns of low-rank agents with second-order optimization and scattering",
        {"der_paper": "DER (paper)", "der_rliable100_mean": "DER (100 runs)"},
        {
            "kfac-denoised": "KFAC denoised",
            "kfac-trl-5x": "KFAC + TRL 5x",
            "kfac-trl-10x": "KFAC + TRL 10x",
            "scattering": "Scattering",
        },
    ),
)
_PUBLISHED_NOTE = (
    "Published columns: SimPLe v1 as printed in the paper of data-efficient Rainbow (DER); DER as in its paper; DER "
    "run again 100 times a game by Agarwal et al. (2021). Sources: tensorrl/data/README.md."
)


def paper_table(shape: PaperTable, record: SweepRecord, block: Block, protocol: Protocol) -> Table | None:
    """One of the paper's tables from a sweep's finished cells, or None where the sweep has none of its variants.

    A game's figure is the mean over its finished seeds ± their standard deviation; "(2/3)" says that two of three seeds
    are finished. The last rows take only games on which every compared agent is finished, for every column alike.
    """
    ours = {variant: heading for variant, heading in shape.variants.items() if record.of(variant)}
    if not ours:
        return None
    held = finished(record)
    planned = {(cell.label, cell.game): 0 for cell in record.cells}
    for cell in record.cells:
        planned[cell.label, cell.game] += 1
    published = {column: games.published_column(column) for column in shape.published}
    rows, records = [], []
    means: dict[str, dict[str, float]] = {column: dict(scores) for column, scores in published.items()}
    for game in record.games:
        row, raw = [games.get(game).title], {"game": game}
        for column, scores in published.items():
            row.append(_number(scores[game]) if game in scores else NOTHING)
            raw[column] = str(scores.get(game, ""))
        for variant in ours:
            scored = [float(cell.result[protocol.field]) for cell in held.get((variant, game), ())]
            count = planned.get((variant, game), 0)
            row.append(_mean_text(scored, count))
            raw |= _mean_record(variant, scored, count)
            if scored:
                means.setdefault(variant, {})[game] = plain.fmean(scored)
        rows.append(row)
        records.append(raw)
    columns = [*shape.published, *ours]
    return Table(
        name=f"{shape.name}-{protocol.name}",
        title=f"{shape.title} ({protocol.title})",
        columns=["Game", *shape.published.values(), *ours.values()],
        rows=rows,
        summary=list(_summary(columns, means, block)),
        notes=[_table_note(record, block, protocol), _PUBLISHED_NOTE],
        records=records,
    )


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
            *([] if block.runs > 1 else ["One run a game: nothing can be resampled, so there are no intervals."]),
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
        notes=[f"Mean over games of {_extent(block)}; 0.5 means neither. 95 % stratified bootstrap intervals."],
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
        title=f"{len(rows)} of {len(record.cells)} cells have no result, and count in no figure",
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


def interval_text(estimate: Estimate) -> str:
    """A figure and its interval in brackets, if it has one: from one run a game nothing can be resampled."""
    if estimate.low == estimate.high:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _summary(columns: Sequence[str], means: Mapping[str, Mapping[str, float]], block: Block) -> Iterator[list[str]]:
    if not block:
        return
    names = (("mean", plain.fmean), ("median", plain.median))
    for name, function in names:
        row = [f"{name} human-normalised, {len(block.games)} games"]
        for column in columns:
            scores = means.get(column, {})
            normalized = [games.human_normalized(game, scores[game]) for game in block.games if game in scores]
            values = [value for value in normalized if value is not None]
            row.append(f"{function(values):.3f}" if len(values) == len(block.games) else NOTHING)
        yield row


def _table_note(record: SweepRecord, block: Block, protocol: Protocol) -> str:
    steps = sorted({cell.steps for cell in record.cells})
    after = " or ".join(f"{number:,}" for number in steps)
    return (
        f"A score is the {protocol.meaning}; agents trained for {after} agent steps. Mean over seeds ± standard "
        f"deviation; (n/m): only n of m seeds are finished. Last rows: over the {len(block.games)} of "
        f"{len(record.games)} games on which every compared agent has finished runs."
    )


def _mean_text(scores: Sequence[float], planned: int) -> str:
    if not scores:
        return f"{NOTHING} (0/{planned})" if planned else NOTHING
    mean = plain.fmean(scores)
    spread = f" ± {_number(plain.stdev(scores), like=mean)}" if len(scores) > 1 else ""
    short = f" ({len(scores)}/{planned})" if len(scores) < planned else ""
    return f"{_number(mean)}{spread}{short}"


def _mean_record(variant: str, scores: Sequence[float], planned: int) -> dict[str, str]:
    return {
        variant: str(plain.fmean(scores)) if scores else "",
        f"{variant}_sd": str(plain.stdev(scores)) if len(scores) > 1 else "",
        f"{variant}_runs": str(len(scores)),
        f"{variant}_planned": str(planned),
    }


def _number(value: float, *, like: float | None = None) -> str:
    text = f"{value:,.1f}" if abs(value if like is None else like) < 1_000 else f"{value:,.0f}"
    return text.replace("-", "−")


def _coefficients(size: Size) -> str:
    return f"{size.fewest:,}" if size.fewest == size.most else f"{size.fewest:,} to {size.most:,}"


def _extent(block: Block) -> str:
    games_text = f"{len(block.games)} game{'s' if len(block.games) > 1 else ''}"
    return f"{games_text} with {block.runs} run{'s' if block.runs > 1 else ''} each"
