"""`tensorrl sweep --check`: shows what is left of a sweep and what it needs, before anything runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tensorrl.sweeps.driver.cluster import check_address, ray_session
from tensorrl.sweeps.driver.estimate import estimate, this_machine
from tensorrl.sweeps.driver.resources import fit, machines, train_on
from tensorrl.sweeps.grid.cells import cells, select
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.remote.driver_side import look
from tensorrl.sweeps.store.layout import check_version, locate
from tensorrl.tracking import require_tensorboard, tracking_uri_for
from tensorrl.tracking.connection import URI_VARIABLE
from tensorrl.trial.cell import cell_status


def check_sweep(
    spec: SweepSpec, store: Path, *, only: str | None = None, address: str | None = None, remote: str | None = None
) -> dict[str, Any]:
    """Returns what is left of a sweep and what it needs, as `estimate` does, for the cells that match `only`.

    Args:
        spec: the sweep.
        store: the folder of cells; it need not exist.
        only: a pattern for `<game>-<variant>-seed<k>`.
        remote: the URI of the remote, if machines share no folder; it is only read.
        address: the address of a running Ray, whose machines the estimate is for; None takes this machine.

    Raises:
        InputError: the store has another version or lies where MLflow cannot keep its record, the remote cannot be
            read, no cell matches, no Ray answers at the address, no machine is large enough for a trial, or the sweep
            asks for TensorBoard and it is not installed.
    """
    check_address(address)
    if spec.tensorboard:
        require_tensorboard()
    check_version(store)
    # Refuses a path where MLflow could not keep the record.
    tracking_uri_for(store / "cell", os.environ.get(URI_VARIABLE) or spec.tracking.uri)
    chosen = select(cells(spec), only)
    if remote:
        # In a temporary folder: a check writes nothing into the store.
        with tempfile.TemporaryDirectory(prefix="tensorrl-check-") as aside:
            look(remote, Path(aside), chosen)
            rows = [cell_status(cell, Path(aside)) for cell in locate(Path(aside), chosen)]
    else:
        rows = [cell_status(cell, store) for cell in locate(store, chosen)]
    if address:
        with ray_session(address):
            there = machines()
    else:
        there = [this_machine()]
    # An autoscaling cluster may have no machine yet; what fits is known once the first one has started.
    if not address or train_on(there):
        fit(spec, there)
    return {**estimate(spec, rows, there), "store": str(store)}
