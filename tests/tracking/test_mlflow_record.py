from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow_runs import record_once, runs_of, steps_of
from trial_folder import TrialFolder

from tensorrl.tracking import MlflowRecord, sync_directory, tracking_uri_for
from tensorrl.tracking.connection import connect
from tensorrl.tracking.mirror import Mirror


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
