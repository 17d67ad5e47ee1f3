"""Figures quoted in docs/ are those of the cells, and a text that asks for others is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_store import make_sweep

from benchmarks.quotes import Quotes, fill, of_sweeps
from tensorrl.analysis.records import SweepRecord
from tensorrl.errors import InputError
from tensorrl.sweeps.store.report import sweep_record


def put(store: Path, cell: str, *, excess: float = 0.0, **result: float) -> None:
    """Gives a finished cell other figures, and a last report with an excess loss."""
    folder = next(store.glob(f"{cell}-*"))
    file = folder / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **result}))
    line = {"agent_steps": 100_000, "episodes": 1, "loss_held_out": 1 + excess, "loss_beside_held_out": 1.0}
    (folder / "progress.jsonl").write_text(json.dumps(line) + "\n")


@pytest.fixture
def record(tmp_path: Path) -> SweepRecord:
    """Two agents, two games, two seeds. On Assault 222.4 is 0 and 742 is 1, on Breakout 1.7 and 30.5."""
    make_sweep(tmp_path, "pilot", ["assault", "breakout"], {"trl-5x": 1.0, "kfac-trl-5x": 1.0}, range(2))
    for seed, (adam, kfac) in enumerate([(742.0, 482.2), (742.0, 1_001.8)]):
        put(tmp_path, f"assault-trl-5x-seed{seed}", final_score=adam, score=500, processor_seconds=100, excess=0.25)
        put(tmp_path, f"assault-kfac-trl-5x-seed{seed}", final_score=kfac, score=400, processor_seconds=80, excess=0.5)
        put(tmp_path, f"breakout-trl-5x-seed{seed}", final_score=30.5, score=2, processor_seconds=100, excess=0.125)
        put(tmp_path, f"breakout-kfac-trl-5x-seed{seed}", final_score=1.7, score=3, processor_seconds=50 + 30 * seed)
    return sweep_record(tmp_path, "pilot")


def test_scores_are_listed_by_seed(record: SweepRecord) -> None:
    quotes = Quotes(record)
    assert quotes.finished == "8 of 8"
    assert quotes.scores("kfac-trl-5x", "assault") == "482 and 1,002"
    assert quotes.scores("kfac-trl-5x", "assault", seeds=[1]) == "1,002"
    assert quotes.scores("kfac-trl-5x", "breakout", "paper") == "3.0 and 3.0"
    with pytest.raises(LookupError, match="no finished cell of trl-5x on pong"):
        quotes.scores("trl-5x", "pong")


def test_training_returns_are_a_mean_over_reports_and_runs(record: SweepRecord, tmp_path: Path) -> None:
    for seed, returns in enumerate([(9.0, 1.0, None, 2.0), (9.0, 6.0, 7.0, 8.0)]):
        lines = [
            {"agent_steps": 1_000 * k, "episodes": 1, "episode_return": each}
            for k, each in enumerate(returns, 1)
            if each is not None
        ]
        folder = next(tmp_path.glob(f"breakout-trl-5x-seed{seed}-*"))
        (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    quotes = Quotes(record)
    assert quotes.returns("trl-5x", "breakout", 1_000, 3_000) == "4.7"  # of 1, 6 and 7
    with pytest.raises(LookupError, match="no training games"):
        quotes.returns("trl-5x", "breakout", 4_000, 5_000)


def test_differences_are_human_normalised_with_their_interval(record: SweepRecord) -> None:
    quotes = Quotes(record)
    # Assault: the mean of 0.5 and 1.5 against 1; Breakout: 0 against 1. Resampled, Assault's mean is 0.5, 1 or 1.5.
    assert quotes.gap("kfac-trl-5x", "trl-5x") == "−0.50 (−0.75 to −0.25)"
    assert quotes.chance("kfac-trl-5x", "trl-5x") == "0.25 (0.00 to 0.50)"
    assert quotes.extent("kfac-trl-5x", "trl-5x") == "two games, two runs"
    # Variances 0.5 and 0 over two games, a tenth of 1: (1.96 + 0.8416)² · 0.5 / 4 / 0.01 = 98.1.
    assert quotes.runs_to_tell("kfac-trl-5x", "trl-5x") == 99


def test_pairs_are_runs_of_one_game_and_seed(record: SweepRecord) -> None:
    quotes, pair = Quotes(record), ("kfac-trl-5x", "trl-5x")
    assert quotes.lower(pair) == "3 of 4"
    assert quotes.lower(pair, by="paper") == "2 of 4"
    assert quotes.lower(pair, ("trl-5x", "kfac-trl-5x")) == "4 of 8"
    assert quotes.overfits_more(pair) == "2 of 4"
    assert quotes.excess("kfac-trl-5x", "trl-5x") == "0.000 to 0.500"
    assert quotes.time_share(pair) == "0.50 to 0.80, median 0.80"
    with pytest.raises(LookupError, match="same game and seed"):
        quotes.lower(("rainbow", "trl-5x"))


def test_agents_of_two_sweeps_are_told_apart_by_the_sweeps_name(record: SweepRecord) -> None:
    known = of_sweeps([record, SweepRecord("again", record.cells)])
    assert known["all"].lower(("again/kfac-trl-5x", "pilot/trl-5x")) == "3 of 4"
    assert known["all"].finished == "16 of 16"


def test_a_text_is_wrapped_anew_around_its_figures(record: SweepRecord) -> None:
    text = 'Cells:\n{{ pilot.finished }}\n\n- one {{ pilot.scores("trl-5x", "assault") }}\n  and\n- ' + "two " * 40
    first, items = fill(text, {"pilot": Quotes(record)}).rstrip("\n").split("\n\n")
    assert first == "Cells: 8 of 8"
    assert items.splitlines()[0] == "- one 742 and 742 and"
    assert items.splitlines()[1].startswith("- two two")
    assert items.splitlines()[2].startswith("  two")
    assert max(map(len, items.splitlines())) <= 120


def test_a_figure_that_there_is_not_is_one_line(record: SweepRecord) -> None:
    quotes = {"pilot": Quotes(record)}
    for text, line in (
        ("{{ other.finished }}", "'other' is undefined"),
        ("{{ pilot.best }}", "has no attribute 'best'"),
        ("{{ pilot.scores('trl-5x', 'pong') }}", "no finished cell of trl-5x on pong"),
        ("{{ pilot.finished", "unexpected end of template"),
    ):
        with pytest.raises(InputError, match=line):
            fill(text, quotes)
