"""Notes in a trial's folder about its record in MLflow, so that a later sync finds the same run or nothing to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tensorrl import files
from tensorrl.trial.folder import read_json, read_trial

MEMORY_FILE = "mlflow.json"


def recall_experiment(directory: Path) -> str:
    """Returns the experiment that a trial's folder was recorded in, by default the name of the folder around it."""
    kept = (read_json(directory / MEMORY_FILE) or {}).get("experiment")
    return kept if isinstance(kept, str) and kept else directory.absolute().parent.name or "tensorrl"


def remember(directory: Path, *, experiment: str, complete_in: str | None = None) -> None:
    """Notes in the trial's folder where the trial is recorded.

    Args:
        directory: the trial's folder.
        experiment: the MLflow experiment.
        complete_in: the tracking URI of the server that holds the complete, finished trial; None while no server does.
    """
    path, content = directory / MEMORY_FILE, _content(directory, experiment, complete_in)
    if read_json(path) == content:
        return
    # Not synced to disk: if a power cut destroys it, MLflow is asked once more.
    files.write_text(path, json.dumps(content) + "\n", sync=False)


def is_complete(directory: Path, *, experiment: str, tracking_uri: str) -> bool:
    """Returns whether the server is known to hold the complete, finished trial of this folder."""
    return read_json(directory / MEMORY_FILE) == _content(directory, experiment, tracking_uri)


def _content(directory: Path, experiment: str, complete_in: str | None) -> dict[str, Any]:
    if complete_in is None:
        return {"experiment": experiment}
    # A digest, because it is only compared. It includes the key, because the folder may later hold another trial.
    what = f"{complete_in} {(read_trial(directory) or {}).get('key')}"
    return {"experiment": experiment, "complete": hashlib.sha256(what.encode()).hexdigest()}
