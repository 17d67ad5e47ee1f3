"""What of a finished trial's folder becomes files of its MLflow run: its settings, its curve, its final network."""

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
    """Sends a finished trial's files, in place of those that an earlier try left.

    Args:
        client: of the MLflow server.
        run_id: of the trial's run.
        directory: the trial's folder.

    Returns:
        What was sent, for a tag: the checkpoint is missing where the trial keeps none, or a damaged one.

    Raises:
        Exception: whatever MLflow raises.
    """
    with tempfile.TemporaryDirectory(prefix="tensorrl-") as draft:
        listed = collect(directory, Path(draft))
        client.log_artifacts(run_id, draft)
    return ", ".join(listed)


def collect(directory: Path, out: Path) -> list[str]:
    """Gathers a finished trial's files in another folder.

    The checkpoint is the final one without what only a resumed training needs (replay, the optimizer's state), a small
    part of its size: `tensorrl evaluate` plays with it.

    Args:
        directory: the trial's folder.
        out: an empty folder.

    Returns:
        Names of what is there: "settings", "curve", "checkpoint".
    """
    listed = ["settings"]
    # Under another name: a folder with a `trial.json` is a trial's, and artifacts may lie inside the store.
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
