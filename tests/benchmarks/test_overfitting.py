"""The table of over-fitting counts the last 40 % of a run's reports."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_store import make_sweep

from benchmarks.overfitting import excess, table
from tensorrl.sweeps.store.report import sweep_record


def report(run: Path, *lines: tuple[int, float | None, float | None]) -> None:
    """Writes reports of agent steps, the loss held out, and the loss beside it."""
    names = ("agent_steps", "loss_held_out", "loss_beside_held_out")
    text = "".join(json.dumps({**dict(zip(names, line, strict=True)), "episodes": 1}) + "\n" for line in lines)
    (run / "progress.jsonl").write_text(text)


def test_the_excess_is_the_mean_over_late_reports_that_have_both_losses(tmp_path: Path) -> None:
    report(tmp_path, (60, 9.0, 1.0), (70, 2.5, 2.25), (80, None, 2.0), (90, 2.0, None), (100, 2.0, 2.25))
    assert excess(tmp_path, 100) == 0.0
    report(tmp_path, (60, 9.0, 1.0), (70, 2.5, 2.25), (100, 2.0, 1.25))
    assert excess(tmp_path, 100) == 0.5
    report(tmp_path, (60, 9.0, 1.0))
    assert excess(tmp_path, 100) is None


def test_seeds_are_averaged_and_cells_without_such_losses_left_out(tmp_path: Path) -> None:
    make_sweep(tmp_path, "pilot", ["assault", "breakout"], {"trl-5x": 1.0, "kfac-trl-5x": 1.0}, range(2))
    record = sweep_record(tmp_path, "pilot")
    assert table(record) is None
    for run, held_out in ((f"assault-kfac-trl-5x-seed{seed}", 1.25 + 0.5 * seed) for seed in range(2)):
        report(next(tmp_path.glob(f"{run}-*")), (100_000, held_out, 1.5))
    report(next(tmp_path.glob("assault-trl-5x-seed1-*")), (100_000, 1.0, 1.125))
    made = table(record)
    assert made is not None
    assert made.columns == ["Agent", "Assault", "Breakout"]
    assert made.rows == [["trl-5x", "−0.125 (1)", "–"], ["kfac-trl-5x", "0.000 (2)", "–"]]
