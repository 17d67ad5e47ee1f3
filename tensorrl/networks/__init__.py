"""The networks that learn: torsos, streams and heads, dense, noisy or factorised. Torch only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorrl.networks.qnetwork import QNetwork
    from tensorrl.networks.regression import TensorRegression
    from tensorrl.networks.scattering import ScatteringStem
    from tensorrl.networks.spec import NetworkSpec

__all__ = ["NetworkSpec", "QNetwork", "ScatteringStem", "TensorRegression"]

_HOMES = {
    "NetworkSpec": "spec",
    "QNetwork": "qnetwork",
    "ScatteringStem": "scattering",
    "TensorRegression": "regression",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: counting coefficients needs no PyTorch, and its import takes seconds.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
