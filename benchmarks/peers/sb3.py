"""Stable-Baselines3's DQN: one Q-value an action, no dueling, uniform replay, one-step returns, so less work than ours.

`sb3` is its `CnnPolicy` as shipped (Nature's convolutions); `sb3-small` has the convolutions of data-efficient Rainbow
and one hidden layer of 512, as many units as the two streams have together.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from benchmarks.peers.games import StackedGame


class DataEfficientFeatures(BaseFeaturesExtractor):
    """32 5×5/5 and 64 5×5/5, written as a user of this library would."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=576)
        channels = observation_space.shape[0]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=5), nn.ReLU(), nn.Conv2d(32, 64, 5, stride=5), nn.ReLU(), nn.Flatten()
        )

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(observations)
        return features


class StableBaselines:
    """Stable-Baselines3 as a contestant."""

    def __init__(self, game: str, warm_up: int, seed: int, *, small: bool) -> None:
        policy: dict[str, Any] = {}
        if small:
            policy = {"features_extractor_class": DataEfficientFeatures, "net_arch": [512]}
        self._model = DQN(
            "CnnPolicy",
            DummyVecEnv([lambda: StackedGame(game, seed)]),
            learning_rate=1e-4,
            buffer_size=100_000,
            learning_starts=warm_up,
            batch_size=32,
            gamma=0.99,
            train_freq=1,
            gradient_steps=1,
            # Each observation once instead of twice; its default would take 5.6 GB at this capacity.
            optimize_memory_usage=True,
            replay_buffer_kwargs={"handle_timeout_termination": False},
            target_update_interval=2_000,
            exploration_initial_eps=0.01,
            exploration_final_eps=0.01,
            policy_kwargs=policy,
            seed=seed,
            device=torch.device("cpu"),
            verbose=0,
        )
        self.coefficients = sum(p.numel() for p in self._model.q_net.parameters())

    def advance(self, steps: int) -> None:
        self._model.learn(steps, reset_num_timesteps=False, log_interval=None)  # type: ignore[arg-type]

    def counts(self) -> tuple[int, int]:
        return self._model.num_timesteps, self._model._n_updates

    def close(self) -> None:
        env = self._model.get_env()
        if env is not None:
            env.close()
