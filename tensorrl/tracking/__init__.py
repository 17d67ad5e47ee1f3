"""Records of trials in MLflow and TensorBoard: copies of each trial's folder, which stays the source of truth."""

from tensorrl.tracking.connection import prepare_database, tracking_uri_for
from tensorrl.tracking.model import missing_extra
from tensorrl.tracking.record import MlflowRecord, Records
from tensorrl.tracking.sweep_run import record_sweep
from tensorrl.tracking.sync import SyncOutcome, sync_directory, sync_missing
from tensorrl.tracking.tensorboard import EventFiles, require_tensorboard
from tensorrl.tracking.tensorboard import add_missing as add_event_files
from tensorrl.tracking.view import Link, find_link

__all__ = [
    "EventFiles",
    "Link",
    "MlflowRecord",
    "Records",
    "SyncOutcome",
    "add_event_files",
    "find_link",
    "missing_extra",
    "prepare_database",
    "record_sweep",
    "require_tensorboard",
    "sync_directory",
    "sync_missing",
    "tracking_uri_for",
]
