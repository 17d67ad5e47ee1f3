"""Real trials and sweeps with a remote: they move between machines, and what cannot work is refused first."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from short_sweep import short_sweep
from typer.testing import CliRunner

from tensorrl.cli import app
from tensorrl.sweeps import cells
from tensorrl.sweeps.driver.worker import CellTask, run_cell
from tensorrl.sweeps.grid.files import make_sweep
from tensorrl.sweeps.remote import claim, trial_side
from tensorrl.sweeps.remote.claim import Claim
from tensorrl.sweeps.remote.driver_side import check_remote
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.pull import pull
from tensorrl.sweeps.store.layout import claim_name, sweep_name
from tensorrl.trial import checkpoints
from tensorrl.trial.run import run_trial

ROOT = Path(__file__).parents[3]
SWEEP = short_sweep(name="apart", seeds=1, steps=600)


def _task(store: Path, remote: Remote) -> CellTask:
    spec = make_sweep(SWEEP, where="sweep")
    cell = cells(spec)[0]
    return CellTask(
        spec=cell.on("cpu").trial.model_dump(mode="json"),
        key=cell.key,
        store=str(store),
        folder=cell.folder,
        stop_file=str(store / "stop"),
        tracking_uri=f"sqlite:///{store.parent}/mlflow.db",
        experiment="apart",
        trial_function="tensorrl.trial.run:run_trial",
        remote=remote.uri,
        claim=claim_name(cell.key),
        remote_stop=sweep_name("apart", "stop"),
        scheduler={},
        tensorboard=False,
    )


@pytest.mark.slow
def test_a_trial_killed_on_one_machine_ends_on_another_with_the_same_bits(
    bucket: str, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(f"{bucket}/killed")
    check_remote(remote)
    here, there = stores
    task = _task(here, remote)
    code = (
        "import json, sys\nfrom tensorrl.sweeps.driver.worker import run_cell\n"
        "run_cell({'cell': json.loads(sys.argv[1])})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(task)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 300
    while not any(name.endswith("/manifest.json") for name in remote.names(task["folder"])):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (here / task["folder"] / "result.json").exists()

    monkeypatch.setattr(claim, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(claim, "BEAT_SECONDS", 1.0)
    shutil.rmtree(here)
    assert run_cell({"cell": _task(there, remote)})["outcome"] == "done"
    lines = (there / task["folder"] / "progress.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["agent_steps"] for line in lines})

    undisturbed = run_trial(cells(make_sweep(SWEEP, where="sweep"))[0].on("cpu").trial, tmp_path / "undisturbed")
    # Whoever comes later has it without training.
    found = pull(remote.uri, tmp_path / "pulled", checkpoints=True)
    assert found["cells"] == found["finished"] == 1
    result = json.loads((tmp_path / "pulled" / task["folder"] / "result.json").read_text())
    assert result["parameters_sha256"] == undisturbed["parameters_sha256"]
    assert result["final_episodes"] == undisturbed["final_episodes"]
    newest = checkpoints.checkpoints(tmp_path / "pulled" / task["folder"] / "checkpoints")[-1]
    assert newest.name == "00000600"
    checkpoints.read(newest)


def test_a_trial_leaves_when_the_sweep_stops_or_another_machine_has_its_cell(
    bucket: str, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_side, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(trial_side, "BEAT_SECONDS", 0.1)
    remote = Remote(f"{bucket}/stopped")
    task = _task(stores[0], remote)
    remote.write(task["remote_stop"], b"stop\n")
    assert run_cell({"cell": task})["outcome"] == "stopped"
    assert any(name.endswith("/manifest.json") for name in remote.names(task["folder"]))

    remote.write(task["remote_stop"], b"run \n")
    taken = json.dumps({"store": "another", "token": "another", "beat": 1}).encode()
    monkeypatch.setattr(Claim, "take", lambda self: (self.remote.write(self.name, taken), True)[1])
    before = remote.names(task["folder"])
    assert run_cell({"cell": task})["outcome"] == "busy"
    assert remote.names(task["folder"]) == before
    assert remote.read(task["claim"]) == taken


def test_a_remote_that_cannot_serve_is_one_line_before_anything_runs(
    bucket: str, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "apart.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    given = ("sweep", file, "--out", tmp_path / "store")
    assert "is not a URI (allowed: a URI such as s3://" in refused(*given, "--remote", "runs")
    assert "MLflow at sqlite:///" in refused(*given, "--remote", f"{bucket}/x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "s3://nowhere/x: cannot be used" in refused(*given, "--remote", "s3://nowhere/x")
    assert "s3://nowhere/x: cannot be read" in refused(*given, "--remote", "s3://nowhere/x", "--check")
    assert "holds no store" in refused("pull", f"{bucket}/nothing-here", "--out", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_check_counts_what_the_remote_has_and_writes_nothing_here(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(f"{bucket}/{tmp_path.name}")
    file = tmp_path / "apart.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    cell = cells(make_sweep(SWEEP, where="sweep"))[0]
    for name, content in (("trial.json", {"key": cell.key}), ("result.json", {"key": cell.key, "score": 1.0})):
        remote.write(f"{cell.folder}/{name}", json.dumps(content).encode())
    monkeypatch.setenv("TENSORRL_REMOTE", remote.uri)
    said = CliRunner().invoke(
        app.app, ["sweep", str(file), "--check", "--json", "--out", str(tmp_path / "store")], catch_exceptions=False
    )
    found = json.loads(said.stdout)
    assert (found["cells"], found["finished"]) == (1, 1)
    assert not (tmp_path / "store").exists()
