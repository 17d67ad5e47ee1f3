"""The table of K-FAC's search in docs/kfac.md, from the data in docs/kfac-search, which `tensorrl export` wrote.

`python -m benchmarks.results` puts it there. A row is one set of settings and one length of trials: its scores on each
game, and their share of what `trl-5x` with Adam at data-efficient Rainbow's own rate gains over a random agent.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorrl import games
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING
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
    order = sorted(rows, key=lambda row: (-row[1], -(shares[row] or -9e9), row[0]))
    return Table(
        "kfac-search",
        "The search: mean of the games at the end / mean of the nine games of the paper's protocol",
        ["Settings", "Agent steps", "Updates", *(games.get(game).title for game in played), "Share of Adam's gain"],
        [[*_cells(row, rows[row], played), _percent(shares[row])] for row in order],
        notes=[
            f"Settings: changes to `{_BASE}` (Adam at 0.0001); `kfac_curvature_interval` is 25 in all of K-FAC's. "
            "(n): the mean of n seeds, else one seed. Share: (score − random) / (Adam's score − random), by the mean "
            "of all games that a trial played, then the mean over games on which both have run.",
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
    if settings.get("optimizer", "adam") == "adam":
        return ", ".join(["Adam", *(f"{name}={value:g}" for name, value in changed.items())])
    changed = {"learning_rate": settings["learning_rate"], **changed}
    shown = (name if value is True else f"{name.removeprefix('kfac_')}={value:g}" for name, value in changed.items())
    return ", ".join(["K-FAC", *(each.removeprefix("kfac_") for each in shown)])


def _scores(cell: CellFile) -> list[float]:
    return [*cell.result["score_episodes"], *cell.result["final_episodes"]]


def _share(cells: Mapping[str, Sequence[CellFile]], adam: Mapping[str, Sequence[CellFile]]) -> float | None:
    def gain(game: str, of: Mapping[str, Sequence[CellFile]]) -> float:
        seeds = {cell.trial["seed"] for cell in cells[game]} & {cell.trial["seed"] for cell in adam[game]}
        found = [statistics.fmean(_scores(cell)) for cell in of[game] if cell.trial["seed"] in seeds]
        return statistics.fmean(found) - (games.get(game).random or 0.0)

    common = [
        game
        for game in cells
        if {cell.trial["seed"] for cell in cells[game]} & {cell.trial["seed"] for cell in adam.get(game, ())}
    ]
    return statistics.fmean(gain(game, cells) / gain(game, adam) for game in common) if common else None


def _cells(row: _Row, cells: Mapping[str, Sequence[CellFile]], played: Sequence[str]) -> list[str]:
    updates = next(iter(cells.values()))[0].result["updates"]
    return [row[0], f"{row[1]:,}", f"{updates:,}", *(_game(cells.get(game, ())) for game in played)]


def _game(cells: Sequence[CellFile]) -> str:
    if not cells:
        return NOTHING
    final, paper = (statistics.fmean(cell.result[name] for cell in cells) for name in ("final_score", "score"))
    return f"{final:,.0f} / {paper:,.0f}" + (f" ({len(cells)})" if len(cells) > 1 else "")


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.0%}".replace("-", "−")
