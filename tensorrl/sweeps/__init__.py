"""Sweeps: a YAML file becomes a checked grid of trials, which Ray Tune runs with as many at once as fit."""

from tensorrl.sweeps.run import run_sweep
from tensorrl.sweeps.spec import SweepSpec, cell_folder, cells, load_sweep
from tensorrl.sweeps.status import CellStatus, sweep_status

__all__ = ["CellStatus", "SweepSpec", "cell_folder", "cells", "load_sweep", "run_sweep", "sweep_status"]
