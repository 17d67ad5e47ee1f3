"""A sweep on several hosts that lose power, network, MLflow and driver ends with the bits of one that lost nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorrl.errors import InputError
from tests.cluster.laboratory import lab as labs
from tests.cluster.laboratory import lifecycle, network
from tests.cluster.laboratory.lab import Lab

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SWEEP = HERE / "cells.yaml"
CELLS = 8
CUT_SECONDS = 30.0
# Far beyond what any wait takes, for machines that do much else.
PATIENCE = 1800.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab("lab-test", Path("/var/tmp/tensorrl-lab-test"), workers=3)
    lifecycle.remove(made)  # what a test run that was killed left behind
    try:
        lifecycle.create(made)
        yield made
    finally:
        lifecycle.remove(made)
    assert network.namespaces(made.name) == []
    assert not made.folder.exists()


def test_nothing_is_answered_without_the_token(lab: Lab) -> None:
    head = lab.hosts["head"].address
    for url in (f"{lab.dashboard}/api/version", f"{lab.dashboard}/nodes?view=summary", f"{lab.dashboard}/api/jobs/"):
        assert labs.fetch(lab, url, token=False).status == 401
        assert labs.fetch(lab, url, token=True).status == 200
    assert labs.fetch(lab, f"{lab.mlflow}/api/2.0/mlflow/experiments/search?max_results=1", token=False).status == 401
    said = _said(lab, "client", [sys.executable, str(HERE / "refused.py"), f"{head}:6379", lab.secret("token")])
    assert json.loads(said) == ["UNAUTHENTICATED", "UNAUTHENTICATED", "OK"]


def test_the_page_served_without_the_token_is_the_same_for_everybody(lab: Lab) -> None:
    # Ray serves its page, which asks for the token, to anybody: it must say nothing of this cluster.
    page = labs.fetch(lab, f"{lab.dashboard}/", token=False)
    assert lab.hosts["head"].address not in page.body
    assert lab.secret("token") not in page.body
    assert "session_" not in page.body


def test_from_outside_the_hosts_nothing_answers(lab: Lab) -> None:
    listening = {name: _listening(host.namespace) for name, host in lab.hosts.items()}
    assert {8265, 6379} <= listening["head"]
    assert {5000, 5432} <= listening["mlflow"]
    for name, ports in listening.items():
        for port in sorted(ports):
            with pytest.raises(OSError, match=r"No route to host|unreachable"):
                socket.create_connection((lab.hosts[name].address, port), timeout=5)
    # The machine's own ports are others': none is held by a process of the laboratory.
    ours = {pid for host in lab.hosts.values() for pid in network.processes(host.namespace)}
    assert ours.isdisjoint(_listeners())


def test_the_database_is_reached_from_the_mlflow_host_only(lab: Lab) -> None:
    reach = f"import socket; socket.create_connection(('{lab.hosts['mlflow'].address}', 5432), timeout=5)"
    assert "Connection refused" in _complaint(lab, "client", [sys.executable, "-c", reach])


def test_trials_are_no_admin_of_mlflow(lab: Lab) -> None:
    ask = (
        "from mlflow.server.auth.client import AuthServiceClient\n"
        f"AuthServiceClient({lab.mlflow!r}).create_user('another', 'a-password-of-theirs')"
    )
    assert "Permission denied" in _complaint(lab, "client", [sys.executable, "-c", ask])
    # Neither the admin's password nor the key that signs sessions is in the environment of a host that trains.
    environment = lab.environment()
    assert not {lab.secret("mlflow"), lab.secret("sessions"), lab.secret("database")} & set(environment.values())


def test_a_second_laboratory_of_the_name_is_refused(lab: Lab) -> None:
    with pytest.raises(InputError, match="stands already"):
        lifecycle.create(lab)
    with pytest.raises(InputError, match=r"no host 'worker9' \(allowed: head, mlflow, client, worker1"):
        lab.host("worker9")


def test_a_sweep_survives_the_loss_of_hosts_network_record_and_driver(lab: Lab, tmp_path: Path) -> None:
    job = _submit(lab)

    _wait(lambda: all(_trials_on(lab, name) for name in ("worker1", "worker2", "worker3")), "three trials running")
    _wait(lambda: len(_begun(lab)) >= 3, "three trials begun")
    network.kill(lab.host("worker1").namespace)
    network.kill(lab.host("mlflow").namespace)

    _wait(lambda: bool(_trials_on(lab, "worker2")), "a trial on worker2")
    network.cut(lab.host("worker2"))
    time.sleep(CUT_SECONDS)
    network.heal(lab.host("worker2"))
    lifecycle.start(lab, "mlflow")

    _wait(lambda: len(_results(lab)) >= 2, "two trials finished")
    assert len(_results(lab)) < CELLS, "the sweep was over before its driver was stopped: longer trials are needed"
    assert "stopped" in _said(lab, "client", ["ray", "job", "stop", job])
    stopped_at = len(_results(lab))

    lifecycle.wait_ready(lab, "mlflow")
    again = _submit(lab)
    assert again != job
    _wait(lambda: _job_status(lab, again) in ("SUCCEEDED", "FAILED", "STOPPED"), "the second job to end")
    assert _job_status(lab, again) == "SUCCEEDED", _said(lab, "client", ["ray", "job", "logs", again])[-3000:]
    assert stopped_at < CELLS

    # The host that was cut off is back, and the one that lost its power is not.
    lifecycle.wait_for_workers(lab, 2)
    assert sorted(labs.alive_workers(lab)) == [lab.host("worker2").address, lab.host("worker3").address]

    results = _results(lab)
    undisturbed = _undisturbed(tmp_path)
    assert len(results) == CELLS
    assert {key: one["parameters_sha256"] for key, one in results.items()} == undisturbed
    steps = {key: one["progress"] for key, one in results.items()}
    assert all(lines == sorted(set(lines)) and lines[-1] == 1700 for lines in steps.values())

    runs = json.loads(_said(lab, "client", [sys.executable, str(HERE / "recorded_runs.py"), "lab"]))
    assert sorted(run["key"] for run in runs) == sorted(undisturbed)
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert {run["key"]: run["steps"] for run in runs} == steps


def _undisturbed(folder: Path) -> dict[str, str]:
    """The digests that the same trials have where nothing happens to them, by key."""
    command = [sys.executable, str(HERE / "undisturbed.py"), str(SWEEP), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    digests: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return digests


def _submit(lab: Lab) -> str:
    """Submits the sweep from the client's host, and returns the job's id."""
    # fmt: off
    said = _said(lab, "client", [
        sys.executable, "-m", "tensorrl", "submit", str(SWEEP), "--no-follow", "--address", lab.dashboard,
        "--out", str(lab.storage),
    ])
    # fmt: on
    found = re.search(r"runs as job (\S+)", said)
    assert found is not None, said
    return found[1]


def _job_status(lab: Lab, job: str) -> str:
    return str(json.loads(labs.fetch(lab, f"{lab.dashboard}/api/jobs/{job}").body)["status"])


def _trials_on(lab: Lab, name: str) -> list[int]:
    """The processes of trials on a host: Ray names them after what they run."""
    found = []
    for pid in network.processes(lab.host(name).namespace):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith((b"ray::run_cell", b"ray::ImplicitFunc")):
            found.append(pid)
    return found


def _begun(lab: Lab) -> list[Path]:
    return [path for path in lab.storage.glob("[!.]*/progress.jsonl") if path.stat().st_size > 0]


def _results(lab: Lab) -> dict[str, dict[str, Any]]:
    return _read_results(lab.storage)


def _read_results(store: Path) -> dict[str, dict[str, Any]]:
    """Every result in a store by its trial's key, with the agent steps of its progress lines."""
    found = {}
    # Tune keeps a result.json of its own, in a hidden folder.
    for path in store.glob("[!.]*/result.json"):
        key = json.loads((path.parent / "trial.json").read_text())["key"]
        assert key not in found
        lines = (path.parent / "progress.jsonl").read_text().splitlines()
        found[key] = json.loads(path.read_text()) | {"progress": [json.loads(line)["agent_steps"] for line in lines]}
    return found


def _said(lab: Lab, host: str, command: list[str]) -> str:
    ran = _ran(lab, host, command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + (ran.stderr if command[0] == "ray" else "")


def _complaint(lab: Lab, host: str, command: list[str]) -> str:
    ran = _ran(lab, host, command)
    assert ran.returncode != 0
    return ran.stderr


def _ran(lab: Lab, host: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        lab.command(lab.host(host), command),
        env=lab.environment(), capture_output=True, text=True, timeout=PATIENCE, cwd=HERE,
    )  # fmt: skip


def _listening(namespace: str) -> set[int]:
    """The TCP ports that are listened on in a namespace."""
    said = subprocess.run(
        ["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp", "/proc/net/tcp6"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    rows = [line.split() for line in said.splitlines() if ":" in line and "local_address" not in line]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def _listeners() -> set[int]:
    """The processes that listen on a TCP port of the machine itself."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = {os.readlink(link) for link in folder.iterdir()}
        except OSError:
            continue
        if sockets & links:
            found.add(int(folder.parent.name))
    return found


def _wait(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain for {what}"
        time.sleep(0.5)
