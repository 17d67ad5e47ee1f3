"""A policy as an MLflow model of the ONNX flavour, with a signature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tensorrl.trial.policy_export import FRAME, INPUT, OUTPUTS


def save_policy(model: bytes, folder: Path, *, actions: int, stack: int = 4) -> None:
    """Saves a policy as an MLflow model, which `mlflow.pyfunc.load_model` can load.

    Args:
        model: the ONNX model that `tensorrl.trial.policy_export.to_onnx` returns.
        folder: the model's folder; it must not exist.
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
        str(folder),
        signature=signature,
        # Otherwise MLflow imports the model in another process to find them.
        pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
    )
