"""Checks whether a cluster can run a sweep. It runs inside the cluster, before `tensorrl submit` starts the sweep."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

from tensorrl.errors import InputError
from tensorrl.files import file_lock
from tensorrl.sweeps.driver.check import check_sweep
from tensorrl.sweeps.driver.cluster import ray_session
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.remote.driver_side import join_remote
from tensorrl.sweeps.remote.files import REMOTE_VARIABLE, Remote
from tensorrl.sweeps.store.layout import LOCKS_FOLDER, open_store, store_path
from tensorrl.tracking.connection import connect, sqlite_path, tracking_uri_for
from tensorrl.tracking.record import one_line
from tensorrl.uris import redact_uri

MARK = "TENSORRL-PROBE "
"""The start of the line in a job's log that holds the probe's findings."""
_ANSWER_SECONDS = 120.0


def probe(spec: SweepSpec, store: Path, remote: str | None = None) -> dict[str, Any]:
    """Returns the findings of `tensorrl sweep --check` for this cluster, and what its machines cannot reach.

    Args:
        spec: the sweep.
        store: the store's absolute path, the same on every machine.
        remote: the remote of machines without a shared folder.

    Returns:
        The values of `check_sweep`, and: `mlflow`, the URI of the record; `problems`, one line for each thing that a
        machine cannot reach; `free`, the resources that are free in Ray now.

    Raises:
        InputError: the sweep cannot run here at all.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    open_store(store)
    uri = tracking_uri_for(store / "cell", os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri)
    there = join_remote(remote, store, spec.name, uri).remote if remote else None
    with ray_session("auto"):
        found = check_sweep(spec, store, address="auto", remote=remote)
        token = f"probe-{uuid.uuid4().hex}"
        mark = store / LOCKS_FOLDER / token
        mark.touch()
        if there is not None:
            there.write(f"{LOCKS_FOLDER}/{token}", b"asked")
        look: Any = ray.remote(num_cpus=0, max_retries=0)(look_from_here)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)).remote(
                str(store), token, uri, remote
            ): str(node["NodeManagerHostname"])
            for node in ray.nodes()
            if node["Alive"]
        }
        try:
            answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
            problems = [line for answer in answered for line in _answer(answer, asked[answer])]
        finally:
            mark.unlink(missing_ok=True)
            if there is not None:
                there.remove(f"{LOCKS_FOLDER}/{token}")
        silent = [f"{name}: does not answer" for answer, name in asked.items() if answer not in answered]
        free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU", "memory")}
    return {**found, "mlflow": uri, "problems": [*problems, *silent], "free": free}


def look_from_here(store: str, token: str, uri: str, remote: str | None = None) -> list[str]:
    """Returns what this machine cannot reach, one line for each thing.

    Args:
        store: the folder of cells.
        token: the name of a file that the driver's machine has written to the store.
        uri: the URI of MLflow's store.
        remote: the remote of machines without a shared folder. If given, the file is in the remote instead.
    """
    folder, problems = Path(store) / LOCKS_FOLDER, []
    own = f"{token}-{socket.gethostname()}"
    try:
        if remote:
            open_store(Path(store))
        elif not (folder / token).exists():
            raise InputError("is not the folder that the driver sees (allowed: one that all share, or a --remote)")
        with file_lock(folder / own, wait=False):
            (folder / own).write_text("written")
        (folder / own).unlink()
    except (OSError, InputError) as error:
        problems.append(f"the store {store}: {one_line(error)}")
    if remote:
        problems += _look_at_remote(remote, f"{LOCKS_FOLDER}/{token}", f"{LOCKS_FOLDER}/{own}")
    path = sqlite_path(uri)
    try:
        # An SQLite file is in the store or next to it, and the driver creates it.
        if path is None:
            connect(uri).search_experiments(max_results=1)
    except Exception as error:
        problems.append(f"MLflow at {redact_uri(uri)}: {one_line(error)}")
    return problems


def _look_at_remote(uri: str, asked: str, own: str) -> list[str]:
    try:
        remote = Remote(uri)
        if remote.read(asked) is None:
            raise InputError("is not the remote that the driver sees")
        remote.write(own, b"written")
        remote.remove(own)
    except (OSError, InputError) as error:
        return [f"the remote {uri}: {one_line(error)}"]
    return []


def _answer(answer: Any, machine: str) -> list[str]:
    import ray

    try:
        return [f"{machine}: {problem}" for problem in ray.get(answer)]
    except Exception as error:
        return [f"{machine}: {one_line(error)}"]


def main(arguments: list[str] | None = None) -> None:
    """Prints one line with the findings, or with the error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--remote", default=os.environ.get(REMOTE_VARIABLE))
    given = parser.parse_args(arguments)
    try:
        found = probe(load_sweep(given.file), store_path(given.out), given.remote)
    except InputError as error:
        found = {"error": str(error)}
    print(f"\n{MARK}{json.dumps(found)}")
    sys.exit("error" in found)


if __name__ == "__main__":
    main()
