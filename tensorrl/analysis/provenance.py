"""Where a report's figures come from: when, by which code, on what machine, from which sweep file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tensorrl.analysis.page import Listing
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.table_formats import Table
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import RESULT_FILE, TRIAL_FILE, is_number

_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Origin:
    """What is known about a sweep besides its cells.

    Attributes:
        sweep_file: its text, without addresses; empty where there is none.
        mlflow: address of its cells in MLflow's pages; empty where no server is named.
    """

    sweep_file: str = ""
    mlflow: str = ""


def finished_at(cell: CellStatus) -> datetime | None:
    """When a cell was finished (UTC): the time in its result, else the file's time; None if there is neither."""
    said = cell.result.get("finished_at")
    if isinstance(said, str):
        return datetime.fromisoformat(said)
    try:
        return datetime.fromtimestamp((cell.folder / RESULT_FILE).stat().st_mtime, UTC)
    except OSError:
        return None


def elapsed_seconds(cell: CellStatus) -> float | None:
    """Seconds from a cell's start to its result, evaluation and waiting included; None if that is not known.

    They come from its result, else from the times of its files, unless the files are copies.
    """
    said = cell.result.get("elapsed_seconds")
    if is_number(said):
        return float(said)
    trained = cell.result.get("training_seconds")
    try:
        start, end = ((cell.folder / name).stat().st_mtime for name in (TRIAL_FILE, RESULT_FILE))
    except OSError:
        return None
    return round(end - start, 1) if is_number(trained) and end - start >= trained > 0 else None


def parts(record: SweepRecord, origin: Origin | None) -> Iterator[Table | Listing]:
    """A table of where the finished cells come from, and the sweep file."""
    origin = origin or Origin()
    cells = [cell for cell in record.cells if cell.state == "finished"]
    if not cells:
        return
    rows = [
        ["Finished", _days(cells)],
        ["Commit", _counted(str(cell.trial.get("commit") or _UNKNOWN) for cell in cells)],
        ["Versions", _counted(_listed(cell.trial.get("versions")) for cell in cells)],
        ["Machine", _counted(_machine(cell.trial.get("machine")) for cell in cells)],
        ["Sweep file", f"{record.name}, below" if origin.sweep_file else f"{record.name}, {_UNKNOWN}"],
        ["MLflow", origin.mlflow or "no server named; tensorrl sync sends the cells to one"],
    ]
    yield Table(
        "origin",
        "Where the finished cell comes from" if len(cells) == 1 else f"Where the {len(cells)} finished cells come from",
        ["What", "Which"],
        rows,
    )
    if origin.sweep_file:
        yield Listing(f"The sweep file, every field written out: {record.name}", origin.sweep_file)


def _days(cells: Iterable[CellStatus]) -> str:
    days = sorted({moment.date().isoformat() for cell in cells if (moment := finished_at(cell))})
    if not days:
        return _UNKNOWN
    return f"{days[0]} (UTC)" if len(days) == 1 else f"{days[0]} to {days[-1]} (UTC)"


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} cell{'s' if count > 1 else ''})" for value, count in sorted(counts.items()))


def _listed(values: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, Mapping) else _UNKNOWN


def _machine(values: object) -> str:
    if not isinstance(values, Mapping):
        return _UNKNOWN
    shown = [str(values[name]) for name in ("cpu", "gpu", "system") if values.get(name)]
    if values.get("cores"):
        shown.insert(1, f"{values['cores']} cores")
    return ", ".join(shown)
