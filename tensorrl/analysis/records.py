"""A sweep as a report reads it: its cells and their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorrl.trial.cell import CellStatus


@dataclass(frozen=True)
class SweepRecord:
    """A sweep's name and its cells, in its own order.

    Attributes:
        name: of the sweep.
        cells: at least one.
    """

    name: str
    cells: Sequence[CellStatus]

    @property
    def labels(self) -> list[str]:
        """Labels of the agents, in the sweep's order."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def games(self) -> list[str]:
        """Names of the games, in the sweep's order."""
        return list(dict.fromkeys(cell.game for cell in self.cells))

    @property
    def synthetic(self) -> bool:
        """Whether a cell's files say that no agent was trained for it."""
        return any(cell.trial.get("synthetic") for cell in self.cells)

    def of(self, label: str) -> list[CellStatus]:
        """The cells of one agent."""
        return [cell for cell in self.cells if cell.label == label]
