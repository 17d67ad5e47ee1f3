from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tensorrl.tracking import entries
from tensorrl.tracking.entries import Point
from tensorrl.trial import folder


def test_parameters_are_the_identity_the_counts_and_every_setting() -> None:
    trial: dict[str, Any] = {
        "key": "k",
        "game": "pong",
        "variant": "rainbow",
        "seed": 0,
        "steps": 3000,
        "coefficients": 828_842,
    }
    trial |= {
        "compression_ratio": 1.0,
        "settings": {"learning_rate": 1e-4, "atoms": 51, "noisy": True, "steps": 7, "ranks": {"out": [2, 3]}},
    }
    trial["settings"]["compression"] = None
    assert entries.parameters(trial) == {
        "game": "pong",
        "variant": "rainbow",
        "seed": "0",
        "steps": "3000",
        "coefficients": "828842",
        "compression_ratio": "1.0",
        "learning_rate": "0.0001",
        "atoms": "51",
        "noisy": "true",
        "ranks.out": "[2, 3]",
    }


def test_a_line_gives_its_finite_figures_at_its_step_and_the_sentinel_last() -> None:
    line = {"agent_steps": 200, "loss": 1.5, "note": "x", "stuck": True, "gap": float("nan"), "top": float("inf")}
    assert entries.line_points(line, timestamp=7) == [Point("loss", 1.5, 7, 200), Point("agent_steps", 200.0, 7, 200)]


def test_a_line_that_says_its_time_keeps_it() -> None:
    points = entries.line_points({"agent_steps": 1, "time": 1_700_000_000.25, "loss": 2.0}, timestamp=7)
    assert points == [Point("loss", 2.0, 1_700_000_000_250, 1), Point("agent_steps", 1.0, 1_700_000_000_250, 1)]


def test_names_mlflow_would_refuse_are_made_acceptable() -> None:
    assert entries.line_points({"agent_steps": 1, "a(b)=é": 1.0}, timestamp=0)[0].name == "a_b___"


def test_final_figures_do_not_double_what_the_lines_have_at_the_last_step() -> None:
    trial = {"key": "k", "steps": 400, "coefficients": 5}
    result = trial | {
        "score": 3.0,
        "steps_per_second": 40.0,
        "updates": 9,
        "evaluation": {"episodes": 100},
        "sha": "ff",
    }
    lines = [
        {"agent_steps": 200, "steps_per_second": 50.0},
        {"agent_steps": 400, "steps_per_second": 51.0, "updates": 9},
    ]
    assert entries.final_points(result, trial, lines, timestamp=9) == [
        Point("score", 3.0, 9, 400),
        Point("final_steps_per_second", 40.0, 9, 400),
        Point("evaluation/episodes", 100.0, 9, 400),
    ]
    assert entries.final_tags(result, trial) == {"tensorrl.sha": "ff"}


def test_tags_find_the_run_again_and_say_with_what_it_was_made() -> None:
    trial = {"key": "k", "commit": "abc", "versions": {"torch": "2"}, "protocol": "p/1", "network": {"atoms": 51}}
    assert entries.tags(trial | {"seed": 0, "machine": {"cores": 2}}, run_name="r") == {
        "tensorrl.key": "k",
        "mlflow.runName": "r",
        "mlflow.source.name": "tensorrl",
        "mlflow.source.git.commit": "abc",
        "tensorrl.versions.torch": "2",
        "tensorrl.protocol": "p/1",
        "tensorrl.machine.cores": "2",
    }


@given(st.lists(st.integers(1, 25), max_size=30))
def test_batches_keep_every_point_in_order_and_never_split_a_line_that_fits(lengths: list[int]) -> None:
    groups = [[Point(f"{i}.{k}", 0.0, 0, i) for k in range(length)] for i, length in enumerate(lengths)]
    batches = list(entries.batches(groups, size=10))
    assert [p for batch in batches for p in batch] == [p for group in groups for p in group]
    assert all(0 < len(batch) <= 10 for batch in batches)
    for index, length in enumerate(lengths):
        if length <= 10:
            assert sum(any(p.step == index for p in batch) for batch in batches) == 1


def test_a_line_cut_short_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_text('{"agent_steps": 1}\n{"agent_steps": 2}\n{"agent_st')
    assert [line["agent_steps"] for line in folder.read_progress(tmp_path)] == [1, 2]


def test_a_result_of_another_trial_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(json.dumps({"key": "a"}))
    (tmp_path / "result.json").write_text(json.dumps({"key": "b", "score": 1}))
    assert folder.read_result(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({"key": "a", "score": 1}))
    assert folder.read_result(tmp_path) == {"key": "a", "score": 1}
