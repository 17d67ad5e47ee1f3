"""Answers: differences recomputed by hand, and the number of runs held against simulated experiments."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep

from tensorrl import games
from tensorrl.analysis import answers
from tensorrl.analysis.scoreboard import PAPER
from tensorrl.sweeps.store.report import sweep_record


def test_as_many_runs_as_are_said_tell_the_difference_in_four_of_five_experiments() -> None:
    spreads = [(0.3, 0.2), (0.05, 0.1), (0.6, 0.4)]
    runs = answers.runs_to_tell(spreads, 0.1)
    assert runs is not None
    draws = np.random.default_rng(0)

    def told(count: int) -> float:
        seen = 0
        for _ in range(2_000):
            pairs = [(draws.normal(0.1, a, count), draws.normal(0, b, count)) for a, b in spreads]
            gap = np.mean([one.mean() - other.mean() for one, other in pairs])
            width = 1.96 * np.sqrt(sum(a**2 + b**2 for a, b in spreads) / count) / len(spreads)
            seen += abs(gap) > width
        return seen / 2_000

    assert told(runs) == pytest.approx(0.8, abs=0.03)
    assert told(runs // 2) < 0.6
    assert answers.runs_to_tell(spreads, 0) is None


def test_a_row_says_what_the_cells_say_and_how_many_there_are(tmp_path: Path) -> None:
    variants = {name: PAPER_VARIANTS[name] for name in ("rainbow", "denoised", "trl-5x")}
    make_sweep(tmp_path, "small", ["krull", "assault"], variants, range(3))
    record = sweep_record(tmp_path, "small")
    made = answers.table(record, PAPER)
    assert [row[1] for row in made.rows] == ["denoised, rainbow", "trl-5x, rainbow"]
    means = {
        label: statistics.fmean(
            statistics.fmean(
                games.human_normalized(game, cell.result["score"]) for cell in record.of(label) if cell.game == game
            )
            for game in ("krull", "assault")
        )
        for label in variants
    }
    for row, label in zip(made.rows, ("denoised", "trl-5x"), strict=True):
        assert row[2] == "2 × 3"
        value = float(row[3].split(" ")[0].replace("−", "-"))
        assert value == pytest.approx(means[label] - means["rainbow"], abs=5e-4)
        assert row[6].startswith("~")


def test_before_any_cell_is_finished_the_runs_follow_from_published_ones(tmp_path: Path) -> None:
    variants = dict.fromkeys(("rainbow", "denoised"), 1.0)
    make_sweep(tmp_path, "none", ["assault"], variants, range(1))
    for path in tmp_path.glob("*/result.json"):
        path.unlink()
    (row,) = answers.table(sweep_record(tmp_path, "none"), PAPER).rows
    assert row[2:6] == ["0", "–", "–", "nothing yet"]
    about = games.published()["assault"]
    wanted = (1.96 + 0.8416) ** 2 * 2 * about.der_rliable100_sd**2 / (0.1 * (about.der_rliable100_mean - 222.4)) ** 2
    assert int(row[6]) == pytest.approx(wanted, abs=1.1)
