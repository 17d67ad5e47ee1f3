"""What RLlib's own tests of algorithms, callbacks, checkpoints, env runners and learners ask of an algorithm.

Adapted to `RainbowConfig` from rllib/algorithms/tests (test_algorithm, test_algorithm_checkpointing,
test_callbacks_on_algorithm, test_callbacks_on_env_runner, test_algorithm_save_load_checkpoint_learner), rllib/env/tests
(test_single_agent_env_runner) and rllib/core/learner/tests (test_learner) of Ray 2.60; test_config.py has those of
test_algorithm_config. Left out, because they ask for several env runners or environments, or for others than Atari:
test_add_delete_policy, test_add_module_and_remove_module, test_no_env_but_eval_workers_do_have_env,
test_no_env_runner_but_eval_env_runners, test_space_inference_from_remote_workers, test_worker_validation_time,
test_distributed_env_runner, test_env_vectorizer, test_self_vectorized_env, test_env_context,
test_step_failed_reset_required, test_on_sub_environment_created (several), and those of env runner failures, of
aggregator actors, of learner groups with several learners, and of multi-agent and offline configs.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
import ray
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.utils.test_utils import check_train_results_new_api_stack

from tensorrl.errors import InputError
from tensorrl.rllib import Rainbow, RainbowConfig, RainbowModule
from tensorrl.trial.training import parameters_sha256

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def quick(game="road_runner", variant="denoised", **settings):
    settings = {"total_steps": 600, "steps_per_iteration": 60, "learning_starts": 25, "epsilon_decay": 20, **settings}
    return RainbowConfig().environment(game).variant(variant).training(**settings).debugging(seed=3)


def sha(algorithm):
    return parameters_sha256(algorithm.training.agent.network)


class Counting(RLlibCallback):
    """Counts events, in the class: RLlib makes the object."""

    seen: ClassVar[Counter] = Counter()

    def on_algorithm_init(self, **_):
        self.seen["algorithm_init"] += 1

    def on_environment_created(self, *, env, **_):
        assert env.num_envs == 1
        self.seen["environment_created"] += 1

    def on_episode_created(self, *, episode, **_):
        assert not episode.is_reset
        self.seen["episode_created"] += 1

    def on_episode_start(self, *, episode, **_):
        assert episode.t == 0
        self.seen["episode_start"] += 1

    def on_episode_step(self, *, episode, **_):
        assert episode.get_observations(-1).shape == (4, 84, 84)
        self.seen["episode_step"] += 1

    def on_episode_end(self, *, episode, prev_episode_chunks, metrics_logger, **_):
        assert episode.is_done
        self.seen["episode_end"] += 1
        self.seen["steps_of_ended"] += len(episode) + sum(map(len, prev_episode_chunks))
        metrics_logger.log_value("mine", 3.0)

    def on_sample_end(self, *, samples, **_):
        self.seen["sample_end"] += 1
        self.seen["steps_sampled"] += sum(map(len, samples))

    def on_train_result(self, *, result, **_):
        self.seen["train_result"] += 1

    def on_evaluate_start(self, **_):
        self.seen["evaluate_start"] += 1

    def on_evaluate_end(self, **_):
        self.seen["evaluate_end"] += 1


def test_callbacks_are_called_as_often_as_things_happen():
    Counting.seen = seen = Counter()
    started = []
    algorithm = (
        quick().callbacks(Counting, on_episode_start=lambda **event: started.append(event["episode"])).build_algo()
    )
    for _ in range(4):
        result = algorithm.train()
    assert seen["algorithm_init"] == 1
    assert seen["environment_created"] >= 1
    assert (seen["episode_step"], seen["sample_end"], seen["steps_sampled"], seen["train_result"]) == (240, 4, 240, 4)
    played = result["env_runners"]["num_episodes_lifetime"]
    assert played >= 1
    assert seen["episode_end"] == played
    assert seen["episode_created"] == seen["episode_start"] == len(started) == played + 1
    assert seen["steps_of_ended"] == sum(length for _, length, _ in algorithm.env_runner.recent)
    assert result["env_runners"]["mine"] == pytest.approx(3.0)
    before = seen["episode_step"]
    algorithm.env_runner.sample(num_timesteps=10)
    assert seen["episode_step"] == before + 10
    assert (seen["evaluate_start"], seen["evaluate_end"]) == (0, 0)
    algorithm.evaluate()
    assert (seen["evaluate_start"], seen["evaluate_end"]) == (1, 1)
    algorithm.stop()


def test_callbacks_change_nothing_of_what_is_learned():
    plain, watched = quick().build_algo(), quick().callbacks(Counting).build_algo()
    for algorithm in (plain, watched):
        algorithm.train()
        algorithm.train()
    assert sha(plain) == sha(watched)
    for algorithm in (plain, watched):
        algorithm.stop()


def test_results_have_rllibs_names_from_the_first_on(capfd):
    algorithm = quick("freeway").build_algo()
    told = capfd.readouterr()
    assert "deprecat" not in (told.out + told.err).lower()
    result = algorithm.train()
    check_train_results_new_api_stack(result)
    played, learned = result["env_runners"], result["learners"]["default_policy"]
    for name in (
        "episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "episode_len_min",
        "episode_len_max", "episode_duration_sec_mean",
    ):  # fmt: skip
        assert math.isnan(played[name]), name
    assert (played["num_episodes"], played["num_episodes_lifetime"]) == (0, 0)
    assert played["num_agent_steps_sampled"] == {"default_agent": 60}
    assert played["num_module_steps_sampled_lifetime"] == {"default_policy": 60}
    for name in ("total_loss", "td_error_mean", "qf_mean", "gradients_default_optimizer_global_norm"):
        assert math.isfinite(learned[name]), name
    assert learned["default_optimizer_learning_rate"] == 1e-4
    trained = result["learners"]["__all_modules__"]
    assert (trained["num_env_steps_trained"], trained["num_env_steps_trained_lifetime"]) == (35 * 32, 35 * 32)
    algorithm.stop()


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
    assert 0 < lifetime[0] == lifetime[1] < lifetime[2]
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


def test_sample_of_the_env_runner():
    runner = (
        quick().build_env_runner() if hasattr(RainbowConfig, "build_env_runner") else quick().build_algo().env_runner
    )
    assert runner.num_envs == 1
    with pytest.raises(AssertionError):
        runner.sample(num_timesteps=10, num_episodes=10, random_actions=True)
    episodes = runner.sample(num_episodes=2, random_actions=True)
    assert len(episodes) == 2
    assert all(episode.is_done and episode.t_started == 0 for episode in episodes)
    runner.sample(num_timesteps=5, random_actions=True)
    episodes = runner.sample(num_timesteps=20, random_actions=True)
    assert sum(map(len, episodes)) == 20
    assert any(episode.t_started > 0 for episode in episodes)
    episodes = runner.sample(num_timesteps=20, random_actions=True, force_reset=True)
    assert any(episode.t_started == 0 for episode in episodes)
    runner.stop()


def test_state_in_memory_goes_on_to_the_same_bits():
    for variant in ("rainbow", "kfac-trl-10x"):
        algorithm = quick(variant=variant).build_algo()
        algorithm.train()
        state = pickle.loads(pickle.dumps(algorithm.get_state()))
        algorithm.train()
        expected = sha(algorithm)
        algorithm.train()
        for _ in range(2):
            algorithm.set_state(state)
            assert (algorithm.training.steps, algorithm.iteration) == (60, 1)
            algorithm.train()
            assert sha(algorithm) == expected
        algorithm.stop()


def test_a_checkpoint_under_another_config(tmp_path):
    algorithm = quick().build_algo()
    algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    for changed in (
        quick(lr=0.01), quick().debugging(seed=7), quick(n_step=3), quick(total_steps=900), quick(gamma=0.9),
    ):  # fmt: skip
        other = changed.build_algo()
        other.restore_from_path(path)
        result = other.train()
        assert other.training.steps == 120
        rate = result["learners"]["default_policy"]["default_optimizer_learning_rate"]
        assert rate == pytest.approx(changed.lr)
        other.stop()
    other = quick(num_atoms=11).build_algo()
    with pytest.raises((InputError, RuntimeError)):
        other.restore_from_path(path)
    other.stop()
    # The module alone, in a process that knows nothing of the algorithm.
    module = RLModule.from_checkpoint(f"{path}/learner_group/learner/rl_module/default_policy")
    batch = {"obs": torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)}
    greedy = algorithm.get_module().forward_inference(batch)["actions"]
    assert torch.equal(module.forward_inference(batch)["actions"], greedy)
    algorithm.stop()


def test_weights_are_got_and_set():
    first, second = quick().build_algo(), quick().debugging(seed=9).build_algo()
    assert sha(first) != sha(second)
    second.set_weights(first.get_weights())
    assert sha(first) == sha(second)
    second.train()
    for one in (first, second):
        one.stop()


def test_the_learner_group_updates_from_episodes():
    algorithm = quick().build_algo()
    before = sha(algorithm)
    episodes = algorithm.env_runner.sample(num_timesteps=40)
    (result,) = algorithm.learner_group.update(episodes=episodes)
    assert np.isfinite(result["default_policy"]["total_loss"].peek())
    assert sha(algorithm) != before
    algorithm.stop()


class Renamed(RainbowModule):
    """A subclass, as a user's."""


def test_a_subclass_of_our_module_is_ours_and_a_copied_description_does_not_go_stale():
    stale = dict(quick().get_default_rl_module_spec().model_config or {}) | quick().model_config
    spec = RLModuleSpec(module_class=Renamed, model_config=stale)
    algorithm = quick().rl_module(rl_module_spec=spec).training(hidden=64).build_algo()
    assert isinstance(algorithm.get_module(), Renamed)
    assert algorithm.training.agent.network.spec.hidden == 64
    ours = quick(hidden=64).build_algo()
    for one in (algorithm, ours):
        one.train()
    assert sha(algorithm) == sha(ours)
    for one in (algorithm, ours):
        one.stop()


def test_a_frozen_configs_attributes_are_set_no_more():
    algorithm = quick().build_algo()
    with pytest.raises(AttributeError, match="frozen"):
        algorithm.config.lr = 0.5
    with pytest.raises(AttributeError, match="frozen"):
        algorithm.config["gamma"] = 0.5
    assert algorithm.config.copy(copy_frozen=False).training(lr=0.5).lr == 0.5
    algorithm.stop()


def test_an_algorithm_of_a_dict_trains_what_the_dict_says():
    algorithm = Rainbow(config={
        "env": "boxing", "lr": 3e-4, "gamma": 0.9, "n_step": 3, "num_atoms": 21, "seed": 1, "total_steps": 300,
    })  # fmt: skip
    settings = algorithm.training.settings
    assert algorithm.training.game.game == "boxing"
    assert (settings.learning_rate, settings.discount, settings.n_step, settings.atoms) == (3e-4, 0.9, 3, 21)
    assert (algorithm.config.lr, algorithm.config.num_atoms) == (3e-4, 21)
    algorithm.stop()
