"""What a sweep of `small_trials` leaves, as tests ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorrl.tracking.connection import connect

# A sweep has a run of its own beside its cells'.
CELLS = "tags.`tensorrl.key` LIKE '%'"


HERE = Path(__file__).parent


def runs_in(out: Path) -> list[Any]:
    client = connect(f"sqlite:///{out / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("tiny").experiment_id], CELLS))


def begun(out: Path) -> list[list[str]]:
    path = out / "begun.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
