"""Whether a cluster can run a sweep: asked inside it, before `tensorrl submit` starts the sweep itself."""

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
from tensorrl.uris import redact

MARK = "TENSORRL-PROBE "
"""Begins the line of a job's log that holds what the probe found."""
_ANSWER_SECONDS = 120.0


def probe(spec: SweepSpec, store: Path, remote: str | None = None) -> dict[str, Any]:
    """Returns what `tensorrl sweep --check` says of this cluster, with what each of its machines can reach.

    Args:
        spec: the sweep.
        store: its folder of cells, as an absolute path on every machine.
        remote: where machines without a shared folder keep the store.

    Returns:
        `check_sweep`'s values, and: `mlflow`, where the record goes; `problems`, lines, one for each machine and thing
        that cannot be reached; `free`, what Ray has free now.

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
    """Returns what this machine cannot reach, a line each.

    Args:
        store: the folder of cells.
        token: name of a file that the asking machine has put into it.
        uri: MLflow's store.
        remote: where machines without a shared folder keep the store; the file is there, then.
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
        # An SQLite file lies in the store or beside it, and is made by the driver.
        if path is None:
            connect(uri).search_experiments(max_results=1)
    except Exception as error:
        problems.append(f"MLflow at {redact(uri)}: {one_line(error)}")
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
    """Prints one line with what was found, or with the error."""
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
