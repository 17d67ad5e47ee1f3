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
AGENTS = "trl-5x", "kfac-trl-5x"


@pytest.mark.parametrize(
    ("variant", "changes", "said"),
    [
        ("trl-5x", {}, "Adam"),
        ("trl-5x", {"learning_rate": 3e-4, "update_interval": 2}, "Adam, learning_rate=0.0003, update_interval=2"),
        (
            "trl-5x",
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            "Adam, weight_decay=0.1, decoupled_weight_decay",
        ),
        ("kfac-trl-5x", {"learning_rate": 1e-4}, "K-FAC, learning_rate=0.0001"),
        (
            "kfac-trl-5x",
            {"learning_rate": 3e-4, "kfac_graft": True, "kfac_damping": 0.1},
            "K-FAC, learning_rate=0.0003, damping=0.1, graft",
        ),
    ],
)
def test_a_row_is_named_by_what_it_changes(variant: str, changes: dict[str, object], said: str) -> None:
    plain = {"kfac_graft": False, "kfac_relative_damping": False, "update_interval": 1, "target_interval": 2_000}
    overrides = {**plain, **changes} if variant.startswith("kfac") else changes
    assert label(resolve(variant, overrides).model_dump(mode="json")) == said


def rows_of(
    folder: Path, scores: dict[str, dict[int, int]], held_out: dict[str, dict[int, float]] | None = None
) -> list[list[str]]:
    """Rows for scores by `<game>-<variant>` and seed. Random agents score 1,598 in Krull and 52 in Kangaroo.

    `held_out` are losses beside which those of sampled transitions are 1.
    """
    seeds = sorted(next(iter(scores.values())))
    played = sorted({name.partition("-")[0] for name in scores})
    make_sweep(folder / "runs", "search", played, {"trl-5x": 1.0, "kfac-trl-5x": 1.0}, seeds)
    for path in (folder / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        score = float(scores[path.parent.name.partition("-seed")[0]][result["seed"]])
        result |= {
            "updates": 1,
            "score_episodes": [score] * 9,
            "final_episodes": [score] * 10,
            "score": score,
            "final_score": score,
        }
        path.write_text(json.dumps(result))
        run = path.parent.name.partition("-seed")[0]
        if held_out:
            loss = held_out[run][result["seed"]]
            line = {"agent_steps": 100_000, "episodes": 1, "loss_held_out": loss, "loss_beside_held_out": 1.0}
            (path.parent / "progress.jsonl").write_text(json.dumps(line) + "\n")
    export("search", folder / "data", store=folder / "runs")
    return table(folder / "data").rows


def test_gains_over_a_random_agent_are_beside_adam_s_on_games_that_both_have(tmp_path: Path) -> None:
    scores = {"krull-trl-5x": 2_598, "kangaroo-trl-5x": 152, "krull-kfac-trl-5x": 2_098, "kangaroo-kfac-trl-5x": 252}
    first, second = rows_of(tmp_path, {name: {1000: score} for name, score in scores.items()})
    assert first[0].startswith("K-FAC, learning_rate=")
    assert first[3:] == ["252 / 252", "2,098 / 2,098", "125%", "–"]
    assert (second[0], second[3:]) == ("Adam", ["152 / 152", "2,598 / 2,598", "100%", "–"])


def test_two_seeds_give_a_standard_error(tmp_path: Path) -> None:
    adam, kfac = {1000: 2_398, 1001: 2_798}, {1000: 2_098, 1001: 2_298}
    first, second = rows_of(tmp_path, {"krull-trl-5x": adam, "krull-kfac-trl-5x": kfac})
    # Gains of 0.8 and 1.2 of Adam's mean of 1,000, and of 0.5 and 0.7: half their distance each.
    assert (first[0], first[-2]) == ("Adam", "100% ± 20%")
    assert second[-3:-1] == ["2,198 / 2,198 (2)", "60% ± 10%"]


def test_over_fitting_is_the_mean_over_games_of_the_means_over_seeds(tmp_path: Path) -> None:
    scores = {f"{game}-{variant}": {1000: 2_000, 1001: 2_000} for game in ("krull", "kangaroo") for variant in AGENTS}
    held_out = {
        "krull-trl-5x": {1000: 1.0, 1001: 1.25},
        "kangaroo-trl-5x": {1000: 0.5, 1001: 0.75},
        "krull-kfac-trl-5x": {1000: 1.5, 1001: 2.5},
        "kangaroo-kfac-trl-5x": {1000: 1.25, 1001: 1.75},
    }
    found = {row[0].partition(",")[0]: row[-1] for row in rows_of(tmp_path, scores, held_out)}
    assert found == {"Adam": "−0.125 (−0.375 / 0.125)", "K-FAC": "0.750 (0.500 / 1.000)"}


def test_the_committed_table_is_what_the_committed_data_make() -> None:
    assert markdown(table(DOCS / "kfac-search")) in (DOCS / "kfac.md").read_text()
