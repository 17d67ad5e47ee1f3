"""Sweeps: a YAML file becomes a checked grid of cells, which Ray Tune runs with as many at once as fit.

Reports are in `tensorrl.sweeps.store.report`: they take SciPy and Matplotlib, and every trial imports this package.
"""

from tensorrl.sweeps.driver.run import run_sweep
from tensorrl.sweeps.grid.cells import Cell, cells, select
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.store.layout import default_store, entries, find_sweep, store_path
from tensorrl.sweeps.store.status import CellStatus, SweepStatus, sweep_status

__all__ = [
    "Cell",
    "CellStatus",
    "SweepSpec",
    "SweepStatus",
    "cells",
    "default_store",
    "entries",
    "find_sweep",
    "load_sweep",
    "run_sweep",
    "select",
    "store_path",
    "sweep_status",
]
