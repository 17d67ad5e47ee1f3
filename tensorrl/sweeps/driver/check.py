"""`tensorrl sweep --check`: what a sweep is, what is left of it, and what that takes, before anything runs."""

from __future__ import annotations

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
from tensorrl.trial.cell import cell_status


def check_sweep(
    spec: SweepSpec, store: Path, *, only: str | None = None, address: str | None = None, remote: str | None = None
) -> dict[str, Any]:
    """Returns what is left of a sweep and what it takes, as `estimate` does, for the cells that match `only`.

    Args:
        spec: the sweep.
        store: the folder of cells; it need not exist.
        only: a pattern for `<game>-<variant>-seed<k>`.
        remote: URI of where machines without a shared folder keep the store; it is only read.
        address: of a running Ray, whose machines are reckoned with; None takes this machine.

    Raises:
        InputError: the store is of another version, the remote cannot be read, no cell matches, no Ray answers at the
            address, or no machine fits a trial.
    """
    check_address(address)
    check_version(store)
    chosen = select(cells(spec), only)
    if remote:
        # Aside: a check writes nothing into the store.
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
    # A cluster that grows from zero has none yet: what fits is seen when the first machine is there.
    if not address or train_on(there):
        fit(spec, there)
    return {**estimate(spec, rows, there), "store": str(store)}
