"""A trial's folder to write to and an SQLite store of its own for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trial_folder import TrialFolder

from tensorrl.tracking import prepare_database


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "runs" / "pong-denoised-seed3")


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(tmp_path: Path, _empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a prepared SQLite store, where a folder under `runs` finds it by default."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir(exist_ok=True)
    shutil.copy(_empty_store, tmp_path / "runs" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
