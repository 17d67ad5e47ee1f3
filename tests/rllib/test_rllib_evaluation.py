"""Evaluation by RLlib: its units, its runners, what its games count as, and how they are played."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_rllib_cases import quick

from tensorrl.rllib import RainbowConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


@pytest.mark.parametrize("remote", [0, 1])
@pytest.mark.parametrize(("duration", "unit"), [(2, "episodes"), (70, "timesteps")])
def test_evaluation_option(remote, duration, unit):
    config = quick().evaluation(
        evaluation_interval=2, evaluation_duration=duration, evaluation_duration_unit=unit,
        evaluation_num_env_runners=remote, evaluation_config={"gamma": 0.98},
    )  # fmt: skip
    algorithm = config.build_algo()
    results = [algorithm.train() for _ in range(4)]
    # RLlib's results go on to hold the last evaluation's figures.
    assert "evaluation" not in results[0]
    lifetime = [result["evaluation"]["env_runners"]["num_env_steps_sampled_lifetime"] for result in results[1:]]
    # In stock RLlib too, evaluation's lifetime counts begin anew with each evaluation.
    assert 0 < lifetime[0] == lifetime[1]
    assert lifetime[2] > 0
    played = results[3]["evaluation"]["env_runners"]
    counted = played["num_episodes" if unit == "episodes" else "num_env_steps_sampled"]
    assert counted == duration
    # What evaluation plays is no training.
    assert results[3]["env_runners"]["num_env_steps_sampled_lifetime"] == 240
    algorithm.stop()


def test_evaluation_parallel_to_training_and_for_as_long():
    config = quick().evaluation(
        evaluation_interval=1, evaluation_num_env_runners=1, evaluation_parallel_to_training=True,
        evaluation_duration="auto", evaluation_duration_unit="timesteps",
    )  # fmt: skip
    algorithm = config.build_algo()
    assert algorithm.train()["evaluation"]["env_runners"]["num_env_steps_sampled"] >= 100
    algorithm.stop()


def test_evaluation_without_an_evaluation_group():
    algorithm = quick().evaluation(evaluation_duration=1).build_algo()
    result = algorithm.evaluate()
    assert result["env_runners"]["num_episodes"] == 1
    assert not math.isnan(result["env_runners"]["num_env_steps_sampled"])
    assert algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"] == 60
    algorithm.stop()


@pytest.mark.parametrize("explore", [False, True])
def test_evaluation_is_greedy_unless_it_is_to_explore(explore):
    played = []

    def keep(*, env_runner, samples, **_):
        if env_runner.config.in_evaluation:
            played.extend(samples)

    # ε stays 1 throughout: what explores plays at random.
    config = quick(epsilon_start=1.0, epsilon_end=1.0).callbacks(on_sample_end=keep)
    config.evaluation(
        evaluation_interval=1, evaluation_duration=60, evaluation_duration_unit="timesteps",
        evaluation_config=RainbowConfig.overrides(explore=explore),
    )  # fmt: skip
    algorithm = config.build_algo()
    algorithm.evaluate()
    actions = np.concatenate([episode.get_actions() for episode in played])
    stacks = np.concatenate([episode.get_observations()[:-1] for episode in played])
    greedy = algorithm.get_module().forward_inference({"obs": torch.as_tensor(stacks)})["actions"].numpy()
    assert len(actions) == 60
    assert (actions == greedy).all() != explore
    algorithm.stop()
