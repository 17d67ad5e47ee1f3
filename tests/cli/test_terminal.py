"""On a terminal of 80 columns: one labelled estimate, then where the results are and what is next."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from terminal import COLUMNS, capture

QUICK = [
    "--set", "learning_starts=100", "--set", "epsilon_decay=50", "--set", "final_episodes=2000", "--set",
    "evaluation_epsilon=1.0",
]  # fmt: skip
SWEEP = """
name: tiny
games: [breakout]
variants: [denoised]
seeds: 2
steps: 300
settings: {learning_starts: 100, epsilon_decay: 50}
evaluation: {final_episodes: 2000, epsilon: 1.0}
"""
LINK = "MLflow: http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=tensorrl&workflowType=machine_learning"
ESTIMATE = r"(about [\d.]+ (s|min|h|days) left|time left: not known yet)$"


def bars(lines: list[str], what: str) -> list[str]:
    """The drawings of one bar."""
    return [line for line in lines if re.match(rf"{what}\s", line) and "━" in line]


def check_bars(found: list[str]) -> None:
    assert found
    for line in found:
        assert len(line) <= COLUMNS, line
        assert line.count("left") <= 1, line
    assert any(re.search(r"about [\d.]+ s left$", line) for line in found), found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    home = tmp_path_factory.mktemp("terminal")
    return home, capture(
        "train", "--game", "ALE/SpaceInvaders-v5", "--variant", "denoised", "--steps", 300, *QUICK, "--out", "runs/one",
        "--threads", 1, "--device", "cpu", cwd=home,
    )  # fmt: skip


def test_train_shows_one_estimate_and_says_what_is_next(trained: tuple[Path, list[str]]) -> None:
    _, lines = trained
    training, evaluating = bars(lines, "training"), bars(lines, "evaluating")
    check_bars(training)
    assert any(re.search(r"300/300 .*steps/s", line) for line in training)
    assert all(len(line) <= COLUMNS for line in evaluating)
    assert re.search(r"6/6 games", evaluating[-1])
    assert all(re.search(ESTIMATE, line) for line in evaluating)
    # While games are played, the one estimate stands beside them.
    after = lines[lines.index(evaluating[0]) + 1 :]
    assert not [line for line in bars(after, "training") if "left" in line]
    (row,) = [line for line in lines if re.match(r"\s*space_invaders\s+denoised\s", line)]
    assert len(row) <= COLUMNS
    assert "441,669" in row
    shown = "\n".join(lines)
    assert "results: runs/one" in shown
    assert "tensorrl evaluate runs/one --episodes 1 --video runs/one/game.mp4" in shown
    assert "tensorrl curves runs/one --out runs/one/curves.png" in shown
    assert LINK in shown.replace("\n", "")
    assert "start it first: mlflow ui --backend-store-uri sqlite:///" in shown.replace("\n", "")


def test_evaluate_shows_one_estimate_and_says_what_is_next(trained: tuple[Path, list[str]]) -> None:
    home, _ = trained
    lines = capture("evaluate", "runs/one", "--episodes", 18, "--threads", 1, cwd=home)
    found = bars(lines, "evaluating")
    check_bars(found)
    assert "18/18 games" in found[-1]
    shown = "\n".join(lines)
    assert "space_invaders after 300 agent steps" in shown
    assert "tensorrl evaluate runs/one --episodes 1 --video game.mp4" in shown
    assert "tensorrl curves runs/one --out curves.png" in shown
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_nothing_is_drawn_before_an_error(trained: tuple[Path, list[str]]) -> None:
    home, _ = trained
    (line,) = capture("train", "--game", "pnog", "--out", "x", cwd=home, code=2)
    assert "unknown game 'pnog'; did you mean 'pong'?" in line
    said = "".join(
        capture("train", "--game", "space_invaders", "--variant", "rainbow", "--seed", 1, "--steps", 300,
                "--out", "runs/one", cwd=home, code=2)
    )  # fmt: skip
    assert said.startswith("tensorrl: runs/one: holds another run, with variant denoised where rainbow is asked for")
    assert "seed 0 where 1 is asked for" in said
    assert "━" not in said


@pytest.mark.slow
def test_sweep_and_status_show_one_estimate_and_what_is_next(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    lines = capture("sweep", "tiny.yaml", "--out", "store", cwd=tmp_path)
    check_bars(bars(lines, "sweep"))
    assert any(re.search(r"\d/2 cells.* running, \d+ steps/s", line) for line in bars(lines, "sweep"))
    shown = "\n".join(lines)
    assert f"results: {tmp_path}/store" in shown.replace("\n", "")
    assert "index.html" in shown
    assert "tensorrl report tiny --store" in shown
    assert LINK in shown.replace("\n", "")
    status = capture("status", "tiny", "--out", "store", cwd=tmp_path)
    assert "2 of 2 cells finished" in "\n".join(status)
    assert all(len(line) <= COLUMNS for line in status)
