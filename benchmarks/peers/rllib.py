"""Stock RLlib: DQN of the new API stack, configured as near to data-efficient Rainbow as it lets itself be.

Same game, batch, replay capacity, n-step, atoms, dueling, double Q, Adam, clipping and target interval; convolutions
with the same kernels (RLlib pads them: 1,024 features instead of 576). It has no noisy layers (`noisy=True` is
ignored), so it explores ε-greedily, which is less work. It wants fragments at least as long as n, so it does 20 steps,
then 20 updates.

    python -m benchmarks.peers.rllib      builds the algorithm and prints a line: start-up is measured with it
"""

from __future__ import annotations

from typing import Any

GAME = "stacked-game"
BATCH = 32


class StockRLlib:
    """RLlib's DQN as a contestant."""

    def __init__(self, game: str, warm_up: int, seed: int) -> None:
        start_ray()
        self._algorithm = config(game, warm_up, seed).build_algo()
        module = self._algorithm.get_module()
        self.coefficients = sum(p.numel() for p in module.parameters() if p.requires_grad)
        self._counts = (0, 0)

    def advance(self, steps: int) -> None:
        target = self._counts[0] + steps
        while self._counts[0] < target:
            result: dict[str, Any] = self._algorithm.train()
            trained = result.get("learners", {}).get("default_policy", {}).get("num_module_steps_trained_lifetime", 0)
            self._counts = (int(result["num_env_steps_sampled_lifetime"]), round(float(trained) / BATCH))

    def counts(self) -> tuple[int, int]:
        return self._counts

    def close(self) -> None:
        self._algorithm.stop()


def config(game: str, warm_up: int, seed: int) -> Any:
    """The nearest configuration."""
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    from benchmarks.peers.games import StackedGame

    register_env(GAME, lambda _: StackedGame(game, seed, channels_last=True, scaled=True))
    model = DefaultModelConfig(
        conv_filters=[[32, 5, 5], [64, 5, 5]],
        conv_activation="relu",
        head_fcnet_hiddens=[256],
        head_fcnet_activation="relu",
    )
    return (
        DQNConfig()
        .environment(GAME)
        .framework("torch")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(
            lr=1e-4,
            adam_epsilon=1.5e-4,
            grad_clip=10.0,
            gamma=0.99,
            train_batch_size_per_learner=BATCH,
            training_intensity=BATCH,
            n_step=20,
            num_atoms=51,
            v_min=-10.0,
            v_max=10.0,
            double_q=True,
            dueling=True,
            epsilon=0.01,
            target_network_update_freq=2_000,
            num_steps_sampled_before_learning_starts=warm_up,
            replay_buffer_config={
                "type": "PrioritizedEpisodeReplayBuffer",
                "capacity": 100_000,
                "alpha": 0.5,
                "beta": 0.4,
            },
        )
        .rl_module(model_config=model)
        # As many steps an iteration as ours does when it is measured inside RLlib.
        .reporting(min_sample_timesteps_per_iteration=100, min_time_s_per_iteration=0)
        .debugging(seed=seed, log_level="ERROR")
    )


def start_ray() -> None:
    """Starts Ray as small as it gets: RLlib starts it anyway, with a dashboard that would take time from everybody."""
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)


if __name__ == "__main__":
    config("pong", 1_600, 0).build_algo()
    print("built", flush=True)
