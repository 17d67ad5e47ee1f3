"""The table of over-fitting in docs/results.md: what agents have not sampled beside what they have.

Every report of a trial has `loss_held_out`, the loss on transitions that no update has sampled yet, and
`loss_beside_held_out`, that on the sampled transition next to each of those.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorrl import games
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING, three_digits
from tensorrl.trial.folder import read_progress

_BEGIN = 0.6
"""Share of the agent steps before the reports that count."""


def table(record: SweepRecord) -> Table | None:
    """Excess losses of a sweep's finished cells by agent and game; None where no cell has reported any."""
    rows, known = [], False
    for label in record.labels:
        done = [cell for cell in record.of(label) if cell.state == "finished"]
        found = [
            [excess(cell.folder, int(cell.trial["steps"])) for cell in done if cell.game == game]
            for game in record.games
        ]
        known |= any(each is not None for seeds in found for each in seeds)
        rows.append([label, *map(_text, found)])
    if not known:
        return None
    return Table(
        "over-fitting",
        "Over-fitting: loss on transitions not sampled yet − on sampled ones beside them, last 40 % of the agent steps",
        ["Agent", *(games.get(game).title for game in record.games)],
        rows,
        notes=["Mean over reports, then over n seeds (n). –: no finished cell that reports it."],
    )


def excess(run: Path, steps: int) -> float | None:
    """Mean excess of the held-out loss over that beside it, in the reports after 60 % of a run's agent steps."""
    return excess_of(read_progress(run), steps)


def excess_of(lines: Sequence[Mapping[str, Any]], steps: int) -> float | None:
    """Returns `excess` of the lines of progress of a run."""
    late = [line for line in lines if line["agent_steps"] > _BEGIN * steps]
    pairs = [(line.get("loss_held_out"), line.get("loss_beside_held_out")) for line in late]
    found = [held_out - beside for held_out, beside in pairs if held_out is not None and beside is not None]
    return statistics.fmean(found) if found else None


def _text(seeds: Sequence[float | None]) -> str:
    found = [each for each in seeds if each is not None]
    return f"{three_digits(statistics.fmean(found))} ({len(found)})" if found else NOTHING
