"""A game of ALE that is not one of Atari 100k's 26 is trained, evaluated, filmed and reported by its name in ALE."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
name: other
games: [ALE/Berzerk-v5]
variants: [trl-5x]
seeds: 1
steps: 400
settings: {learning_starts: 200}
evaluation: {final_episodes: 1}
"""


def run(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tensorrl", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_game_outside_the_26_is_trained_evaluated_filmed_and_reported(tmp_path: Path) -> None:
    from imageio_ffmpeg import read_frames

    (tmp_path / "other.yaml").write_text(SWEEP)
    run("sweep", "other.yaml", "--out", "runs", cwd=tmp_path)
    (cell,) = (tmp_path / "runs").glob("berzerk-trl-5x-seed0-*")
    result = json.loads((cell / "result.json").read_text())
    assert result["updates"] > 0
    assert result["human_normalized"] is not None
    played = json.loads(run("evaluate", cell, "--episodes", 1, "--video", "game.mp4", "--json", cwd=tmp_path))
    assert (played["game"], played["agent_steps"]) == ("berzerk", 400)
    frames = read_frames(str(tmp_path / "game.mp4"))
    assert next(frames)["size"][1] >= 210
    assert sum(1 for _ in frames) > 10
    run("report", "other", "--store", "runs", cwd=tmp_path)
    page = (tmp_path / "runs" / ".sweeps" / "other" / "report" / "index.html").read_text()
    assert "Berzerk" in page or "berzerk" in page
