"""A sweep on machines that share an S3 bucket and no folder, of which one dies: real Ray, real MLflow, real trials.

Each machine is a Ray node with a view of the disk of its own: where the store lies, it alone sees what it writes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml
from bucket import BUCKET, environment, s3_server
from servers import free_port, mlflow_server
from short_sweep import short_sweep

from tensorrl.sweeps import cells, load_sweep
from tensorrl.sweeps.remote.files import Remote
from tensorrl.tracking.connection import connect
from tensorrl.trial.run import run_trial

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which root alone may")]

ROOT = Path(__file__).parents[3]
PATIENCE = 600.0
"""Seconds without anything new after which the test gives up. A slow machine may take longer for all of it."""
SWEEP = short_sweep(name="apart", variants=["denoised", "trl-10x"], seeds=2, steps=1_500)


class Machine:
    """A Ray node that sees a disk of its own at the store's path."""

    def __init__(self, store: Path, env: dict[str, str], log: Path, *arguments: str) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        mounted = 'mount -t tmpfs none "$0" && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, str(store)]
        command += [ray, "start", "--block", "--object-store-memory=100000000", "--disable-usage-stats", *arguments]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def trains(self) -> bool:
        return any("ray::ImplicitFunc" in " ".join(process.cmdline()) for process in _living(self.below()))

    def die(self) -> None:
        """As a machine that loses its power."""
        if self.process.poll() is None:
            for process in [*self.below(), psutil.Process(self.process.pid)]:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
        self.process.wait()


def _living(found: list[psutil.Process]) -> Iterator[psutil.Process]:
    for process in found:
        try:
            process.cmdline()
        except psutil.Error:
            continue
        yield process


def _wait(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)


def _end(driver: subprocess.Popen[bytes], remote: Remote, said: Callable[[], str]) -> None:
    """Waits for the driver's end as long as reports come in."""
    seen, deadline = b"", time.monotonic() + PATIENCE
    while driver.poll() is None:
        names = [name for name in remote.names() if name.endswith(("/progress.jsonl", "/result.json"))]
        reports = b"".join(remote.read(name) or b"" for name in names)
        if reports != seen:
            seen, deadline = reports, time.monotonic() + PATIENCE
        assert time.monotonic() < deadline, said()
        time.sleep(2)
    assert driver.returncode == 0, said()


def _status(address: str, env: dict[str, str]) -> str:
    command = [str(Path(sys.executable).parent / "ray"), "status", "--address", address]
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def test_a_sweep_ends_with_the_same_bits_though_a_machine_dies_and_its_disk_with_it(tmp_path: Path) -> None:
    file, store = tmp_path / "apart.yaml", tmp_path / "store"
    file.write_text(yaml.safe_dump(SWEEP))
    store.mkdir()
    s3, web, gcs = free_port(), free_port(), free_port()
    (tmp_path / "mlflow").mkdir()
    env = os.environ | environment(s3) | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{web}",
        "TENSORRL_REMOTE": f"s3://{BUCKET}/runs",
        "TENSORRL_STORE": str(store),
        "OMP_NUM_THREADS": "1",
        # Ray would remember this cluster's address for every later start on this machine.
        "RAY_TMPDIR": f"/tmp/apart-{os.getpid()}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    }  # fmt: skip
    with ExitStack() as held, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(s3).items():
            patch.setenv(name, value)
        held.callback(shutil.rmtree, env["RAY_TMPDIR"], ignore_errors=True)
        held.enter_context(s3_server(s3))
        held.enter_context(mlflow_server(web, tmp_path / "mlflow"))

        def machine(*arguments: str) -> Machine:
            made = Machine(store, env, tmp_path / "ray.log", *arguments)
            held.callback(made.die)
            return made

        # fmt: off
        machine("--head", f"--port={gcs}", "--num-cpus=0", "--include-dashboard=false")
        # fmt: on
        address = f"127.0.0.1:{gcs}"
        _wait("the head", lambda: "Active" in _status(address, env))
        workers = []
        for number in (1, 2):
            # One by one: two that start together on one address take each other's ports.
            workers.append(machine(f"--address={address}", "--num-cpus=1"))
            _wait(f"machine {number}", lambda count=number: f"/{count}.0 CPU" in _status(address, env))
        command = [sys.executable, "-m", "tensorrl", "sweep", str(file), "--address", address]
        with (tmp_path / "driver.log").open("ab") as log:
            driver = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        held.callback(driver.kill)
        said = lambda: (tmp_path / "driver.log").read_text()[-4_000:]  # noqa: E731

        remote = Remote(f"s3://{BUCKET}/runs")
        alive = lambda: driver.poll() is None or pytest.fail(said())  # noqa: E731
        begun = lambda: {n.partition("/")[0] for n in remote.names() if n.endswith("/manifest.json")}  # noqa: E731
        _wait(
            "two trials begun on two machines",
            lambda: alive() and len(begun()) >= 2 and all(m.trains() for m in workers),
        )
        workers[0].die()
        machine(f"--address={address}", "--num-cpus=1")
        _end(driver, remote, said)

        client = connect(env["MLFLOW_TRACKING_URI"])
        experiment = client.get_experiment_by_name("apart")
        runs = client.search_runs([experiment.experiment_id], filter_string="tags.`tensorrl.key` LIKE '%'")
        assert [run.info.status for run in runs] == ["FINISHED"] * 4

        # A store made of the remote alone, by the command, has all of it.
        pulled = tmp_path / "pulled"
        out = subprocess.run(
            [sys.executable, "-m", "tensorrl", "pull", remote.uri, "--out", str(pulled), "--json"],
            env=env, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert json.loads(out) == {"store": str(pulled), "cells": 4, "finished": 4, "sweeps": ["apart"]}
        assert (pulled / ".sweeps" / "apart" / "report" / "index.html").is_file()
        for cell in cells(load_sweep(file)):
            trial = cell.on("cpu").trial
            undisturbed = run_trial(trial, tmp_path / "undisturbed" / cell.folder)
            result = json.loads((pulled / cell.folder / "result.json").read_text())
            assert result["parameters_sha256"] == undisturbed["parameters_sha256"], cell.folder
            lines = [json.loads(line) for line in (pulled / cell.folder / "progress.jsonl").read_text().splitlines()]
            assert [line["agent_steps"] for line in lines] == sorted({line["agent_steps"] for line in lines})

        # The same command again has nothing to train: the remote is the sweep's memory, on any machine.
        again = subprocess.run(
            [*command, "--out", str(tmp_path / "elsewhere")], env=env, capture_output=True, text=True, check=True
        )
        assert "pong" in again.stdout
        assert not list((tmp_path / "elsewhere").glob("*/checkpoints"))
