from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorrl.analysis import statistics, texts

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("rliable_reference.json").read_text())
SCORES = {name: np.array(scores) for name, scores in REFERENCE["scores"].items()}
DRAWS = {"repetitions": REFERENCE["repetitions"], "seed": REFERENCE["seed"]}


@pytest.mark.parametrize("name", SCORES)
def test_aggregates_and_their_intervals_are_those_of_rliable(name: str) -> None:
    for (title, statistic), wanted in zip(statistics.AGGREGATES.items(), REFERENCE["aggregates"][name], strict=True):
        assert statistics.estimate(statistic, SCORES[name], **DRAWS) == pytest.approx(wanted, abs=1e-12), title


@pytest.mark.parametrize("pair", REFERENCE["improvements"])
def test_probability_of_improvement_and_its_interval_are_those_of_rliable(pair: str) -> None:
    ours, theirs = (SCORES[name] for name in pair.split("|"))
    found = statistics.estimate_pair(statistics.improvement, ours, theirs, **DRAWS)
    assert found == pytest.approx(REFERENCE["improvements"][pair], abs=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_performance_profiles_and_their_bands_are_those_of_rliable(name: str) -> None:
    thresholds = np.array(REFERENCE["thresholds"])
    wanted = np.array(REFERENCE["profiles"][name])
    low, high = statistics.interval(lambda s: statistics.profile(s, thresholds), SCORES[name], **DRAWS)
    found = np.stack([statistics.profile(SCORES[name], thresholds), low, high], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_resampling_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statistics.estimate(statistics.iqm, SCORES["three runs"], **DRAWS)
    pair = statistics.estimate_pair(statistics.improvement, *list(SCORES.values())[:2], **DRAWS)
    monkeypatch.setattr(statistics, "_AT_ONCE", 5_000)
    assert statistics.estimate(statistics.iqm, SCORES["three runs"], **DRAWS) == whole
    assert statistics.estimate_pair(statistics.improvement, *list(SCORES.values())[:2], **DRAWS) == pair


def test_one_run_a_game_has_no_width() -> None:
    estimate = statistics.estimate(statistics.iqm, SCORES["ten runs"][:1])
    assert estimate.low == estimate.value == estimate.high


def test_a_ratio_of_means_is_that_of_the_mean_of_all_runs() -> None:
    ours, theirs = np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[1.0, 1.0], [2.0, 1.0]])
    assert statistics.ratio_of_means(ours, theirs) == pytest.approx(2.5 / 1.25)


def test_an_interval_is_always_given_and_marked_where_it_has_no_width() -> None:
    one = statistics.estimate(statistics.mean, np.array([[0.25, 0.5]]))
    assert texts.interval_text(one) == "0.375 [0.375, 0.375]†"
    assert texts.interval_text(statistics.Estimate(0.375, 0.25, 0.5)) == "0.375 [0.250, 0.500]"
    assert texts.interval_text(statistics.Estimate(-0.01, -0.0201, -0.0199)) == "−0.010 [−0.020, −0.020]†"
