"""The record of trials in MLflow: a copy of each trial's folder, which stays the source of truth."""

from tensorrl.tracking.connection import prepare_database, tracking_uri_for
from tensorrl.tracking.record import MlflowRecord
from tensorrl.tracking.sweep_run import record_sweep
from tensorrl.tracking.sync import SyncOutcome, recorded_at, sync_directory, sync_missing
from tensorrl.tracking.view import Link, find_link

__all__ = [
    "Link",
    "MlflowRecord",
    "SyncOutcome",
    "find_link",
    "prepare_database",
    "record_sweep",
    "recorded_at",
    "sync_directory",
    "sync_missing",
    "tracking_uri_for",
]
