"""Runs side by side: what differs between them, and what came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_store import make_sweep

from tensorrl.analysis.comparison import compare
from tensorrl.errors import InputError


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    rows = make_sweep(tmp_path, "two", ["pong"], {"rainbow": 1.0, "trl-5x": 0.9}, [3])
    return [tmp_path / row["folder"] for row in rows]


def test_only_what_differs_is_named_and_results_stand_side_by_side(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.differing == {
        "variant": ("rainbow", "trl-5x"),
        "noisy": ("true", "false"),
        "factorization": ("none", "tucker"),
        "compression": ("none", "5.0"),
    }
    assert found.figures["coefficients"] == ("828,842", "165,674")
    assert found.figures["compression ratio"] == ("1.00", "5.00")
    score = json.loads((runs[0] / "result.json").read_text())["score"]
    assert found.figures["score"][0] == f"{score:,.1f}"


def test_a_setting_that_an_earlier_version_did_not_have_counts_as_its_default(runs: list[Path]) -> None:
    file = runs[0] / "trial.json"
    trial = json.loads(file.read_text())
    del trial["settings"]["n_step"], trial["settings"]["noisy"]
    file.write_text(json.dumps(trial))
    assert "n_step" not in compare(runs).differing
    assert compare(runs).differing["noisy"] == ("true", "false")


def test_what_cannot_be_compared_is_said(runs: list[Path], tmp_path: Path) -> None:
    for given, said in (
        (runs[:1], "at least two runs"),
        ([runs[0], runs[0]], "named twice"),
        ([runs[0], tmp_path / "nothing"], "contains no run of tensorrl"),
    ):
        with pytest.raises(InputError, match=said):
            compare(given)
