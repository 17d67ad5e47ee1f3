"""What every test runs under: one thread, no server or cluster of the developer's, no telemetry."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# What tests of several rooms share (synthetic_store, browser) lies beside this file.
sys.path.insert(0, str(Path(__file__).parent))

# Read by Torch, BLAS and their children when they load, so that tests which need none of them need not import Torch.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# A test run must never write to the server, or start work on the cluster, that a developer's shell points at.
for _variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "RAY_ADDRESS", "TENSORRL_REMOTE"):
    os.environ.pop(_variable, None)

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray gives its workers nice 15: beside other programs on a machine their tests would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

# Shared machines stall for seconds: a deadline per example would fail by chance. CI draws the same examples each time.
settings.register_profile("tensorrl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tensorrl")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Undoes a change of Torch's thread count, which is global, after the test that made it."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
