from __future__ import annotations

import http.server
import json
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
from servers import free_port, mlflow_server
from trial_folder import TrialFolder

from tensorrl.tracking import MlflowRecord, record_sweep, sync_directory, tracking_uri_for
from tensorrl.tracking.mirror import Mirror
from tensorrl.tracking.store import connect


def runs_of(uri: str, experiment: str) -> list[Any]:
    client = connect(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def steps_of(uri: str, run: Any) -> dict[str, list[int]]:
    client = connect(uri)
    return {name: sorted(m.step for m in client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}


def record_once(directory: Path, experiment: str, *, failed: bool = False) -> None:
    record = MlflowRecord(directory, experiment=experiment)
    record.close(20, failed=failed)
    assert record.delivered


def test_a_finished_trial_is_one_finished_run_with_its_parameters_and_figures(trial: TrialFolder, store: str) -> None:
    record = MlflowRecord(trial.path, experiment="debug")
    trial.begin()
    for step in (100, 200, 300):
        trial.line(step)
        record.poke()
    trial.finish()
    record.close(20)
    assert record.delivered
    (run,) = runs_of(store, "debug")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pong-denoised-seed3"
    assert run.data.tags["tensorrl.key"] == "a" * 64
    assert run.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert run.data.tags["tensorrl.parameters_sha256"] == "f" * 64
    assert run.data.params == {
        "game": "pong",
        "variant": "denoised",
        "seed": "3",
        "steps": "500",
        "coefficients": "441669",
        "compression_ratio": "1.8766",
        "learning_rate": "0.0001",
        "n_step": "20",
        "optimizer": "adam",
        "epsilon": "[1.0, 0.01]",
    }
    assert run.data.metrics == {
        "compression_ratio": 1.8766,
        "coefficients": 441_669.0,
        "episode_return": 280.0,
        "steps_per_second": 50.5,
        "agent_steps": 300.0,
        "score": 12.5,
        "human_normalized": 0.9,
        "final_steps_per_second": 48.0,
    }
    assert steps_of(store, run) == {
        "compression_ratio": [0],
        "coefficients": [0],
        "episode_return": [100, 200, 300],
        "steps_per_second": [100, 200, 300],
        "agent_steps": [100, 200, 300],
        "score": [300],
        "human_normalized": [300],
        "final_steps_per_second": [300],
    }


def test_a_store_whose_making_was_cut_short_is_made_anew(trial: TrialFolder) -> None:
    trial.begin()
    (trial.path.parent / ".mlflow.db.partial").write_bytes(b"half a database")
    record_once(trial.path, "debug")
    assert len(runs_of(f"sqlite:///{trial.path.parent / 'mlflow.db'}", "debug")) == 1


def test_artifacts_are_kept_beside_the_store(trial: TrialFolder, store: str) -> None:
    trial.begin()
    record_once(trial.path, "debug")
    (run,) = runs_of(store, "debug")
    assert run.info.artifact_uri.startswith((trial.path.parent / "mlartifacts").as_uri())


def test_a_resumed_trial_goes_on_in_its_run_without_doubling_rewritten_lines(trial: TrialFolder, store: str) -> None:
    trial.begin()
    trial.line(100)
    trial.line(200)
    record_once(trial.path, "debug")
    assert [run.info.status for run in runs_of(store, "debug")] == ["KILLED"]

    trial.cut_back(100)
    resumed = MlflowRecord(trial.path, experiment="debug")
    trial.line(200, steps_per_second=44.0)
    resumed.poke()
    deadline = time.monotonic() + 20
    while [run.info.status for run in runs_of(store, "debug")] != ["RUNNING"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    trial.line(300)
    trial.finish()
    resumed.close(20)
    assert resumed.delivered
    (run,) = runs_of(store, "debug")
    assert run.info.status == "FINISHED"
    assert steps_of(store, run)["agent_steps"] == steps_of(store, run)["steps_per_second"] == [100, 200, 300]


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


def test_of_two_runs_of_one_trial_the_fuller_stays(trial: TrialFolder, store: str) -> None:
    trial.begin()
    client = connect(store)
    experiment = client.create_experiment("debug")
    client.create_run(experiment, start_time=1, tags={"tensorrl.key": "a" * 64})
    full = client.create_run(experiment, start_time=2, tags={"tensorrl.key": "a" * 64})
    client.log_metric(full.info.run_id, "agent_steps", 100, step=100)
    client.create_run(experiment, start_time=3, tags={"tensorrl.key": "b" * 64})
    trial.line(100)
    trial.line(200)
    Mirror(trial.path, tracking_uri=store, experiment="debug").catch_up(live=True)
    mine = [run for run in runs_of(store, "debug") if run.data.tags["tensorrl.key"] == "a" * 64]
    assert [run.info.run_id for run in mine] == [full.info.run_id]
    assert steps_of(store, mine[0])["agent_steps"] == [100, 200]
    assert len(runs_of(store, "debug")) == 2


def test_a_failed_trial_is_a_failed_run(trial: TrialFolder, store: str) -> None:
    trial.begin()
    record_once(trial.path, "debug")
    record_once(trial.path, "debug", failed=True)
    assert [run.info.status for run in runs_of(store, "debug")] == ["FAILED"]
    sync_directory(trial.path)
    assert [run.info.status for run in runs_of(store, "debug")] == ["FAILED"]


def test_a_folder_that_never_held_a_trial_leaves_no_trace(trial: TrialFolder, store: str) -> None:
    record = MlflowRecord(trial.path, experiment="debug")
    record.close(20)
    assert record.delivered
    assert not trial.path.exists()
    assert connect(store).get_experiment_by_name("debug") is None


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


def test_a_trial_being_recorded_is_left_alone_by_sync(trial: TrialFolder, store: str) -> None:
    trial.begin()
    trial.line(100)
    record = MlflowRecord(trial.path, experiment="debug")
    record.poke()
    deadline = time.monotonic() + 20
    while record.run_id is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (outcome,) = sync_directory(trial.path)
    assert "another process is at work here" in str(outcome.problem)
    trial.finish()
    record.close(20)
    assert record.delivered
    assert sync_directory(trial.path)[0].problem is None


def test_sync_finds_the_experiment_a_folder_was_recorded_in_and_repeats_nothing(trial: TrialFolder, store: str) -> None:
    trial.begin()
    trial.line(100)
    record_once(trial.path, "my sweep")
    trial.line(200)
    trial.finish()
    assert [outcome.lines_sent for outcome in sync_directory(trial.path.parent)] == [1]
    assert [outcome.lines_sent for outcome in sync_directory(trial.path.parent)] == [0]
    (run,) = runs_of(store, "my sweep")
    assert steps_of(store, run)["agent_steps"] == [100, 200]
    assert run.info.status == "FINISHED"


def test_a_folder_never_recorded_belongs_to_the_experiment_of_the_folder_around_it(
    trial: TrialFolder, store: str
) -> None:
    trial.begin()
    trial.finish()
    sync_directory(trial.path.parent)
    assert [run.info.status for run in runs_of(store, "runs")] == ["FINISHED"]


def test_the_environment_names_the_store_unless_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert tracking_uri_for(Path("runs/a")) == "http://tracking.example:5000"
    assert tracking_uri_for(Path("runs/a"), "sqlite:///here.db?timeout=9") == f"sqlite:///{tmp_path}/here.db?timeout=9"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri_for(Path("runs/a")) == f"sqlite:///{tmp_path}/runs/mlflow.db"


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


def artifacts_of(uri: str, run: Any, path: str | None = None) -> set[str]:
    found = set()
    for entry in connect(uri).list_artifacts(run.info.run_id, path):
        found |= artifacts_of(uri, run, entry.path) if entry.is_dir else {entry.path}
    return found


def test_a_finished_run_holds_its_settings_its_curve_and_a_final_checkpoint_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrl.playback import load_network
    from tensorrl.training import parameters_sha256
    from tensorrl.trial import make_spec, run_trial

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = {"learning_starts": 50, "replay_capacity": 2_000, "final_episodes": 1, "evaluation_epsilon": 1.0}
    spec = make_spec(game="pong", variant="trl-10x", steps=60, overrides=quick, device="cpu", threads=1)
    out = tmp_path / "runs" / "one"
    result = run_trial(spec, out)
    (outcome,) = sync_directory(out)
    assert outcome.problem is None
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    (run,) = runs_of(uri, "runs")
    assert run.data.tags["tensorrl.artifacts"] == "settings, curve, checkpoint"
    files = {f"checkpoint/{name}" for name in ("state.json", "state.safetensors", "manifest.json")}
    assert artifacts_of(uri, run) == files | {"settings.json", "result.json", "progress.jsonl", "curve.png"}
    fetched = Path(connect(uri).download_artifacts(run.info.run_id, "checkpoint", str(tmp_path)))
    network, about = load_network(fetched)
    assert parameters_sha256(network) == result["parameters_sha256"]
    assert (about["game"], about["variant"], about["agent_steps"]) == ("pong", "trl-10x", 60)
    whole = sum(file.stat().st_size for file in (out / "checkpoints" / "00000060").iterdir())
    assert sum(file.stat().st_size for file in fetched.iterdir()) < whole / 2
    assert [outcome.lines_sent for outcome in sync_directory(tmp_path / "runs")] == [0]


def test_a_store_that_takes_no_files_has_the_finished_run_all_the_same(
    trial: TrialFolder, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("no files here")

    trial.begin()
    trial.line(100)
    trial.finish()
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_artifacts", refuse)
        (outcome,) = sync_directory(trial.path)
    assert outcome.problem == "no files here"
    (run,) = runs_of(store, "runs")
    assert run.info.status == "FINISHED"
    assert "tensorrl.artifacts" not in run.data.tags
    assert sync_directory(trial.path)[0].problem is None
    assert "settings.json" in artifacts_of(store, runs_of(store, "runs")[0])


def list_cell(trial: TrialFolder, sweep: str) -> None:
    folder = trial.path.parent / ".sweeps" / sweep
    folder.mkdir(parents=True)
    cells = [{"key": "b" * 64, "folder": "other"}, {"key": trial.trial["key"], "folder": trial.path.name}]
    (folder / "cells.json").write_text(json.dumps({"name": sweep, "cells": cells}))


def test_a_cell_of_two_sweeps_is_one_run_with_a_tag_of_each(trial: TrialFolder, store: str) -> None:
    trial.begin()
    trial.line(100)
    trial.finish()
    list_cell(trial, "table1")
    record_once(trial.path, "table1")
    list_cell(trial, "table2")
    record_once(trial.path, "table2")
    (run,) = runs_of(store, "table1")
    assert runs_of(store, "table2") == []
    sweeps = {name: value for name, value in run.data.tags.items() if name.startswith("tensorrl.sweep.")}
    assert sweeps == {"tensorrl.sweep.table1": "yes", "tensorrl.sweep.table2": "yes"}
    assert steps_of(store, run)["agent_steps"] == [100]


def test_a_sweep_has_one_run_with_its_report_and_tags_the_cells_it_shares(
    trial: TrialFolder, store: str, tmp_path: Path
) -> None:
    trial.begin()
    trial.finish()
    record_once(trial.path, "earlier")
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("first")
    keys = [trial.trial["key"], "b" * 64]
    about = {"tracking_uri": store, "experiment": "later", "files": [page.parent]}
    first = record_sweep("table1", keys, {"cells": 2, "cells_finished": 1}, **about)
    assert runs_of(store, "later")[0].info.status == "RUNNING"
    page.write_text("second")
    assert record_sweep("table1", keys, {"cells": 2, "cells_finished": 2}, **about) == first
    (parent,) = runs_of(store, "later")
    assert (parent.info.run_name, parent.info.status) == ("sweep table1", "FINISHED")
    assert parent.data.metrics == {"cells": 2, "cells_finished": 2}
    assert artifacts_of(store, parent) == {"report/index.html"}
    kept = connect(store).download_artifacts(first, "report/index.html", str(tmp_path))
    assert Path(kept).read_text() == "second"
    (cell,) = runs_of(store, "earlier")
    assert cell.data.tags["tensorrl.sweep.table1"] == "yes"
    assert "mlflow.parentRunId" not in cell.data.tags
