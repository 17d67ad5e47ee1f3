"""What a finished run keeps as files, and how runs belong to sweeps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import record_once, runs_of, steps_of
from trial_folder import TrialFolder

from tensorrl.tracking import missing_extra, record_sweep, sync_directory
from tensorrl.tracking.connection import connect
from tensorrl.trial.cell import Cell


def artifacts_of(uri: str, run: Any, path: str | None = None) -> set[str]:
    found = set()
    for entry in connect(uri).list_artifacts(run.info.run_id, path):
        found |= artifacts_of(uri, run, entry.path) if entry.is_dir else {entry.path}
    return found


def test_a_finished_run_holds_its_settings_its_curve_and_a_final_checkpoint_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrl.trial.playback import load_network
    from tensorrl.trial.run import make_spec, run_trial
    from tensorrl.trial.training import parameters_sha256

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = {"learning_starts": 50, "replay_capacity": 2_000, "final_episodes": 1, "evaluation_epsilon": 1.0}
    spec = make_spec(game="pong", variant="trl-10x", steps=60, overrides=quick, device="cpu", threads=1)
    out = tmp_path / "runs" / "one"
    result = run_trial(spec, out)
    # Without the extra `onnx` only the model of the policy is missing.
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find_spec(name))
    assert "pip install 'tensorrl[onnx]'" in str(missing_extra())
    (outcome,) = sync_directory(out)
    assert outcome.problem is None
    assert json.loads((out / "mlflow.json").read_text()).keys() == {"experiment", "complete"}
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
    listed = [("b" * 64, "other"), (trial.trial["key"], trial.path.name)]
    cells = [Cell(key, name, "pong", "denoised", seed, 500).row() for seed, (key, name) in enumerate(listed)]
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
