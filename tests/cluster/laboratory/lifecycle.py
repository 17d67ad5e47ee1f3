"""Makes a laboratory and takes it down, starts services and waits for them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping

from tensorrl.errors import InputError
from tests.cluster.laboratory import network, services
from tests.cluster.laboratory.lab import Lab, alive_workers, answers

_READY_SECONDS = 600.0
_POLL_SECONDS = 0.5


def create(lab: Lab) -> None:
    """Makes the laboratory's folder, secrets, hosts and services, and waits until all are ready.

    Raises:
        InputError: a laboratory of that name stands already, this is not root, or PostgreSQL is not installed.
        TimeoutError: a service was not ready in time; its log says why.
    """
    if os.geteuid() != 0:
        raise InputError("network namespaces need root")
    services.database_programs()
    if lab.folder.exists() or network.namespaces(lab.name):
        raise InputError(f"the laboratory {lab.name!r} in {lab.folder} stands already (take it down first)")
    lab.folder.mkdir(parents=True)
    lab.folder.chmod(0o755)
    for part in ("storage", "secrets", "artifacts", "home"):
        (lab.folder / part).mkdir(mode=0o700 if part == "secrets" else 0o755)
    for secret in ("token", "mlflow", "trials", "database", "sessions"):
        path = lab.folder / "secrets" / secret
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    for name in lab.hosts:
        temporary = lab.folder / "hosts" / name / "tmp"
        temporary.mkdir(parents=True)
    _write(lab)
    network.create(lab.name, list(lab.hosts.values()))
    for name in ("mlflow", "head"):
        start(lab, name)
    for name in ("mlflow", "head"):
        wait_ready(lab, name)
    for name in (name for name in lab.hosts if name.startswith("worker")):
        start(lab, name)
    wait_for_workers(lab, lab.workers)


def _write(lab: Lab) -> None:
    """Keeps what the laboratory is made of in its folder, for `open_lab`."""
    (lab.folder / "lab.json").write_text(json.dumps({"name": lab.name, "workers": lab.workers, "cpus": lab.cpus}))


def remove(lab: Lab) -> None:
    """Ends the laboratory's processes and takes away its hosts and its folder, results included."""
    network.remove(lab.name)
    shutil.rmtree(lab.folder, ignore_errors=True)


def start(lab: Lab, name: str) -> None:
    """Starts the services of a host. Like a service manager, each is started again when it ends.

    Raises:
        InputError: the host is unknown, runs services already, or has none.
    """
    host = lab.host(name)
    if network.processes(host.namespace):
        raise InputError(f"{name}: its services run already")
    by_name: Mapping[str, Callable[[Lab], None]] = {"head": services.start_head, "mlflow": services.start_mlflow}
    if name.startswith("worker"):
        services.start_worker(lab, host)
    elif name in by_name:
        by_name[name](lab)
    else:
        raise InputError(f"{name}: has no services (allowed: {', '.join(h for h in lab.hosts if h != name)})")


def wait_ready(lab: Lab, name: str) -> None:
    """Waits until the services of `head` or `mlflow` answer.

    Raises:
        TimeoutError: they did not in ten minutes.
    """
    url = {"head": f"{lab.dashboard}/api/version", "mlflow": f"{lab.mlflow}/health"}[name]
    _wait(lambda: answers(lab, url), f"{name}: {url} does not answer, see {lab.log(name)}")


def wait_for_workers(lab: Lab, count: int) -> None:
    """Waits until Ray counts `count` hosts of workers alive.

    Raises:
        TimeoutError: it did not in ten minutes.
    """
    _wait(lambda: len(alive_workers(lab)) == count, f"Ray does not count {count} workers, see {lab.folder / 'hosts'}")


def _wait(ready: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(_POLL_SECONDS)
