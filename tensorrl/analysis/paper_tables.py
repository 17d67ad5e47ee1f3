"""The paper's tables 1 and 2: mean scores beside published columns.

The paper's own columns are not published apart from it and are not shipped; those of the agents it compares with are
(`tensorrl/data/README.md` has their sources).
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tensorrl import games
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import Block, Protocol, finished
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING, number, three_digits


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
_REFERENCE = {"random": "Random", "human": "Human"}
_PUBLISHED_NOTE = (
    "Random, human: what normalises scores. "
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
    published = _published(shape)
    rows, records = [], []
    means: dict[str, dict[str, float]] = {column: dict(scores) for column, scores in published.items()}
    for game in record.games:
        row, raw = [games.get(game).title], {"game": game}
        for column, scores in published.items():
            row.append(number(scores[game]) if game in scores else NOTHING)
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
    columns = [*published, *ours]
    summary = list(_summary(columns, means, block))
    agents = [column for column in columns if column not in _REFERENCE]
    best = {
        (place, columns.index(column) + 1)
        for place, game in enumerate(record.games)
        for column in _highest({agent: means.get(agent, {}).get(game) for agent in agents})
    } | {
        (len(rows) + place, columns.index(column) + 1)
        for place, (_, values) in enumerate(summary)
        for column in _highest({agent: values[agent] for agent in agents})
    }
    return Table(
        name=f"{shape.name}-{protocol.name}",
        title=f"{shape.title} ({protocol.title})",
        columns=["Game", *_REFERENCE.values(), *shape.published.values(), *ours.values()],
        rows=rows,
        summary=[
            [title, *(NOTHING if (value := values[column]) is None else three_digits(value) for column in columns)]
            for title, values in summary
        ],
        notes=[_table_note(record, block, protocol), _PUBLISHED_NOTE],
        records=records,
        best=frozenset(best),
    )


def _published(shape: PaperTable) -> dict[str, dict[str, float]]:
    """Scores by column and game, those of a random agent and of the human tester first."""
    known = games.ALE_GAMES.values()
    return {
        "random": {game.name: game.random for game in known if game.random is not None},
        "human": {game.name: game.human for game in known if game.human is not None},
        **{column: games.published_column(column) for column in shape.published},
    }


def _highest(values: Mapping[str, float | None]) -> list[str]:
    """The agents with the highest value, all of them where they are equal; none where only one has a value."""
    known = {agent: value for agent, value in values.items() if value is not None}
    return [agent for agent, value in known.items() if value == max(known.values())] if len(known) > 1 else []


Summary = tuple[str, dict[str, float | None]]


def _summary(columns: Sequence[str], means: Mapping[str, Mapping[str, float]], block: Block) -> Iterator[Summary]:
    """A title, and a value by column, for each last row: None where a column lacks one of the games."""
    if not block:
        return
    names = (("mean", plain.fmean), ("median", plain.median))
    for name, function in names:
        row: dict[str, float | None] = {}
        for column in columns:
            scores = means.get(column, {})
            normalized = [games.human_normalized(game, scores[game]) for game in block.games if game in scores]
            values = [value for value in normalized if value is not None]
            row[column] = function(values) if len(values) == len(block.games) else None
        yield f"{name} human-normalised, {len(block.games)} games", row


def _table_note(record: SweepRecord, block: Block, protocol: Protocol) -> str:
    steps = sorted({cell.steps for cell in record.cells})
    after = " or ".join(f"{number:,}" for number in steps)
    return (
        f"A score is the {protocol.meaning}; agents trained for {after} agent steps. Mean over seeds ± standard "
        f"deviation; (n/m): only n of m seeds are finished. Last rows: over the {len(block.games)} of "
        f"{len(record.games)} games on which every compared agent has finished runs. Marked: the highest of a row, "
        "published agents among them."
    )


def _mean_text(scores: Sequence[float], planned: int) -> str:
    if not scores:
        return f"{NOTHING} (0/{planned})" if planned else NOTHING
    mean = plain.fmean(scores)
    spread = f" ± {number(plain.stdev(scores), like=mean)}" if len(scores) > 1 else ""
    short = f" ({len(scores)}/{planned})" if len(scores) < planned else ""
    return f"{number(mean)}{spread}{short}"


def _mean_record(variant: str, scores: Sequence[float], planned: int) -> dict[str, str]:
    return {
        variant: str(plain.fmean(scores)) if scores else "",
        f"{variant}_sd": str(plain.stdev(scores)) if len(scores) > 1 else "",
        f"{variant}_runs": str(len(scores)),
        f"{variant}_planned": str(planned),
    }
