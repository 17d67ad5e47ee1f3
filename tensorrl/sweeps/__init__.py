"""Sweeps: a YAML file becomes a checked grid of cells, which Ray Tune runs with as many at once as fit.

Reports are not imported here but from `tensorrl.sweeps.store.report`: they need SciPy and Matplotlib, and every trial
imports this package.
"""

from tensorrl.sweeps.driver.run import run_sweep
from tensorrl.sweeps.grid.cells import PlannedCell, cells, select
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.store.layout import default_store, find_sweep, locate, store_path
from tensorrl.sweeps.store.status import SweepStatus, sweep_status
from tensorrl.trial.cell import Cell, CellStatus

__all__ = [
    "Cell",
    "CellStatus",
    "PlannedCell",
    "SweepSpec",
    "SweepStatus",
    "cells",
    "default_store",
    "find_sweep",
    "load_sweep",
    "locate",
    "run_sweep",
    "select",
    "store_path",
    "sweep_status",
]
