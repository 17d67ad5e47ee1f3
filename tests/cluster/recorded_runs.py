"""Prints, as JSON, what the MLflow server of the environment holds of an experiment. Run on a host of a laboratory."""

from __future__ import annotations

import json
import sys

import mlflow

from tensorrl.tracking.entries import KEY_TAG, SENTINEL


def main(experiment: str) -> None:
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no experiment {experiment}"
    rows = []
    for run in client.search_runs([found.experiment_id], max_results=1000):
        if KEY_TAG not in run.data.tags:
            continue
        history = client.get_metric_history(run.info.run_id, SENTINEL)
        steps = [metric.step for metric in history]
        rows.append({"key": run.data.tags[KEY_TAG], "status": run.info.status, "steps": sorted(steps)})
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
