"""RLlib's own PPO with tensor regression layers as its heads: a module of one's own, 20 lines."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from tensorrl.networks.regression import TensorRegression


class TRLModule(TorchRLModule, ValueFunctionAPI):
    """One hidden layer of 8 × 8 units, whose modes the heads keep apart."""

    def setup(self) -> None:
        self.body = torch.nn.Sequential(torch.nn.Linear(self.observation_space.shape[0], 64), torch.nn.Tanh())
        self.policy = TensorRegression((8, 8), (self.action_space.n,), rank=self.model_config["rank"])
        self.value = TensorRegression((8, 8), (1,), rank=self.model_config["rank"])

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        hidden = self.body(batch[Columns.OBS]).unflatten(-1, (8, 8))
        return {Columns.ACTION_DIST_INPUTS: self.policy(hidden), Columns.EMBEDDINGS: hidden}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        hidden = self.body(batch[Columns.OBS]).unflatten(-1, (8, 8)) if embeddings is None else embeddings
        return self.value(hidden).squeeze(-1)


def config() -> PPOConfig:
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .training(lr=0.001, train_batch_size_per_learner=1_000, minibatch_size=200, num_epochs=6)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=TRLModule, model_config={"rank": 2}))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20, help="of train(), 1,000 environment steps each")
    algorithm = config().build_algo()
    layer = algorithm.get_module().policy
    print(f"policy head: {layer}")
    for _ in range(parser.parse_args().iterations):
        result = algorithm.train()
        steps = result["num_env_steps_sampled_lifetime"]
        print(f"{steps:.0f} steps: mean return {result['env_runners'].get('episode_return_mean', float('nan')):.1f}")
    algorithm.stop()


if __name__ == "__main__":
    main()
