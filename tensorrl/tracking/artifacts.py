"""The artifacts of a finished trial in MLflow: its settings, its learning curve, its final network."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tensorrl.trial import folder
from tensorrl.trial.manifest import CHECKPOINTS

SETTINGS_FILE = "settings.json"
CHECKPOINT_FOLDER = "checkpoint"


def send(client: Any, run_id: str, directory: Path) -> str:
    """Sends a finished trial's files, and replaces files that an earlier try left.

    Args:
        client: the client of the MLflow server.
        run_id: the id of the trial's run.
        directory: the trial's folder.

    Returns:
        The text of a tag that lists what was sent. There is no checkpoint if the trial keeps none, or a damaged one.

    Raises:
        Exception: any error of MLflow.
    """
    with tempfile.TemporaryDirectory(prefix="tensorrl-") as draft:
        listed = collect(directory, Path(draft))
        client.log_artifacts(run_id, draft)
    return ", ".join(listed)


def collect(directory: Path, out: Path) -> list[str]:
    """Copies a finished trial's artifacts to another folder.

    The checkpoint is the final one without the parts that only resumed training needs (replay, the optimizer's state),
    which make up most of its size. `tensorrl evaluate` can play with it.

    Args:
        directory: the trial's folder.
        out: an empty folder.

    Returns:
        The names of the artifacts that exist: "settings", "curve", "checkpoint".
    """
    listed = ["settings"]
    # Under another name, because a folder with a `trial.json` counts as a trial's, and artifacts may be in the store.
    shutil.copy(directory / folder.TRIAL_FILE, out / SETTINGS_FILE)
    shutil.copy(directory / folder.RESULT_FILE, out)
    lines = folder.read_progress(directory)
    if lines:
        shutil.copy(directory / folder.PROGRESS_FILE, out)
        listed.append("curve")
    if any("episode_return" in line or "evaluation_return" in line for line in lines):
        from tensorrl.analysis import curves

        curves.draw([directory], out / "curve.png")
    return listed + _collect_checkpoint(directory / CHECKPOINTS, out / CHECKPOINT_FOLDER)


def _collect_checkpoint(kept: Path, out: Path) -> list[str]:
    from tensorrl.trial import checkpoints

    found = checkpoints.checkpoints(kept)
    if not found:
        return []
    try:
        checkpoints.export_network(found[-1], out)
    except checkpoints.DamagedCheckpoint:
        return ["no checkpoint (damaged)"]
    return ["checkpoint"]
