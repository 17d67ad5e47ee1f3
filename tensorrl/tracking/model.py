"""A policy as an MLflow model of the ONNX flavour, with a signature: in a folder, and on MLflow's page of models."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tensorrl import games
from tensorrl.errors import one_line
from tensorrl.tracking import entries
from tensorrl.trial import folder
from tensorrl.trial.manifest import CHECKPOINTS, MANIFEST

_log = logging.getLogger(__name__)

MODEL_TYPE = "greedy policy"
_LISTED = ("game", "variant", "seed", "steps", "coefficients", "compression_ratio")
_SCORES = ("score", "human_normalized", "final_score", "final_human_normalized")
_PATIENCE = 300.0
"""Seconds after which the conversion of one network is given up."""


def save_policy(model: bytes, out: Path, *, actions: int, stack: int = 4) -> None:
    """Saves a policy as an MLflow model, which `mlflow.pyfunc.load_model` can load.

    Args:
        model: the ONNX model that `tensorrl.trial.policy_export.to_onnx` returns.
        out: the model's folder; it must not exist.
        actions: number of the game's actions.
        stack: frames per observation.

    Raises:
        Exception: any error of MLflow.
    """
    import mlflow.onnx
    import onnx
    import onnxruntime
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from tensorrl.trial.policy_export import FRAME, INPUT, OUTPUTS

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, stack, FRAME, FRAME), INPUT)]),
        outputs=Schema(
            [
                TensorSpec(np.dtype("int64"), (-1,), OUTPUTS[0]),
                TensorSpec(np.dtype("float32"), (-1, actions), OUTPUTS[1]),
            ]
        ),
    )
    mlflow.onnx.save_model(
        onnx.load_from_string(model),
        str(out),
        signature=signature,
        # Otherwise MLflow imports the model in another process to find them.
        pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
    )


def log_policy(client: Any, run_id: str, directory: Path, points: Iterable[entries.Point]) -> str | None:
    """Logs the greedy policy of a finished trial as a model of its run. A model that the run has is left as it is.

    Args:
        client: the client of the MLflow server.
        run_id: the id of the trial's run.
        directory: the trial's folder.
        points: the final figures of the run. The model gets its scores from them.

    Returns:
        The model's id; None if there is no model to log: the extra `onnx` is not installed, the trial has no checkpoint
        of its last step, or the network cannot be converted, which a warning says.

    Raises:
        Exception: any error of MLflow. The next try replaces a model that was begun.
    """
    trial = folder.read_trial(directory)
    network = directory / CHECKPOINTS / f"{(trial or {}).get('steps', 0):08}"
    if trial is None or not (network / MANIFEST).is_file() or missing_extra() is not None:
        return None
    home = client.get_run(run_id).info.experiment_id
    for held in client.search_logged_models([home], filter_string=f"source_run_id = '{run_id}'"):
        if held.status == "READY":
            return str(held.model_id)
        client.delete_logged_model(held.model_id)
    with tempfile.TemporaryDirectory(prefix="tensorrl-") as draft:
        file, made = Path(draft) / "policy.onnx", Path(draft) / "model"
        fault = _convert(network, file)
        if fault is not None:
            _log.warning("%s: MLflow gets no model of the policy (%s)", directory, fault)
            return None
        save_policy(file.read_bytes(), made, actions=games.get(trial["game"]).actions)
        return _send(client, run_id, home, made, directory.name, trial, list(points))


def _convert(checkpoint: Path, out: Path) -> str | None:
    """Writes the policy of a checkpoint as ONNX; returns the fault in one line, if there is one.

    In another process, because PyTorch's exporter changes settings of the whole process, in which a next trial may
    train by now.
    """
    command = [sys.executable, "-m", "tensorrl.trial.policy_export", str(checkpoint), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        ended = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(str(error))
    said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    return None if ended.returncode == 0 else said[-1][:200]


def _send(
    client: Any, run_id: str, home: str, made: Path, name: str, trial: dict[str, Any], points: list[entries.Point]
) -> str:
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    about = {key: str(trial[key]) for key in _LISTED if key in trial}
    # Without the characters that MLflow refuses in a model's name.
    name = re.sub(r"[/:.%\"']", "_", name)
    begun = client.create_logged_model(home, name=name, source_run_id=run_id, params=about, model_type=MODEL_TYPE)
    described = Model.load(str(made))
    described.model_id, described.run_id = begun.model_id, run_id
    described.save(str(made / MLMODEL_FILE_NAME))
    client.log_model_artifacts(begun.model_id, str(made))
    scores = [point for point in points if point.name in _SCORES]
    # The same points as the run's, so the server does not add them to the run again.
    client.log_batch(run_id, metrics=[Metric(*point, model_id=begun.model_id) for point in scores])
    client.log_outputs(run_id, [LoggedModelOutput(begun.model_id, step=int(trial["steps"]))])
    client.finalize_logged_model(begun.model_id, "READY")
    return str(begun.model_id)


def missing_extra() -> str | None:
    """Returns the line to print where no policy can be logged, because the extra `onnx` is not installed."""
    if all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime")):
        return None
    return "MLflow gets no model of the policy: that needs pip install 'tensorrl[onnx]'"
