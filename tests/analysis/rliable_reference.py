"""Computes `rliable_reference.json`: what the library rliable says of some scores, for our figures to be held against.

rliable 1.2.0 does not work with pandas 3 and cannot be installed beside TensorRL. In an environment of its own:

    python3 -m venv FRESH && FRESH/bin/pip install rliable==1.2.0 'pandas<3' 'numpy<2.4'
    FRESH/bin/python tests/analysis/rliable_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics

FILE = Path(__file__).with_name("rliable_reference.json")
REPETITIONS = 2_000
SEED = 7


def aggregates(scores):
    return np.array(
        [
            metrics.aggregate_iqm(scores),
            metrics.aggregate_median(scores),
            metrics.aggregate_mean(scores),
            metrics.aggregate_optimality_gap(scores),
        ]
    )


def main() -> None:
    draws = np.random.default_rng(3)
    # Heavy to the right and partly below 0, as human-normalised scores are; one game ends in ties.
    sets = {
        "three runs": draws.gamma(0.6, 0.7, (3, 26)) - 0.05,
        "three others": draws.gamma(0.8, 0.6, (3, 26)) - 0.05,
        "ten runs": draws.gamma(0.6, 0.7, (10, 26)),
        "five runs": draws.gamma(0.7, 0.7, (5, 26)),
    }
    sets["three others"][:, 4] = sets["three runs"][:, 4] = [0.0, 0.1, 0.0]
    thresholds = np.linspace(0.0, 2.0, 9)
    wanted: dict = {
        "scores": {name: scores.tolist() for name, scores in sets.items()},
        "thresholds": thresholds.tolist(),
        "repetitions": REPETITIONS,
        "seed": SEED,
        "aggregates": {},
        "profiles": {},
        "improvements": {},
    }
    for name, scores in sets.items():
        # Its `random_state` has no effect in 1.2.0: the draws are of numpy's global generator.
        np.random.seed(SEED)  # noqa: NPY002
        points, intervals = library.get_interval_estimates({name: scores}, aggregates, reps=REPETITIONS)
        wanted["aggregates"][name] = np.vstack([points[name], intervals[name]]).T.tolist()
        np.random.seed(SEED)  # noqa: NPY002
        points, intervals = library.create_performance_profile({name: scores}, thresholds, reps=REPETITIONS)
        wanted["profiles"][name] = np.vstack([points[name], intervals[name]]).T.tolist()
    for ours, theirs in (("three runs", "three others"), ("ten runs", "five runs")):
        np.random.seed(SEED)  # noqa: NPY002
        points, intervals = library.get_interval_estimates(
            {"pair": [sets[ours], sets[theirs]]},
            lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
            reps=REPETITIONS,
        )
        wanted["improvements"][f"{ours}|{theirs}"] = [points["pair"][0], *intervals["pair"][:, 0]]
    FILE.write_text(json.dumps(wanted) + "\n")


if __name__ == "__main__":
    main()
