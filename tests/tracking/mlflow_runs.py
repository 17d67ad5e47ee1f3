"""What MLflow holds of trials, as tests ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorrl.tracking import MlflowRecord
from tensorrl.tracking.connection import connect


def runs_of(uri: str, experiment: str) -> list[Any]:
    client = connect(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def steps_of(uri: str, run: Any) -> dict[str, list[int]]:
    client = connect(uri)
    return {name: sorted(m.step for m in client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}


def record_once(directory: Path, experiment: str, *, failed: bool = False) -> None:
    record = MlflowRecord(directory, experiment=experiment)
    record.close(120, failed=failed)
    assert record.delivered
