"""A sweep beside a real MLflow server on PostgreSQL that is killed, answers 500, and comes back."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from servers import Proxy, free_port, mlflow_server, postgres

from tensorrl.sweeps import SweepSpec, run_sweep
from tensorrl.sweeps.driver import worker
from tensorrl.tracking.connection import connect

SWEEPS = Path(__file__).parents[1] / "sweeps"
CELLS, STEPS, PAUSE = 8, 6_000, 0.3
"""Of a sweep: cells, agent steps (60 progress lines each), and seconds a line."""


@pytest.fixture
def ray() -> Iterator[None]:
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(SWEEPS), os.environ.get("PYTHONPATH", "")])
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def run(store: Path, name: str, first_seed: int) -> tuple[float, float]:
    """Runs a sweep; returns the seconds from its first begun to its last finished trial, and those of the whole."""
    seeds = list(range(first_seed, first_seed + CELLS))
    fields = {"name": name, "games": ["pong"], "variants": ["rainbow"], "seeds": seeds, "steps": STEPS}
    store.mkdir()
    (store / "pause").write_text(str(PAUSE))
    began = time.time()
    rows = run_sweep(SweepSpec.model_validate(fields), store)
    whole = time.time() - began
    assert [row.state for row in rows] == ["finished"] * CELLS
    first = min((row.folder / "trial.json").stat().st_mtime for row in rows)
    return max((row.folder / "result.json").stat().st_mtime for row in rows) - first, whole


def check_complete(uri: str, name: str) -> None:
    client = connect(uri)
    home = client.get_experiment_by_name(name).experiment_id
    runs = client.search_runs([home], "tags.`tensorrl.key` LIKE '%'")
    assert len({run.data.tags["tensorrl.key"] for run in runs}) == len(runs) == CELLS
    for one in runs:
        assert one.info.status == "FINISHED"
        assert one.data.tags["tensorrl.artifacts"] == "settings, curve"
        for metric, times in (("loss", STEPS // 100), ("agent_steps", STEPS // 100), ("score", 1)):
            history = client.get_metric_history(one.info.run_id, metric)
            assert len({point.step for point in history}) == len(history) == times, (metric, times)
    (parent,) = client.search_runs([home], f"tags.`tensorrl.sweep` = '{name}'")
    assert parent.info.status == "FINISHED"
    assert "report" in {entry.path for entry in client.list_artifacts(parent.info.run_id)}


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_server_killed_then_answering_500_then_back_costs_no_time_and_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TRIAL_FUNCTION", "small_trials:run")
    port = free_port()
    proxy = Proxy(port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    said: dict[str, Any] = {}
    with postgres() as database:
        with mlflow_server(port, tmp_path, database):
            calm, calm_whole = run(tmp_path / "calm", "calm", 0)
            check_complete(proxy.uri, "calm")

        def disturb(held: ExitStack, server: ExitStack) -> None:
            while not list((tmp_path / "storm").glob("*/progress.jsonl")):
                time.sleep(0.1)
            time.sleep(0.1 * calm)
            proxy.mode = "gone"
            server.close()
            time.sleep(0.25 * calm)
            held.enter_context(mlflow_server(port, tmp_path, database))
            proxy.mode = "500"
            time.sleep(0.25 * calm)
            proxy.mode = "pass"
            said["back"] = time.time()

        with ExitStack() as held:
            server = ExitStack()
            server.enter_context(mlflow_server(port, tmp_path, database))
            disturber = threading.Thread(target=disturb, args=(held, server))
            disturber.start()
            storm, storm_whole = run(tmp_path / "storm", "storm", 100)
            disturber.join()
            check_complete(proxy.uri, "storm")
    proxy.close()
    print(json.dumps({"calm": [calm, calm_whole], "storm": [storm, storm_whole], "requests": proxy.answered}))
    assert proxy.answered["gone"] > 0
    assert proxy.answered["500"] > 0
    last = max(path.stat().st_mtime for path in (tmp_path / "storm").glob("*/result.json"))
    assert said["back"] < last, "the server came back after the sweep: nothing was shown; make the trials longer"
    # What trials wait at their ends, and a busy machine's own noise.
    assert storm < 1.15 * calm + 3
