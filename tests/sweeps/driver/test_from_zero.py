"""A sweep on a cluster of a head without cores and Ray's own autoscaler, whose machines are processes here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.util import get_node_ip_address
from servers import free_port
from short_sweep import short_sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).parent / "ray")
PATIENCE = 600.0
SWEEP = short_sweep(name="grown", seeds=2, steps=400)
CLUSTER: dict[str, Any] = {
    "cluster_name": "grows",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "cluster_synced_files": [],
    "rsync_exclude": [],
    "rsync_filter": [],
    "file_mounts_sync_continuously": False,
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        # Ray would remember this cluster's address for every later start on this machine.
        "RAY_TMPDIR": f"/tmp/grown-{os.getpid()}",
        "TENSORRL_STORE": str(tmp_path / "store"),
    }


@pytest.fixture
def address(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    config, port = tmp_path / "cluster.json", free_port()
    provider = CLUSTER["provider"] | {"gcs_address": f"{get_node_ip_address()}:{port}"}
    config.write_text(json.dumps(CLUSTER | {"provider": provider}))
    # fmt: off
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", f"--port={port}", "--include-dashboard=false",
               "--object-store-memory=100000000", "--disable-usage-stats", f"--autoscaling-config={config}"]
    # fmt: on
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while "Active" not in _ray(environment, "status", "--address", f"127.0.0.1:{port}"):
            assert head.poll() is None, (tmp_path / "ray.log").read_text()[-3_000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        yield f"127.0.0.1:{port}"
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            process.kill()
        head.wait()
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


def _ray(environment: dict[str, str], *arguments: str) -> str:
    return subprocess.run([RAY, *arguments], env=environment, capture_output=True, text=True).stdout


def _tensorrl(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tensorrl", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def test_the_first_machine_is_asked_for_and_waited_for_and_given_back(
    tmp_path: Path, address: str, environment: dict[str, str]
) -> None:
    file = tmp_path / "grown.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    checked = _tensorrl(environment, "sweep", str(file), "--check", "--address", address)
    assert checked.returncode == 0, checked.stderr
    assert "no machine can run trials yet" in checked.stdout

    done = _tensorrl(environment, "sweep", str(file), "--address", address, "--json")
    assert done.returncode == 0, done.stderr + (tmp_path / "ray.log").read_text()[-3_000:]
    assert "waiting for one, which an autoscaler is asked for" in done.stderr
    assert [result["seed"] for result in json.loads(done.stdout)["finished"]] == [0, 1]

    deadline = time.monotonic() + PATIENCE
    while "CPU" in _ray(environment, "status", "--address", address).partition("Total Usage")[2].partition("From")[0]:
        assert time.monotonic() < deadline, "the machines were not given back"
        time.sleep(2)
