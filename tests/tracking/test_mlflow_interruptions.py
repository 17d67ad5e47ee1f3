"""Servers that refuse, stop and come back, and processes that are killed: nothing is lost or doubled."""

from __future__ import annotations

import http.server
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import runs_of, steps_of
from servers import free_port, mlflow_server
from trial_folder import TrialFolder

from tensorrl.tracking import MlflowRecord, sync_directory
from tensorrl.tracking.mirror import Mirror


@pytest.mark.parametrize("lost", ["start", "description", "line", "final", "end"])
def test_a_pass_cut_short_anywhere_is_completed_by_the_next_without_doubling(
    trial: TrialFolder, store: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies, or the answer is lost, right after the store has done one of the writes."""
    import mlflow

    writes = {"start": ("create_run", 1), "description": ("log_batch", 1), "line": ("log_batch", 3)}
    writes |= {"final": ("log_batch", 4), "end": ("set_terminated", 1)}
    name, count = writes[lost]
    real, calls = getattr(mlflow.MlflowClient, name), Counter[str]()

    def done_but_unanswered(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        calls[name] += 1
        if calls[name] == count:
            raise ConnectionError("the answer is lost")
        return answer

    trial.begin()
    trial.line(100)
    trial.line(200)
    trial.finish()
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, name, done_but_unanswered)
        with pytest.raises(ConnectionError):
            Mirror(trial.path, tracking_uri=store, experiment="debug").catch_up(live=True)
    Mirror(trial.path, tracking_uri=store, experiment="debug").catch_up(live=True)
    (run,) = runs_of(store, "debug")
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 10
    assert run.data.tags["tensorrl.parameters_sha256"] == "f" * 64
    assert {name: len(steps) for name, steps in steps_of(store, run).items()} == {
        "compression_ratio": 1,
        "coefficients": 1,
        "episode_return": 2,
        "steps_per_second": 2,
        "agent_steps": 2,
        "score": 1,
        "human_normalized": 1,
        "final_steps_per_second": 1,
    }


@contextmanager
def refusing_server(delay: float) -> Iterator[str]:
    """An HTTP server that answers everything with status 500 after `delay` seconds."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            self.send_response(500)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@pytest.mark.parametrize("delay", [0.0, 30.0], ids=["answers-500", "does-not-answer"])
def test_a_store_that_refuses_costs_training_nothing_and_is_caught_up_by_sync(
    trial: TrialFolder, store: str, delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    trial.begin()
    with refusing_server(delay) as uri:
        record = MlflowRecord(trial.path, tracking_uri=uri, experiment="debug")
        longest = 0.0
        for step in range(100, 600, 100):
            trial.line(step)
            began = time.perf_counter()
            record.poke()
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.05)
        trial.finish()
        began = time.perf_counter()
        with caplog.at_level(logging.WARNING):
            record.close(1.0)
        assert time.perf_counter() - began < 2.0
        assert not record.delivered
    # A pass takes 0.5 s at the least (MLflow's import, the request); a poke that waited for one would show.
    assert longest < 0.25
    (said,) = caplog.messages
    assert str(trial.path) in said
    assert "\n" not in said
    if delay:
        # The abandoned request holds the folder until the server is gone; a new process does not have to wait for it.
        assert "another process is at work here" in str(sync_directory(trial.path)[0].problem)
        return
    (outcome,) = sync_directory(trial.path.parent)
    assert (outcome.directory, outcome.lines_sent, outcome.problem) == (trial.path, 5, None)
    (run,) = runs_of(store, "debug")
    assert run.info.status == "FINISHED"
    assert steps_of(store, run)["agent_steps"] == [100, 200, 300, 400, 500]


def test_a_store_that_comes_back_is_caught_up_while_training_goes_on(
    trial: TrialFolder, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    real, refused = mlflow.MlflowClient.log_batch, Counter[str]()

    def refuse_twice(*args: Any, **kwargs: Any) -> Any:
        refused["times"] += 1
        if refused["times"] <= 2:
            raise ConnectionError("down")
        return real(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse_twice)
    trial.begin()
    record = MlflowRecord(trial.path, experiment="debug")
    trial.line(100)
    record.poke()
    deadline = time.monotonic() + 20
    while not (runs := runs_of(store, "debug") if refused else []) or runs[0].data.metrics.get("agent_steps") != 100:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert refused["times"] > 2
    trial.finish()
    record.close(20)
    assert record.delivered
    assert record.problem is None


KILLED_TRIAL = """
import json, sys, time
from pathlib import Path
from tensorrl.tracking import MlflowRecord
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
progress = folder / "progress.jsonl"
done = len(progress.read_text().splitlines()) if progress.exists() else 0
record = MlflowRecord(folder, experiment="debug")
for step in range(done + 1, steps + 1):
    with progress.open("a") as file:
        file.write(json.dumps({"agent_steps": step, "loss": 1 / step}) + "\\n")
    record.poke()
    time.sleep(0.02)
(folder / "result.json").write_text(json.dumps(json.loads((folder / "trial.json").read_text()) | {"score": 1.0}))
record.close(30)
sys.exit(not record.delivered)
"""


def start(*arguments: object) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"}
    return subprocess.Popen([sys.executable, "-c", KILLED_TRIAL, *map(str, arguments)], env=environment)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_leave_one_run_each_with_every_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is new, so the processes race to create it as well."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folders = [TrialFolder(tmp_path / f"trial-{i}", key=str(i) * 64).begin().path for i in range(2)]
    for wait in (2.5, 3.5):
        processes = [start(folder, 400) for folder in folders]
        time.sleep(wait)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert [process.wait(60) for process in [start(folder, 400) for folder in folders]] == [0, 0]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = runs_of(uri, "debug")
    assert sorted(run.data.tags["tensorrl.key"][0] for run in runs) == ["0", "1"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert steps_of(uri, run)["loss"] == list(range(1, 401))


@pytest.mark.slow
def test_a_server_stopped_and_started_again_loses_and_doubles_nothing(trial: TrialFolder, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    trial.begin()
    record = MlflowRecord(trial.path, tracking_uri=uri, experiment="debug")
    step, longest = 0, 0.0

    def train(seconds: float) -> None:
        nonlocal step, longest
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            trial.line(step)
            began = time.perf_counter()
            record.poke()
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.02)

    train(2)
    with mlflow_server(port, tmp_path):
        train(5)
        deadline = time.monotonic() + 60
        while record.run_id is None:
            assert time.monotonic() < deadline
            train(0.5)
    before = step
    train(4)
    assert step > before
    with mlflow_server(port, tmp_path):
        train(2)
        trial.finish()
        record.close(60)
        assert record.delivered
        (run,) = runs_of(uri, "debug")
        assert run.info.status == "FINISHED"
        assert steps_of(uri, run)["agent_steps"] == list(range(1, step + 1))
    assert longest < 0.25
