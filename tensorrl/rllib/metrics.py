"""What a training's figures are called in RLlib's results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger


def log_steps(logger: MetricsLogger, steps: int, episodes: int) -> None:
    """Logs agent steps and games finished in one iteration of training."""
    for name, key in ((NUM_AGENT_STEPS_SAMPLED, DEFAULT_AGENT_ID), (NUM_MODULE_STEPS_SAMPLED, DEFAULT_MODULE_ID)):
        logger.log_value((name, key), steps, reduce="sum")
    logger.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
    logger.log_value(NUM_EPISODES, episodes, reduce="sum")
    for name, key in (
        (NUM_AGENT_STEPS_SAMPLED_LIFETIME, DEFAULT_AGENT_ID),
        (NUM_MODULE_STEPS_SAMPLED_LIFETIME, DEFAULT_MODULE_ID),
    ):
        logger.log_value((name, key), steps, reduce="lifetime_sum")
    logger.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
    logger.log_value(NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")


def log_episodes(logger: MetricsLogger, games: Sequence[tuple[float, float, float]]) -> None:
    """Logs the last finished games.

    Args:
        logger: takes the figures.
        games: score, length in agent steps and seconds of each. Where none ended, every key is there as NaN, so that
            a scheduler of Tune that compares them finds it from the first result on.
    """
    scores, lengths, seconds = zip(*games, strict=True) if games else ([math.nan],) * 3
    figures = {
        EPISODE_RETURN_MEAN: _mean(scores),
        EPISODE_RETURN_MIN: min(scores),
        EPISODE_RETURN_MAX: max(scores),
        EPISODE_LEN_MEAN: _mean(lengths),
        EPISODE_LEN_MIN: min(lengths),
        EPISODE_LEN_MAX: max(lengths),
        EPISODE_DURATION_SEC_MEAN: _mean([value for value in seconds if not math.isnan(value)] or [math.nan]),
        ("agent_episode_return_mean", DEFAULT_AGENT_ID): _mean(scores),
        ("module_episode_return_mean", DEFAULT_MODULE_ID): _mean(scores),
    }
    # The games of the window are kept by the runner: RLlib's own windows forget them in an iteration without a game.
    for name, value in figures.items():
        logger.log_value(name, value, window=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def log_learning(logger: MetricsLogger, root: str, figures: Mapping[str, Any], transitions: int) -> None:
    """Logs what was learned in one iteration.

    Args:
        logger: the algorithm's.
        root: where in it.
        figures: by RLlib's names, and ours where it has none.
        transitions: that the iteration's updates saw, with repetition.
    """
    for name, value in figures.items():
        logger.log_value((root, DEFAULT_MODULE_ID, name), value, window=1)
    for module in (DEFAULT_MODULE_ID, ALL_MODULES):
        logger.log_value((root, module, NUM_MODULE_STEPS_TRAINED), transitions, reduce="sum")
        logger.log_value((root, module, NUM_MODULE_STEPS_TRAINED_LIFETIME), transitions, reduce="lifetime_sum")
    logger.log_value((root, ALL_MODULES, NUM_ENV_STEPS_TRAINED), transitions, reduce="sum")
    logger.log_value((root, ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), transitions, reduce="lifetime_sum")
