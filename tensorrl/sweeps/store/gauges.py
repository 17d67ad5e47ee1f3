"""A sweep's gauges, next to Ray's own: the driver sets them and Prometheus reads them from Ray's metrics ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from tensorrl.sweeps.store.status import steps_per_second
from tensorrl.trial.cell import CellStatus, State

CELLS = "tensorrl_sweep_cells"
"""Cells of a sweep, tagged `sweep` and `state`. Ray adds the prefix `ray_` to this name and the next."""
STEPS_PER_SECOND = "tensorrl_sweep_steps_per_second"
"""Agent steps per second of all running cells together, tagged `sweep`."""


class SweepGauges:
    """The gauges of one sweep. Ray must be connected.

    Args:
        name: the sweep's name.
    """

    def __init__(self, name: str) -> None:
        from ray.util.metrics import Gauge

        self._name = name
        self._cells = Gauge(CELLS, "Cells of the sweep by state.", tag_keys=("sweep", "state"))
        self._speed = Gauge(STEPS_PER_SECOND, "Agent steps a second of all running cells.", tag_keys=("sweep",))

    def show(self, rows: Sequence[CellStatus]) -> None:
        """Sets the gauges from the cells' statuses; a state without cells is set to 0."""
        for state in get_args(State):
            count = sum(row.state == state for row in rows)
            self._cells.set(count, tags={"sweep": self._name, "state": state})
        self._speed.set(steps_per_second(rows), tags={"sweep": self._name})
