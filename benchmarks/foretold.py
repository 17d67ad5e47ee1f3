"""The table of estimates in docs/results.md: what `tensorrl sweep --check` said of cells before they began."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from tensorrl.analysis.provenance import elapsed_seconds, finished_at
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING
from tensorrl.sweeps.driver.estimate import Machine, estimate
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial.cell import CellStatus

SWEEP_FILES = Path(__file__).parents[1] / "tune_jobs"
_AIM = 0.3
"""How far off an estimate may be."""


def table(record: SweepRecord) -> Table | None:
    """Estimates by agent beside what the cells took; None for a sweep without a file in tune_jobs/."""
    rows = []
    for label, told in _told(record).items():
        took = [seconds for cell, _, _ in told if (seconds := elapsed_seconds(cell))]
        columns = ([one for _, one, _ in told], [busy for _, _, busy in told], took)
        shares = [one / busy - 1 for _, one, busy in told]
        rows.append([label, *(_minutes(each) for each in columns), _off(shares), _within(shares)])
    if not rows:
        return None
    return Table(
        "estimates",
        "Whole trials, minutes: what `tensorrl sweep --check` says of a cell before it begins, and what it takes",
        ["Agent", "Foretold", "Processor time", "Wall-clock", "Off by, lowest to highest", f"Within {_AIM:.0%}"],
        rows,
        notes=[
            "Medians. `--check` foretells the time on a core of the cell's own, by the cells that were finished when "
            "it began, else by the table that comes with the package. Processor time is what the cell needed of a "
            "core; it grows where more runs than there are cores share caches. Wall-clock time also has the waiting "
            "for a core."
        ],
    )


def within(record: SweepRecord) -> str:
    """For how many cells the estimate was as near as it should be, "41 of 50"."""
    return _within([one / busy - 1 for told in _told(record).values() for _, one, busy in told])


def _told(record: SweepRecord) -> dict[str, list[tuple[CellStatus, float, float]]]:
    """Finished cells by agent, with the seconds foretold and the processor time of each."""
    file = SWEEP_FILES / f"{record.name}.yaml"
    if not file.exists():
        return {}
    spec, found = load_sweep(file), {}
    for label in record.labels:
        own = [cell for cell in record.of(label) if cell.state == "finished" and not cell.axes]
        told = [(cell, _foretold(spec, record, cell), cell.result.get("processor_seconds")) for cell in own]
        if known := [(cell, one, float(busy)) for cell, one, busy in told if one and busy]:
            found[label] = known
    return found


def _foretold(spec: SweepSpec, record: SweepRecord, cell: CellStatus) -> float | None:
    end, took = finished_at(cell), elapsed_seconds(cell)
    if end is None or took is None:
        return None
    known = [row for row in record.cells if row.state == "finished" and _before(row, end - timedelta(seconds=took))]
    one = replace(cell, state="waiting", agent_steps=0, result={})
    found = estimate(spec, [*known, one], [Machine("one", 1, 0, 2**40)])
    return next(each["seconds"] for each in found["variants"] if each["variant"] == cell.variant)


def _before(row: CellStatus, moment: datetime) -> bool:
    end = finished_at(row)
    return end is not None and end <= moment


def _minutes(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) / 60:.1f}" if seconds else NOTHING


def _off(shares: Sequence[float]) -> str:
    return f"{min(shares):+.0%} to {max(shares):+.0%}".replace("-", "−")


def _within(shares: Sequence[float]) -> str:
    return f"{sum(abs(share) <= _AIM for share in shares)} of {len(shares)}"
