"""Whoever reads a damaged file of reports reads the same steps out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow_runs import runs_of, steps_of

from tensorrl.analysis.curves import load_curve
from tensorrl.analysis.paper_figures import returns_of
from tensorrl.sweeps import sweep_status
from tensorrl.sweeps.remote.cell_copy import bring_cell
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.store.report import sweep_record
from tensorrl.tracking import sync_directory
from tensorrl.trial.cell import Cell
from tensorrl.trial.folder import read_progress
from tensorrl.trial.run import Interrupted, TrialSpec, run_trial

KEPT = [20, 60, 100, 120]


@pytest.fixture
def cell(tmp_path: Path, store: str) -> Path:
    """A stopped trial in a store, with a checkpoint after all its good reports, and reports that are damaged."""
    spec = TrialSpec(game="pong", variant="denoised", steps=400, device="cpu", threads=1, checkpoint_every=120)
    folder = tmp_path / "runs" / f"pong-denoised-seed0-{spec.key[:8]}"
    with pytest.raises(Interrupted):
        run_trial(spec, folder, stop=lambda: True)
    with pytest.raises(Interrupted):
        run_trial(spec, folder, resume=True, stop=lambda: len(read_progress(folder)) >= 6)
    lines = [
        {"agent_steps": 20, "episodes": 1, "episode_return": -21.0},
        '{"agent_steps": 40, "episo',
        {"agent_steps": 60, "episodes": 2, "episode_return": -20.0},
        {"episode_return": -19.0},
        {"agent_steps": True, "episode_return": -19.0},
        {"agent_steps": "80", "episode_return": -19.0},
        "[" * 100_000,
        "\udcff",
        [80],
        {"agent_steps": 100, "episodes": 3, "episode_return": -18.0, "steps_per_second": "fast"},
        {"agent_steps": 120, "episodes": 4, "episode_return": -17.0},
    ]
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    # The last is whole but for its line feed: its writer was not done.
    last = json.dumps({"agent_steps": 140, "episodes": 5, "episode_return": -16.0})
    (folder / "progress.jsonl").write_text(text + last, errors="surrogateescape")
    row = Cell(spec.key, folder.name, "pong", "denoised", 0, 400).row()
    (tmp_path / "runs" / ".sweeps" / "one").mkdir(parents=True)
    (tmp_path / "runs" / ".sweeps" / "one" / "cells.json").write_text(json.dumps({"cells": [row]}))
    return folder


def test_resume_status_report_curves_sync_and_pull_agree_on_damaged_reports(
    cell: Path, store: str, tmp_path: Path
) -> None:
    (row,) = sweep_status(cell.parent, "one").rows
    assert (row.agent_steps, row.state, row.steps_per_second) == (KEPT[-1], "unfinished", None)
    (reported,) = sweep_record(cell.parent, "one").cells
    assert reported.agent_steps == KEPT[-1]
    assert returns_of(read_progress(reported.folder)).steps.tolist() == KEPT
    assert [steps for steps, _ in load_curve(cell).returns] == KEPT
    (outcome,) = sync_directory(cell.parent)
    assert (outcome.problem, outcome.lines_sent) == (None, len(KEPT))
    (run,) = runs_of(store, "runs")
    assert steps_of(store, run)["episode_return"] == KEPT
    remote = tmp_path / "remote"
    remote.mkdir()
    shutil.copytree(cell, remote / cell.name)
    bring_cell(Remote(remote.as_uri()), tmp_path, cell.name)
    assert [line["agent_steps"] for line in read_progress(tmp_path / cell.name)] == KEPT

    spec = TrialSpec(game="pong", variant="denoised", steps=400, device="cpu", threads=1, checkpoint_every=120)
    with pytest.raises(Interrupted):
        run_trial(spec, cell, resume=True, stop=lambda: True)
    held = (cell / "progress.jsonl").read_text().splitlines()
    steps = [json.loads(line)["agent_steps"] for line in held]
    assert steps[: len(KEPT)] == KEPT
    # What the checkpoint comes after is written again, in lines of its own.
    assert steps[len(KEPT) :] == list(range(140, steps[-1] + 1, 20))
