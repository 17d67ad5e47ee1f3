"""The table of K-FAC's search in docs/kfac.md, from the data in docs/kfac-search, which `tensorrl export` wrote.

`python -m benchmarks.results` puts it there. A row is one set of settings and one length of trials: its scores on each
game, and their share of what `trl-5x` with Adam at data-efficient Rainbow's own rate gains over a random agent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overfitting import excess_of
from tensorrl import games
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING, three_digits
from tensorrl.sweeps.store.cell_file import CellFile
from tensorrl.sweeps.store.exchange import read_export
from tensorrl.trial.settings import Settings
from tensorrl.trial.variants import get

_BASE = "trl-5x"
_Row = tuple[str, int]


def table(data: Path) -> Table:
    """Rows of settings by games, the best mean share first."""
    rows: dict[_Row, dict[str, list[CellFile]]] = {}
    for cell in read_export(data)[0].values():
        row = label(cell.trial["settings"]), int(cell.trial["steps"])
        rows.setdefault(row, {}).setdefault(str(cell.trial["game"]), []).append(cell)
    played = sorted({game for each in rows.values() for game in each})
    shares = {row: _share(each, rows.get((label({}), row[1]), {})) for row, each in rows.items()}
    order = sorted(rows, key=lambda row: (-row[1], -(shares[row] or (-9e9, 0))[0], row[0]))
    return Table(
        "kfac-search",
        "The search: mean of the games at the end / mean of the nine games of the paper's protocol",
        [
            *("Settings", "Agent steps", "Updates", *(games.get(game).title for game in played)),
            *("Share of Adam's gain", "Over-fitting"),
        ],
        [[*_cells(row, rows[row], played), _percent(shares[row]), _excess(rows[row], played)] for row in order],
        notes=[
            f"Settings: changes to `{_BASE}` (Adam at 0.0001); `kfac_curvature_interval` is 25 in all of K-FAC's. "
            "(n): the mean of n seeds, else one seed. Share: (score − random) / (Adam's mean score − random), by the "
            "mean of all games that a trial played, then the mean over games; ±: its standard error, by how far "
            "seeds of one game differ. Over-fitting: loss on transitions not sampled yet − on sampled ones beside "
            "them, last 40 % of the agent steps: the mean over the row's games (each game, in the columns' order).",
        ],
    )


def label(settings: Mapping[str, Any]) -> str:
    """What settings change about `trl-5x`, in one line; the default rate is left to plain Adam."""
    plain = {name: field.default for name, field in Settings.model_fields.items()} | dict(get(_BASE).changes)
    left_out = {"optimizer", "kfac_curvature_interval", "final_episodes"}
    changed = {
        name: value
        for name, value in settings.items()
        if name not in left_out and (value or None) != (plain.get(name) or None)
    }
    kfac = settings.get("optimizer", "adam") == "kfac"
    if kfac:
        changed = {"learning_rate": settings["learning_rate"], **changed}
    shown = (name if value is True else f"{name}={value:g}" for name, value in changed.items())
    return ", ".join(["K-FAC" if kfac else "Adam", *(each.removeprefix("kfac_") for each in shown)])


def _scores(cell: CellFile) -> list[float]:
    return [*cell.result["score_episodes"], *cell.result["final_episodes"]]


def _share(
    cells: Mapping[str, Sequence[CellFile]], adam: Mapping[str, Sequence[CellFile]]
) -> tuple[float, float] | None:
    """The mean over games of a row's gain over Adam's, and its standard error (NaN where a game has one seed)."""
    shares, variance = [], 0.0
    for game in sorted(set(cells) & set(adam)):
        random = games.get(game).random or 0.0
        unit = statistics.fmean(_mean(cell) for cell in adam[game]) - random
        own = [(_mean(cell) - random) / unit for cell in cells[game]]
        shares.append(statistics.fmean(own))
        variance += statistics.variance(own) / len(own) if len(own) > 1 else math.nan
    return (statistics.fmean(shares), math.sqrt(variance) / len(shares)) if shares else None


def _excess(cells: Mapping[str, Sequence[CellFile]], played: Sequence[str]) -> str:
    """The mean over games of the excess loss of trials that report it, and each game's."""
    found = [[_excess_of(cell) for cell in cells.get(game, ())] for game in played]
    known = [[value for value in each if value is not None] for each in found]
    means = [statistics.fmean(each) if each else None for each in known]
    if not any(known):
        return NOTHING
    overall = statistics.fmean(mean for mean in means if mean is not None)
    return f"{three_digits(overall)} ({' / '.join(NOTHING if mean is None else three_digits(mean) for mean in means)})"


def _excess_of(cell: CellFile) -> float | None:
    lines = [dict(zip(cell.columns, row, strict=False)) for row in cell.progress]
    return excess_of(lines, int(cell.trial["steps"]))


def _mean(cell: CellFile) -> float:
    return statistics.fmean(_scores(cell))


def _cells(row: _Row, cells: Mapping[str, Sequence[CellFile]], played: Sequence[str]) -> list[str]:
    updates = next(iter(cells.values()))[0].result["updates"]
    return [row[0], f"{row[1]:,}", f"{updates:,}", *(_game(cells.get(game, ())) for game in played)]


def _game(cells: Sequence[CellFile]) -> str:
    if not cells:
        return NOTHING
    final, paper = (statistics.fmean(cell.result[name] for cell in cells) for name in ("final_score", "score"))
    return f"{final:,.0f} / {paper:,.0f}" + (f" ({len(cells)})" if len(cells) > 1 else "")


def _percent(share: tuple[float, float] | None) -> str:
    if share is None:
        return NOTHING
    mean, error = share
    return (f"{mean:.0%}" if math.isnan(error) else f"{mean:.0%} ± {error:.0%}").replace("-", "−")
