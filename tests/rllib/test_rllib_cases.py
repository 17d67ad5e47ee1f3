"""What RLlib's own tests of algorithms, callbacks, checkpoints and env runners ask of an algorithm, of `Rainbow`.

Of the 37 tests in nine files of RLlib, 22 are adapted:

- algorithms/tests/test_algorithm: test_evaluation_option, test_evaluation_option_always_attach_eval_metrics,
  test_evaluation_wo_evaluation_env_runner_group (test_rllib_evaluation.py), test_counters_after_checkpoint;
- test_algorithm_config: test_running_specific_algo_with_generic_config, test_freezing_of_algo_config; in
  test_config.py test_update_from_dict_works_for_multi_callbacks, test_detect_atari_env, test_rl_module_api,
  test_learner_api, test_get_multi_rl_module_spec (of one module);
- test_callbacks_on_algorithm: test_on_init_and_checkpoint_loaded;
- test_callbacks_on_env_runner: test_episode_and_sample_callbacks_batch_mode_truncate_episodes, and
  test_tune_trial_id_visible_in_callbacks (test_tune.py);
- test_algorithm_save_load_checkpoint_learner: test_save_and_restore (test_rainbow.py, and here in memory);
- env/tests/test_single_agent_env_runner: test_sample;
- core/learner/tests/test_learner: test_end_to_end_update, test_compute_gradients, test_postprocess_gradients (by the
  global norm), test_apply_gradients (test_rllib_learner.py), test_save_load_state;
- dqn/tests/test_dqn: test_dqn_compilation.

15 are left out. They ask for several env runners or environments (test_space_inference_from_remote_workers,
test_worker_validation_time, test_no_env_but_eval_workers_do_have_env, test_rollout_fragment_length,
test_on_env_runners_recreated_callback, test_distributed_env_runner, test_env_vectorizer, test_self_vectorized_env),
for environments that are not Atari's (test_step_failed_reset_required, test_env_context), for whole episodes from
`train()` (test_episode_and_sample_callbacks_batch_mode_complete_episodes), or for several modules or the old API stack
(test_add_module_and_remove_module, test_add_policy_and_remove_policy, test_config_per_module, test_add_remove_module).
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import ClassVar

import pytest
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.test_utils import check_train_results_new_api_stack

from tensorrl.errors import InputError
from tensorrl.rllib import Rainbow, RainbowConfig
from tensorrl.trial.training import parameters_sha256

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


def quick(game="road_runner", variant="denoised", **settings):
    settings = {"total_steps": 600, "steps_per_iteration": 60, "learning_starts": 25, "epsilon_decay": 20, **settings}
    return RainbowConfig().environment(game).variant(variant).training(**settings).debugging(seed=3)


def sha(algorithm):
    return parameters_sha256(algorithm.training.agent.network)


class Counting(RLlibCallback):
    """Counts events, in the class: RLlib makes the object."""

    seen: ClassVar[Counter] = Counter()

    def on_checkpoint_loaded(self, **_):
        self.seen["checkpoint_loaded"] += 1

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


def test_callbacks_are_called_as_often_as_things_happen(tmp_path):
    Counting.seen = seen = Counter()
    started = []
    config = quick().callbacks(Counting, on_episode_start=lambda **event: started.append(event["episode"]))
    algorithm = config.evaluation(evaluation_duration=1).build_algo()
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
    # What was sampled and evaluated in between is no training.
    assert algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"] == 300
    algorithm.save_to_path(tmp_path / "checkpoint")
    assert seen["checkpoint_loaded"] == 0
    algorithm.load_checkpoint(str(tmp_path / "checkpoint"))
    assert seen["checkpoint_loaded"] == 1
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


def test_an_algorithm_of_a_generic_config():
    config = AlgorithmConfig(algo_class=Rainbow).environment("boxing").training(lr=0.0123, train_batch_size=16)
    algorithm = config.build_algo()
    settings = algorithm.training.settings
    assert algorithm.training.game.game == "boxing"
    # What it does not say is the variant's, not RLlib's.
    assert (settings.learning_rate, settings.batch_size, settings.discount, settings.n_step) == (0.0123, 16, 0.99, 20)
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
    for changed in (quick(num_atoms=11), quick(variant="trl-10x"), quick("breakout"), quick(optimizer="kfac")):
        other = changed.build_algo()
        for take in (lambda: other.restore_from_path(path), lambda: other.set_state(algorithm.get_state())):  # noqa: B023
            with pytest.raises(InputError) as raised:
                take()
            assert "\n" not in str(raised.value)
        other.stop()
    # The module alone, in a process that knows nothing of the algorithm.
    module = RLModule.from_checkpoint(f"{path}/learner_group/learner/rl_module/default_policy")
    batch = {"obs": torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)}
    greedy = algorithm.get_module().forward_inference(batch)["actions"]
    assert torch.equal(module.forward_inference(batch)["actions"], greedy)
    algorithm.stop()


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
