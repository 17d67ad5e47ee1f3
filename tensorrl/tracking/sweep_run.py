"""A sweep's own run in MLflow: its progress, its cells and its report. Synchronous; the caller handles errors.

The runs of cells are not child runs in MLflow's sense (`mlflow.parentRunId`): a run has one parent, but a cell may
belong to many sweeps. They have a tag for each sweep instead (docs/decisions/0011-one-run-per-cell.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorrl.tracking import connection, entries
from tensorrl.tracking.mirror import experiment_id

SWEEP_TAG = "tensorrl.sweep"
_MOST_RUNS = 50_000


def record_sweep(
    name: str,
    keys: Iterable[str],
    figures: Mapping[str, float],
    *,
    tracking_uri: str,
    experiment: str,
    files: Iterable[Path] = (),
) -> str:
    """Brings a sweep's run up to date, and tags the runs of its cells. Safe to repeat: a sweep has one run.

    Args:
        name: the sweep's name.
        keys: the keys of its cells; cells without a run are skipped.
        figures: metrics, such as the number of finished cells. "cells", "cells_finished" and
            "cells_stopped" decide the run's status.
        tracking_uri: the MLflow server, as `connection.tracking_uri_for` returns it.
        experiment: the MLflow experiment of the sweep.
        files: files and folders to keep as artifacts.

    Returns:
        The run's id.

    Raises:
        Exception: any error of MLflow.
    """
    client = connection.connect(tracking_uri)
    home = experiment_id(client, experiment, tracking_uri)
    run_id = _find_or_create(client, home, name)
    for metric, value in figures.items():
        client.log_metric(run_id, metric, value)
    _tag_cells(client, name, set(keys))
    for path in files:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))
    done = figures.get("cells_finished", 0) + figures.get("cells_stopped", 0) == figures.get("cells")
    client.update_run(run_id, status="FINISHED" if done else "RUNNING")
    return run_id


def _find_or_create(client: Any, experiment: str, name: str) -> str:
    found = client.search_runs([experiment], filter_string=f"tags.`{SWEEP_TAG}` = '{name}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    condition = f"tags.`{entries.sweep_tag(name)}` = 'yes'"
    note = f"A sweep of TensorRL. Its cells: search runs for `{condition}` (all experiments that hold some of them)."
    tags = {SWEEP_TAG: name, "mlflow.runName": f"sweep {name}", "mlflow.note.content": note}
    return str(client.create_run(experiment, tags={**tags, "mlflow.source.name": "tensorrl"}).info.run_id)


def _tag_cells(client: Any, name: str, keys: set[str]) -> None:
    tag = entries.sweep_tag(name)
    everywhere = [each.experiment_id for each in client.search_experiments()]
    token = None
    while True:
        # A cell that an earlier sweep made was recorded before this one existed.
        page = client.search_runs(
            everywhere, filter_string=f"tags.`{entries.KEY_TAG}` LIKE '%'", max_results=_MOST_RUNS, page_token=token
        )
        for run in page:
            if run.data.tags.get(entries.KEY_TAG) in keys and tag not in run.data.tags:
                client.set_tag(run.info.run_id, tag, "yes")
        token = page.token
        if not token:
            return
