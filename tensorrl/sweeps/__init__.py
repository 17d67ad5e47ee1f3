"""Sweeps: a YAML file becomes a checked grid of cells, which Ray Tune runs with as many at once as fit.

Reports are in `tensorrl.sweeps.record`, which takes SciPy and Matplotlib: every trial's process imports this package.
"""

from tensorrl.sweeps.files import load_sweep
from tensorrl.sweeps.grid import Cell, cells, select
from tensorrl.sweeps.run import run_sweep
from tensorrl.sweeps.spec import SweepSpec
from tensorrl.sweeps.status import CellStatus, SweepStatus, sweep_status
from tensorrl.sweeps.store import default_store, entries, find_sweep, store_path

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
