"""Sends folders on disk to MLflow, for trials that ran without a server or while it was down."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.tracking import connection
from tensorrl.tracking.memory import is_complete, recall_experiment, remember
from tensorrl.tracking.mirror import LOCK_FILE, Mirror
from tensorrl.tracking.record import one_line
from tensorrl.trial.folder import DamagedFile, find_trials, load_result, load_trial

_GIVE_UP_AFTER = 3
"""After failures for this many folders in a row the server counts as down, because each more may cost a time-out."""


class SyncOutcome(NamedTuple):
    """The outcome for one trial's folder.

    Attributes:
        directory: the folder.
        run_id: the id of its MLflow run; None if it is not known.
        lines_sent: the number of progress lines sent.
        problem: in one line, what went wrong; None if nothing did.
        experiment_id: the id of the experiment that holds the run; None if it is not known.
    """

    directory: Path
    run_id: str | None
    lines_sent: int
    problem: str | None
    experiment_id: str | None = None


def sync_directory(
    directory: Path, *, tracking_uri: str | None = None, experiment: str | None = None
) -> list[SyncOutcome]:
    """Sends every trial's folder at and below `directory` to MLflow, as far as MLflow lacks it.

    Safe to repeat and to interrupt: a run is found again by its trial's key, and what it holds is not sent again.
    A trial that another process is recording is left to that process.

    Args:
        directory: a trial's folder, or any folder that contains trials' folders.
        tracking_uri: the MLflow server. None takes `MLFLOW_TRACKING_URI`, or an SQLite file beside each folder.
        experiment: the MLflow experiment. None takes for each folder the one it was recorded in before, or the name
            of the folder around it.

    Returns:
        One outcome per trial's folder, in the order of their paths. Links to folders are followed.

    Raises:
        InputError: `directory` is not a folder, or contains no trial.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder (allowed: a trial's folder, or a folder that contains trials)")
    found = list(find_trials(directory.absolute()))
    if not found:
        raise InputError(
            f"{directory}: contains no run of tensorrl (allowed: a trial's folder, or a folder that contains trials)"
        )
    return _sync_all(
        (folder, connection.tracking_uri_for(folder, tracking_uri), experiment or recall_experiment(folder))
        for folder in found
    )


def sync_missing(
    directories: Iterable[Path], *, tracking_uri: str, experiment: str, failed: Collection[Path] = ()
) -> list[SyncOutcome]:
    """Like `sync_directory`, but asks the server only about folders that are not known to be complete there.

    Args:
        directories: trials' folders; a folder without a trial, or with a damaged one, is skipped.
        tracking_uri: the MLflow server, as `connection.tracking_uri_for` returns it.
        experiment: the MLflow experiment.
        failed: the folders whose trial ended with an error, so that its run is FAILED instead of KILLED.

    Returns:
        One outcome per folder that was not complete.
    """
    return _sync_all(
        (
            (folder, tracking_uri, experiment)
            for folder in directories
            if _damage(folder) is None and not is_complete(folder, experiment=experiment, tracking_uri=tracking_uri)
        ),
        failed,
    )


def _sync_all(trials: Iterable[tuple[Path, str, str]], failed: Collection[Path] = ()) -> list[SyncOutcome]:
    outcomes: list[SyncOutcome] = []
    failures, reason = 0, None
    for folder, uri, experiment in trials:
        damage = _damage(folder)
        if damage is not None:
            outcomes.append(SyncOutcome(folder, None, 0, damage))
            continue
        if failures >= _GIVE_UP_AFTER:
            outcomes.append(SyncOutcome(folder, None, 0, reason))
            continue
        outcome = _sync(folder, uri, experiment, "FAILED" if folder in failed else "KILLED")
        failures, reason = (failures + 1, outcome.problem) if outcome.problem else (0, None)
        outcomes.append(outcome)
    return outcomes


def _damage(directory: Path) -> str | None:
    """Returns in one line which part of a trial's folder cannot be read; None if all is readable."""
    try:
        load_result(directory)
        if load_trial(directory) is None:
            return f"{directory}: holds no trial"
    except DamagedFile as damaged:
        return one_line(damaged)
    return None


def _sync(directory: Path, uri: str, experiment: str, ended: str) -> SyncOutcome:
    mirror = Mirror(directory, tracking_uri=uri, experiment=experiment)
    try:
        with files.file_lock(directory / LOCK_FILE, wait=False):
            sent = mirror.catch_up(live=False)
            if mirror.running:
                mirror.settle(ended)
            remember(directory, experiment=experiment, complete_in=uri if mirror.finished else None)
    except Exception as error:
        return SyncOutcome(directory, mirror.run_id, 0, one_line(error))
    return SyncOutcome(directory, mirror.run_id, sent, None, mirror.experiment_id)
