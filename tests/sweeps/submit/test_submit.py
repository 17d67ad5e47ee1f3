"""Sweeps as jobs of a real Ray cluster on this machine, whose dashboard asks for a token."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps import cells, load_sweep, sweep_status
from tensorrl.sweeps.store.layout import open_store
from tensorrl.sweeps.submit.job import JOB_ENVIRONMENT, Cluster, packed
from tensorrl.sweeps.submit.probe import look_from_here
from tensorrl.tracking.connection import connect

# A sweep has a run of its own beside its cells'.
CELLS = "tags.`tensorrl.key` LIKE '%'"
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
SHORT = """
name: short
games: [pong]
variants: [denoised]
seeds: 2
steps: 900
settings: {learning_starts: 300}
evaluation: {final_episodes: 1, epsilon: 1.0}
"""


def test_what_is_sent_is_this_package_and_the_sweep_and_small(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SHORT)
    with packed(file) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["sweep.yaml", "tensorrl"]
        assert (folder / "tensorrl" / "data" / "atari100k_scores.csv").exists()
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if "__pycache__" in path.parts]
        assert sum(path.stat().st_size for path in files) < 3 * 2**20
    assert not folder.exists()


def test_the_runtime_environment_leaves_out_what_is_large_and_sets_what_submit_sets() -> None:
    import yaml

    content = yaml.safe_load((ROOT / "tune_jobs" / "runtime_env.yaml").read_text())
    assert content["env_vars"] == JOB_ENVIRONMENT
    assert {".git", ".venv", "runs", "mlruns"} <= set(content["excludes"])
    sent = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    kept = [name for name in sent if name.split("/")[0] not in content["excludes"]]
    assert "tune_jobs/table1.yaml" in kept
    assert "tensorrl/cli/app.py" in kept
    assert sum((ROOT / name).stat().st_size for name in kept if (ROOT / name).exists()) < 3 * 2**20


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=rf"--address {address}: not a dashboard's address \(allowed: http://"):
        Cluster(address)


def test_a_dashboard_that_does_not_answer_is_one_line() -> None:
    with socket.socket() as nobody:
        # Bound but not listening: connections are refused, and nobody else can take the port.
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="no job API can be used there: Failed to connect") as caught:
            Cluster(f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert "\n" not in str(caught.value)


def test_a_machine_says_what_it_cannot_reach(tmp_path: Path) -> None:
    store = tmp_path / "store"
    open_store(store)
    (store / ".locks" / "token").touch()
    sqlite = f"sqlite:///{store / 'mlflow.db'}"
    assert look_from_here(str(store), "token", sqlite) == []
    (problem,) = look_from_here(str(store), "other", sqlite)
    assert "is not the folder that the driver sees" in problem
    assert [path.name for path in (store / ".locks").iterdir()] == ["token"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        (problem,) = look_from_here(str(store), "token", f"http://me:secret@127.0.0.1:{port}")
    assert problem.startswith(f"MLflow at http://me:***@127.0.0.1:{port}: ")
    assert "secret" not in problem


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


class Head:
    """`ray start --head` with a dashboard on loopback that asks for a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "HOME": str(folder),
            # The cluster has TensorRL's dependencies; TensorRL itself comes with each job.
            "PYTHONPATH": "",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self.environment.pop("TENSORRL_STORE", None)
        gcs, dashboard, agent, agent_grpc, client = free_ports(5)
        self.url = f"http://127.0.0.1:{dashboard}"
        # A Unix socket's path has 107 letters at most, less than pytest's folders leave.
        self.temporary = Path(f"/tmp/tensorrl-ray-{os.getpid()}")
        self.process = subprocess.Popen(
            [
                str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
                "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
                f"--ray-client-server-port={client}", "--num-cpus=2", "--object-store-memory=100000000",
                f"--temp-dir={self.temporary}", "--disable-usage-stats",
            ],
            env=self.environment, stdout=(folder / "head.txt").open("w"), stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip

    def run(self, *command: Any, code: int = 0, **changes: str) -> str:
        """Runs a command that is to end with `code`; returns what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environment | changes, cwd=ROOT, capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def submit(self, *arguments: Any, code: int = 0, **changes: str) -> str:
        command = [sys.executable, "-m", "tensorrl", "submit", *arguments, "--address", self.url]
        return self.run(*command, code=code, **({"PYTHONPATH": str(ROOT)} | changes))

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "head.txt").read_text()
        command = [str(BIN / "ray"), "job", "list", "--address", self.url]
        return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0

    def end(self) -> None:
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(below, timeout=20)
        for process in alive:
            process.kill()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    started = Head(tmp_path_factory.mktemp("head"))
    try:
        deadline = time.monotonic() + 300
        while not started.ready():
            assert time.monotonic() < deadline, (started.folder / "head.txt").read_text()
            time.sleep(1)
        yield started
    finally:
        started.end()


def check_complete(store: Path, file: Path) -> None:
    """Every cell of the sweep is finished on disk, and in MLflow."""
    spec = load_sweep(file)
    rows = sweep_status(store, str(file)).rows
    assert [row.state for row in rows] == ["finished"] * len(cells(spec))
    client = connect(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(spec.name).experiment_id], CELLS)
    assert sorted(run.data.tags["tensorrl.key"] for run in runs) == sorted(row.key for row in rows)
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
def test_ray_job_submit_runs_the_debug_sweep_into_the_home_folder(head: Head) -> None:
    said = head.run(
        BIN / "ray", "job", "submit", "--address", head.url, "--working-dir", ".",
        "--runtime-env", "tune_jobs/runtime_env.yaml", "--", "tensorrl", "sweep", "tune_jobs/debug.yaml",
    )  # fmt: skip
    assert "succeeded" in said
    check_complete(head.folder / "runs", ROOT / "tune_jobs" / "debug.yaml")


@pytest.mark.slow
def test_tensorrl_submit_checks_the_cluster_runs_the_sweep_and_says_how_to_go_on(head: Head, tmp_path: Path) -> None:
    debug, store = ROOT / "tune_jobs" / "debug.yaml", tmp_path / "store"
    said = head.submit(debug, "--out", store)
    assert "4 cells, 0 finished" in said
    assert "2 trials at once" in said
    assert "free now: 2 cores" in said
    job = re.search(r"runs as job (tensorrl-debug-\S+)", said)
    assert job
    assert f"ray job stop --address {head.url} {job[1]}" in said
    assert "give the same `tensorrl submit` command again" in said
    assert f"job {job[1]}: SUCCEEDED" in said
    check_complete(store, debug)
    commit = json.loads(next(store.glob("*/trial.json")).read_text())["commit"]
    if (ROOT / ".git").exists():
        assert re.match(r"[0-9a-f]{40}", commit)


@pytest.mark.slow
def test_a_job_that_is_stopped_checkpoints_and_the_same_command_goes_on(head: Head, tmp_path: Path) -> None:
    file, store = tmp_path / "short.yaml", tmp_path / "store"
    # Only the stop makes a checkpoint.
    file.write_text(SHORT + "checkpoint_every: 100000\n")
    said = head.submit(file, "--out", store, "--no-follow")
    job = re.search(r"runs as job (\S+)", said)
    assert job
    assert f"job {job[1]} runs short in {store} already" in head.submit(file, "--out", store, code=2)
    deadline = time.monotonic() + 900
    while not any(row.agent_steps for row in sweep_status(store, str(file)).rows):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    head.run(BIN / "ray", "job", "stop", "--address", head.url, job[1])
    assert list(store.glob("*/checkpoints/0*"))
    head.submit(file, "--out", store, "--no-check")
    check_complete(store, file)


@pytest.mark.slow
def test_without_the_token_or_with_a_store_that_cannot_be_it_is_one_line_and_exit_code_2(
    head: Head, tmp_path: Path
) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(SHORT)
    said = head.submit(file, code=2, RAY_AUTH_TOKEN="f" * 64)
    assert "no job API can be used there" in said
    assert len(said.strip().splitlines()) == 1
    said = head.submit(file, "--out", "/proc/store", code=2)
    assert "in the cluster: /proc/store: cannot be written to" in said
    file.write_text(SHORT + "resources: {gpus: 1}\n")
    said = head.submit(file, "--out", tmp_path / "store", code=2)
    assert "in the cluster: gpus: each trial needs 1, but no machine has a GPU" in said
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        file.write_text(SHORT + f"tracking: {{uri: 'http://127.0.0.1:{port}'}}\n")
        said = head.submit(file, "--out", tmp_path / "store", code=2)
    assert f"MLflow at http://127.0.0.1:{port}" in said
    assert "--no-check submits anyway" in said
