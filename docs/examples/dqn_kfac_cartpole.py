"""RLlib's own DQN on CartPole, trained by K-FAC: one learner class, and its name in the config."""

from __future__ import annotations

import argparse

from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner

from tensorrl.rllib import KFACLearnerMixin


class DQNKFACLearner(KFACLearnerMixin, DQNTorchLearner):
    """DQN's loss, K-FAC's step."""


def config() -> DQNConfig:
    return (
        DQNConfig()
        .environment("CartPole-v1")
        .training(lr=0.003, num_steps_sampled_before_learning_starts=500, train_batch_size_per_learner=64)
        .learners(
            learner_class=DQNKFACLearner,
            learner_config_dict={"kfac": {"damping": 0.03, "curvature_interval": 10, "inverse_interval": 50}},
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20, help="of train(), 1,000 environment steps each")
    algorithm = config().build_algo()
    for _ in range(parser.parse_args().iterations):
        result = algorithm.train()
        steps = result["num_env_steps_sampled_lifetime"]
        print(f"{steps:.0f} steps: mean return {result['env_runners'].get('episode_return_mean', float('nan')):.1f}")
    algorithm.stop()


if __name__ == "__main__":
    main()
