"""The table of K-FAC's search: every set of settings beside Adam at its own rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_store import make_sweep

from benchmarks.kfac_search import label, table
from tensorrl.analysis.table_formats import markdown
from tensorrl.sweeps.store.exchange import export
from tensorrl.trial.variants import resolve

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("variant", "changes", "said"),
    [
        ("trl-5x", {}, "Adam"),
        ("trl-5x", {"learning_rate": 3e-4, "update_interval": 2}, "Adam, learning_rate=0.0003, update_interval=2"),
        ("kfac-trl-5x", {"learning_rate": 1e-4}, "K-FAC, learning_rate=0.0001"),
        (
            "kfac-trl-5x",
            {"learning_rate": 3e-4, "kfac_graft": True, "kfac_damping": 0.1},
            "K-FAC, learning_rate=0.0003, damping=0.1, graft",
        ),
    ],
)
def test_a_row_is_named_by_what_it_changes(variant: str, changes: dict[str, object], said: str) -> None:
    overrides = {**changes, **({"kfac_curvature_interval": 25} if variant.startswith("kfac") else {})}
    assert label(resolve(variant, overrides).model_dump(mode="json")) == said


def test_gains_over_a_random_agent_are_beside_adam_s_on_games_that_both_have(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", "search", ["krull", "kangaroo"], {"trl-5x": 1.0, "kfac-trl-5x": 1.0}, [1000])
    # Random agents score 1,598 in Krull and 52 in Kangaroo.
    scores = {"krull-trl-5x": 2_598, "kangaroo-trl-5x": 152, "krull-kfac-trl-5x": 2_098, "kangaroo-kfac-trl-5x": 252}
    for path in (tmp_path / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        score = float(scores[path.parent.name.partition("-seed")[0]])
        result |= {
            "updates": 1,
            "score_episodes": [score] * 9,
            "final_episodes": [score] * 10,
            "score": score,
            "final_score": score,
        }
        path.write_text(json.dumps(result))
    export("search", tmp_path / "data", store=tmp_path / "runs")
    found = table(tmp_path / "data")
    first, second = found.rows
    assert first[0].startswith("K-FAC, learning_rate=")
    assert first[3:] == ["252 / 252", "2,098 / 2,098", "125%"]
    assert (second[0], second[3:]) == ("Adam", ["152 / 152", "2,598 / 2,598", "100%"])


def test_the_committed_table_is_what_the_committed_data_make() -> None:
    assert markdown(table(DOCS / "kfac-search")) in (DOCS / "kfac.md").read_text()
