"""RLlib's own DQN with the scattering stem as its encoder, on frames shaped like Atari's.

The environment shows a dot on one side of a grey frame, 84 × 84; the right action is that side. Replace it by yours.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_catalog import DQNCatalog
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.models.torch.base import TorchModel
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from tensorrl.networks.scattering import ScatteringStem


class SideOfTheDot(gym.Env):
    """Ten frames an episode, a reward for each right answer."""

    observation_space = gym.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, _config: Any = None) -> None:
        self.step_count, self.side = 0, 0

    def _frame(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        frame = np.zeros((84, 84), np.uint8)
        row, column = self.np_random.integers(5, 70), self.np_random.integers(5, 30) + 42 * self.side
        frame[row : row + 8, column : column + 8] = 255
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return self._frame(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.side)
        self.step_count += 1
        return self._frame(), reward, self.step_count == 10, False, {}


class ScatteringEncoder(TorchModel, Encoder):
    """Fixed wavelets, then one learned layer."""

    def __init__(self, config: ScatteringEncoderConfig) -> None:
        super().__init__(config)
        self.stem = ScatteringStem(J=3, L=4)
        self.learned = torch.nn.Linear(int(np.prod(self.stem.out_shape)), config.hidden)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        features = self.stem.encode(batch[Columns.OBS].to(torch.uint8), at_once=len(batch[Columns.OBS]))
        return {ENCODER_OUT: torch.relu(self.learned(features.float().flatten(1)))}


class ScatteringEncoderConfig(ModelConfig):
    hidden = 64
    output_dims = (hidden,)

    def build(self, framework: str = "torch") -> ScatteringEncoder:
        return ScatteringEncoder(self)


class ScatteringCatalog(DQNCatalog):
    """DQN's own heads on our encoder."""

    @classmethod
    def _get_encoder_config(cls, *_: Any, **__: Any) -> ModelConfig:
        return ScatteringEncoderConfig()


def config() -> DQNConfig:
    return (
        DQNConfig()
        .environment(SideOfTheDot)
        .training(lr=0.001, num_steps_sampled_before_learning_starts=200, epsilon=[(0, 1.0), (1_000, 0.05)])
        .rl_module(rl_module_spec=RLModuleSpec(catalog_class=ScatteringCatalog))
        .reporting(min_sample_timesteps_per_iteration=200)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=10, help="of train(), 200 environment steps each")
    algorithm = config().build_algo()
    for _ in range(parser.parse_args().iterations):
        result = algorithm.train()
        steps = result["num_env_steps_sampled_lifetime"]
        print(
            f"{steps:.0f} steps: mean return {result['env_runners'].get('episode_return_mean', float('nan')):.1f} of 10"
        )
    algorithm.stop()


if __name__ == "__main__":
    main()
