"""Brings one MLflow run up to date with one trial's folder. Synchronous; the caller handles every error.

The folder is the source of truth and MLflow is the copy, so this module remembers what was sent only for one
connection. After an error, or in another process, it asks MLflow. Each pass is therefore safe to repeat: a run is found
by the trial's key, a progress line by the sentinel metric at its step, final figures by their presence. The times of
points come from the folder, so if a request is sent again because its answer came too late, the server recognises the
points as the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from tensorrl.tracking import artifacts, connection, entries, model, view
from tensorrl.trial import folder
from tensorrl.trial.cell import sweeps_with

LOCK_FILE = ".mlflow.lock"


class _Run(NamedTuple):
    client: Any
    run_id: str
    experiment_id: str
    status: str
    steps: set[int]
    metrics: frozenset[str]
    tags: frozenset[str]


class Mirror:
    """One trial's folder and its run in MLflow.

    Args:
        directory: the trial's folder.
        tracking_uri: the server, as `connection.tracking_uri_for` returns it.
        experiment: the MLflow experiment that holds the run.

    Attributes:
        recorded: whether MLflow holds the trial's figures and files, and lacks at most the model of its policy.
        finished: whether MLflow holds the complete trial.
    """

    def __init__(self, directory: Path, *, tracking_uri: str, experiment: str) -> None:
        self.directory = directory
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self._run: _Run | None = None
        self.recorded = self.finished = False

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, once it is known."""
        return self._run.run_id if self._run else None

    @property
    def experiment_id(self) -> str | None:
        """The id of the experiment that holds the run, once it is known: another one if the run was there before."""
        return self._run.experiment_id if self._run else None

    @property
    def running(self) -> bool:
        """Whether the run is marked as running, as far as is known."""
        return self._run is not None and self._run.status == "RUNNING"

    def forget(self) -> None:
        """Forgets the server's state, so that it is asked again: after an error, the state there is unknown."""
        self._run = None

    def catch_up(self, *, live: bool) -> int:
        """Sends what the folder has and MLflow lacks; ends the run when the trial has its result.

        Args:
            live: whether the trial is being trained now; an unfinished run is then marked RUNNING.

        Returns:
            The number of progress lines sent. Nothing is sent while the folder holds no trial.

        Raises:
            Exception: any error of MLflow; call `forget`, then call this again.
        """
        trial = folder.read_trial(self.directory)
        if trial is None or self.finished:
            return 0
        # Read before the lines: a result that appears between the two reads waits for the next pass.
        result = folder.read_result(self.directory)
        run = self._run = self._run or self._open(trial)
        if live and result is None and run.status != "RUNNING":
            run.client.update_run(run.run_id, status="RUNNING")
            run = self._run = run._replace(status="RUNNING")
        sent = self._send_lines(run)
        if result is not None:
            self._finish(run, trial, result)
        return sent

    def settle(self, status: str) -> None:
        """Ends the run of a trial that has no result as "FAILED" or "KILLED"; a finished one stays FINISHED.

        A trial that a sweep's scheduler stopped is tagged as such.

        Raises:
            Exception: any error of MLflow.
        """
        if self._run is not None and not self.finished and self._run.status != status:
            if (self.directory / folder.STOPPED_FILE).is_file():
                _log(self._run, tags={entries.STOPPED_TAG: "yes"})
            self._run.client.set_terminated(self._run.run_id, status=status)
            self._run = self._run._replace(status=status)

    def _send_lines(self, run: _Run) -> int:
        written = folder.modified_ms(self.directory / folder.PROGRESS_FILE) or _now_ms()
        lines = [line for line in folder.read_progress(self.directory) if line[folder.STEP] not in run.steps]
        for batch in entries.batches(entries.line_points(line, timestamp=written) for line in lines):
            _log(run, metrics=batch)
            run.steps.update(point.step for point in batch if point.name == entries.SENTINEL)
        return len(lines)

    def _finish(self, run: _Run, trial: dict[str, Any], result: dict[str, Any]) -> None:
        ended = folder.modified_ms(self.directory / folder.RESULT_FILE) or _now_ms()
        lines = folder.read_progress(self.directory)
        points = entries.final_points(result, trial, lines, timestamp=ended)
        if not any(point.name in run.metrics for point in points):
            for batch in entries.batches([points]):
                _log(run, metrics=batch)
        _log(run, tags=entries.final_tags(result, trial) | self._sweep_tags(run))
        if run.status != "FINISHED":
            run.client.set_terminated(run.run_id, status="FINISHED", end_time=ended)
        self._run = run = run._replace(status="FINISHED")
        # Files come last, after the run has ended, because a server may accept figures and refuse files.
        if entries.ARTIFACTS_TAG not in run.tags:
            _log(run, tags={entries.ARTIFACTS_TAG: artifacts.send(run.client, run.run_id, self.directory)})
        self.recorded = True
        if entries.MODEL_TAG not in run.tags:
            logged = model.log_policy(run.client, run.run_id, self.directory, points)
            if logged is not None:
                _log(run, tags={entries.MODEL_TAG: logged})
        self.finished = True

    def _sweep_tags(self, run: _Run) -> dict[str, str]:
        tags = {entries.sweep_tag(name): "yes" for name in sweeps_with(self.directory)}
        return {name: value for name, value in tags.items() if name not in run.tags}

    def _open(self, trial: dict[str, Any]) -> _Run:
        client = connection.connect(self.tracking_uri)
        experiment = experiment_id(client, self.experiment, self.tracking_uri)
        started = folder.modified_ms(self.directory / folder.TRIAL_FILE) or _now_ms()
        found, steps = find_run(client, experiment, trial["key"])
        if found is None:
            found = client.create_run(
                experiment, start_time=started, tags=entries.tags(trial, run_name=self.directory.name)
            )
        held, info = found.data, found.info
        known = (info.run_id, str(info.experiment_id), info.status)
        run = _Run(client, *known, steps, frozenset(held.metrics), frozenset(held.tags))
        missing = {n: v for n, v in entries.parameters(trial).items() if n not in held.params}
        points = [p for p in entries.description_points(trial, timestamp=started) if p.name not in held.metrics]
        tags = self._sweep_tags(run)
        if missing or points or tags:
            _log(run, metrics=points, params=missing, tags=tags)
        return run


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def experiment_id(client: Any, name: str, uri: str) -> str:
    """Returns the id of an experiment, and keeps its page up to date (see `view`).

    The experiment is created if it does not exist, and restored if it was deleted.
    """
    import mlflow.exceptions

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            client.create_experiment(name, artifact_location=connection.artifact_location(uri, name))
        except mlflow.exceptions.MlflowException:
            # Another trial of the sweep may have created it in between; any other error is raised again here.
            if client.get_experiment_by_name(name) is None:
                raise
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    view.keep_view(client, found, uri)
    return str(found.experiment_id)


def find_run(client: Any, experiment: str, key: str) -> tuple[Any | None, set[int]]:
    """Returns the run with a trial's key and the steps that the run holds, or None and no steps.

    A cell that another sweep made is recorded in that sweep's experiment, so all experiments are searched. If a run was
    created twice, because the first answer came too late, the fuller run is kept and the other is deleted.

    Args:
        client: the server's client.
        experiment: the id of the experiment in which a new run would be created.
        key: the trial's key.
    """
    condition = f"tags.`{entries.KEY_TAG}` = '{key}'"
    everywhere = list(dict.fromkeys([experiment, *(each.experiment_id for each in client.search_experiments())]))
    runs = list(client.search_runs(everywhere, filter_string=condition, order_by=["attributes.start_time ASC"]))
    if not runs:
        return None, set()
    held = [{int(m.step) for m in client.get_metric_history(r.info.run_id, entries.SENTINEL)} for r in runs]
    best = max(range(len(runs)), key=lambda i: (len(held[i]), -i))
    for index, run in enumerate(runs):
        if index != best:
            client.delete_run(run.info.run_id)
    return runs[best], held[best]


def _log(
    run: _Run,
    *,
    metrics: list[entries.Point] | None = None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    if metrics:
        run.client.log_batch(run.run_id, metrics=[Metric(*point) for point in metrics])
    for chunk in _chunks(params or {}, entries.PARAMS_PER_BATCH):
        run.client.log_batch(run.run_id, params=[Param(*item) for item in chunk])
    for chunk in _chunks(tags or {}, entries.TAGS_PER_BATCH):
        run.client.log_batch(run.run_id, tags=[RunTag(*item) for item in chunk])


def _chunks(values: dict[str, str], size: int) -> list[list[tuple[str, str]]]:
    items = list(values.items())
    return [items[start : start + size] for start in range(0, len(items), size)]
