"""TensorRL as a contestant: the loop that `tensorrl train` runs, and the same inside RLlib."""

from __future__ import annotations

from typing import Any

import torch

from tensorrl import system
from tensorrl.trial.run import build_training, make_spec

STEPS = 100_000
"""Agent steps of the trial that is begun: schedules and replay are those of a whole one."""


ITERATION = 100
"""Agent steps of one `train()` inside RLlib, a tenth of its default: metrics weigh ten times as much."""
EPSILON = 0.01
"""Where a trial's ε is after 3,600 steps. Before, it acts at random now and then, which takes no time."""


class Trial:
    """A variant in the loop of a trial, without its reports and checkpoints.

    Args:
        variant: its name.
        game: what it plays.
        warm_up: agent steps before the first update.
        seed: of the trial.
    """

    def __init__(self, variant: str, game: str, warm_up: int, seed: int) -> None:
        system.keep_freed_memory()
        overrides = {"learning_starts": warm_up, "epsilon_start": EPSILON, "epsilon_end": EPSILON}
        spec = make_spec(game=game, variant=variant, seed=seed, steps=STEPS, overrides=overrides, device="cpu")
        self.training = build_training(spec, torch.device("cpu"))
        self.coefficients = self.training.agent.network.spec.total_coefficients()

    def advance(self, steps: int) -> None:
        self.training.run(steps)

    def counts(self) -> tuple[int, int]:
        return self.training.steps, self.training.agent.updates

    def close(self) -> None:
        self.training.close()


class InRLlib:
    """A variant as RLlib's users run it: `RainbowConfig`, `train()` after `train()`, metrics included."""

    def __init__(self, variant: str, game: str, warm_up: int, seed: int) -> None:
        from benchmarks.peers.rllib import start_ray
        from tensorrl.rllib import RainbowConfig

        start_ray()
        config: Any = (
            RainbowConfig()
            .environment(game)
            .variant(variant, learning_starts=warm_up, epsilon_start=EPSILON, epsilon_end=EPSILON)
            .training(total_steps=STEPS, steps_per_iteration=ITERATION)
            .debugging(seed=seed)
        )
        self._algorithm = config.build_algo()
        self.coefficients = self._algorithm.training.agent.network.spec.total_coefficients()

    def advance(self, steps: int) -> None:
        target = self.counts()[0] + steps
        while self.counts()[0] < target:
            self._algorithm.train()

    def counts(self) -> tuple[int, int]:
        training = self._algorithm.training
        return training.steps, training.agent.updates

    def close(self) -> None:
        self._algorithm.stop()
