"""The policy of a finished run is a model in MLflow, which plays as the run's network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow_runs import runs_of

from tensorrl.tracking import sync_directory
from tensorrl.tracking.connection import connect


@pytest.mark.slow
def test_a_refused_model_costs_nothing_and_sync_sends_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc

    from tensorrl.trial.playback import load_network
    from tensorrl.trial.policy_export import session, to_onnx
    from tensorrl.trial.run import make_spec, run_trial

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = {"learning_starts": 50, "replay_capacity": 2_000, "final_episodes": 1, "evaluation_epsilon": 1.0}
    spec = make_spec(game="pong", variant="trl-10x", steps=60, overrides=quick, device="cpu", threads=1)
    out = tmp_path / "runs" / "one: 10%"
    result = run_trial(spec, out)
    # Of another seed: a copy would be the same run.
    damaged = tmp_path / "other" / "damaged"
    run_trial(spec.model_copy(update={"seed": 1}), damaged)
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("no files here")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_model_artifacts", refuse)
        (outcome,) = sync_directory(out)
    assert outcome.problem == "no files here"
    (run,) = runs_of(uri, "runs")
    assert (run.info.status, run.data.metrics["score"]) == ("FINISHED", result["score"])
    assert run.data.tags["tensorrl.artifacts"] == "settings, curve, checkpoint"
    assert "tensorrl.model" not in run.data.tags

    for _ in range(2):
        assert [outcome.problem for outcome in sync_directory(out)] == [None]
    client = connect(uri)
    (logged,) = client.search_logged_models([run.info.experiment_id])
    assert (logged.status, logged.source_run_id) == ("READY", run.info.run_id)
    assert runs_of(uri, "runs")[0].data.tags["tensorrl.model"] == logged.model_id
    assert (logged.params["game"], logged.params["compression_ratio"][:5]) == ("pong", "10.00")
    assert {metric.key: metric.value for metric in logged.metrics}["score"] == result["score"]
    assert len(client.get_metric_history(run.info.run_id, "score")) == 1

    (damaged / "checkpoints" / "00000060" / "state.safetensors").write_bytes(b"")
    assert [outcome.problem for outcome in sync_directory(damaged, tracking_uri=uri)] == [None]
    assert "MLflow gets no model of the policy (" in caplog.text
    assert "tensorrl.model" not in runs_of(uri, "other")[0].data.tags

    stacks = np.random.default_rng(0).integers(0, 256, (20, 4, 84, 84), dtype=np.uint8)
    actions, values = session(to_onnx(load_network(out)[0])).run(None, {"stack": stacks})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    played = loaded.predict({"stack": stacks})
    assert (np.asarray(played["action"]).ravel() == actions).all()
    assert np.allclose(played["q_values"], values)
    assert {part.name for part in loaded.metadata.signature.inputs} == {"stack"}
    assert {part.name for part in loaded.metadata.signature.outputs} == {"action", "q_values"}
