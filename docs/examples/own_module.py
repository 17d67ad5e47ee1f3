"""Rainbow's loop, replay and optimizer on a Q-network of one's own."""

from __future__ import annotations

import argparse
import copy
from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from tensorrl.networks.regression import TensorRegression
from tensorrl.rllib import RainbowConfig


class SmallQNetwork(TorchRLModule, QNetAPI, TargetNetworkAPI):
    """Two convolutions and a tensor regression layer from their 32 × 9 × 9 outputs to the actions."""

    def setup(self) -> None:
        self.body = nn.Sequential(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU())
        self.head = TensorRegression((32, 9, 9), (self.action_space.n,), rank=self.model_config["rank"])

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"qf_preds": self.head(self.body(batch[Columns.OBS].float() / 255))}

    def make_target_networks(self) -> None:
        self.target_body, self.target_head = copy.deepcopy(self.body), copy.deepcopy(self.head)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.body, self.target_body), (self.head, self.target_head)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"qf_preds": self.target_head(self.target_body(batch[Columns.OBS].float() / 255))}

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        return {Columns.ACTIONS: self.compute_q_values(batch)["qf_preds"].argmax(1)}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        return self.compute_q_values(batch)


def config() -> RainbowConfig:
    return (
        RainbowConfig()
        .environment("breakout")
        .variant("denoised", n_step=3, lr=2e-4)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=SmallQNetwork, model_config={"rank": 8}))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=5, help="of train(), 1,000 agent steps each")
    algorithm = config().build_algo()
    for _ in range(parser.parse_args().iterations):
        result = algorithm.train()
        steps, learned = result["num_env_steps_sampled_lifetime"], result["learners"]["default_policy"]
        print(
            f"{steps:.0f} steps: mean return {result['env_runners']['episode_return_mean']}, loss {learned.get('loss')}"
        )
    algorithm.stop()


if __name__ == "__main__":
    main()
