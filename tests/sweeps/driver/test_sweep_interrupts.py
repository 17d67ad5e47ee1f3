"""Drivers in processes of their own that are killed or interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import HERE, begun, runs_in

from tensorrl.sweeps import sweep_status
from tensorrl.tracking import prepare_database, sync_directory
from tensorrl.tracking.connection import connect

DRIVER = """
import sys
from pathlib import Path
from tensorrl.sweeps import SweepSpec, run_sweep
from tensorrl.sweeps.driver import worker
worker.TRIAL_FUNCTION = "small_trials:run"
spec = SweepSpec.model_validate(
    {"name": "tiny", "games": ["pong"], "variants": ["rainbow", "denoised"], "seeds": 2, "steps": 2000}
)
try:
    rows = run_sweep(spec, Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr))
except KeyboardInterrupt:
    sys.exit(130)
sys.exit([row.state for row in rows] != ["finished"] * 4)
"""


@pytest.fixture
def drive() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts drivers of the sweep in processes of their own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(out: Path, **options: Any) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", DRIVER, out.name]
        started.append(subprocess.Popen(command, env=environment, cwd=out.parent, **(pipes | options)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_was_killed_or_interrupted_is_completed_by_the_same_command_quietly(
    tmp_path: Path, how: signal.Signals, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "pause").write_text("0.1")
    prepare_database(f"sqlite:///{out / 'mlflow.db'}")
    for count in (1, 3):
        first = drive(out, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(begun(out)) >= count)  # noqa: B023
        time.sleep(0.7)
        first.send_signal(how)
        assert first.wait(120) == (-how if how == signal.SIGKILL else 130)
    (out / "pause").write_text("0")
    last = drive(out)
    assert last.communicate(timeout=600) == ("", "")
    assert last.returncode == 0
    assert not (out.parent / "ray_results").exists()
    client = connect(f"sqlite:///{out / 'mlflow.db'}")
    runs = runs_in(out)
    assert len(runs) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(metric.step for metric in history) == list(range(100, 2001, 100))


@pytest.mark.slow
def test_an_interrupted_sweep_lets_its_trials_leave_in_order_and_says_so(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "pause").write_text("0.3")
    driver = drive(out)
    wait_for(lambda: len(begun(out)) >= 2)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "2 trials write checkpoints; interrupt again to leave at once" in said
    ran, left = {name for name, *_ in begun(out)}, set((out / "left.txt").read_text().split())
    assert ran <= left
    assert sweep_status(out, "tiny").driver == "stopped"
    # On a busy machine the trials are gone before MLflow answers.
    sync_directory(out, experiment="tiny")
    assert {run.info.status for run in runs_in(out)} == {"KILLED"}
