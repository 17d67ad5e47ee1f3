"""`RainbowConfig`: what its attributes say is what trains, however they were set. No Ray is started."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from tensorrl.errors import InputError
from tensorrl.rllib import Rainbow, RainbowConfig, RainbowLearner, RainbowModule, options
from tensorrl.rllib.attributes import ATTRIBUTES
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "rllib.md"

# What RLlib calls it, a value, and the setting it must become.
NAMES = [
    ("lr", 3e-4, "learning_rate", 3e-4),
    ("gamma", 0.9, "discount", 0.9),
    ("n_step", 3, "n_step", 3),
    ("num_atoms", 21, "atoms", 21),
    ("v_max", 5.0, "v_max", 5.0),
    ("v_min", -4.0, "v_max", 4.0),
    ("noisy", False, "noisy", False),
    ("sigma0", 0.4, "noisy_sigma", 0.4),
    ("grad_clip", 2.0, "gradient_norm", 2.0),
    ("grad_clip", None, "gradient_norm", 1e12),
    ("train_batch_size_per_learner", 16, "batch_size", 16),
    ("train_batch_size", 16, "batch_size", 16),
    ("num_steps_sampled_before_learning_starts", 200, "learning_starts", 200),
    ("target_network_update_freq", 500, "target_interval", 500),
    ("hiddens", [64], "hidden", 64),
    ("adam_epsilon", 1e-3, "adam_epsilon", 1e-3),
    ("replay_buffer_config", {"capacity": 5_000}, "replay_capacity", 5_000),
    ("replay_buffer_config", {"alpha": 0.6}, "priority_exponent", 0.6),
    ("replay_buffer_config", {"beta": 0.5}, "beta_start", 0.5),
    ("optimizer", "kfac", "optimizer", "kfac"),
    ("stem", "scattering", "stem", "scattering"),
    ("kfac_damping", 0.1, "kfac_damping", 0.1),
    ("weight_decay", 0.01, "weight_decay", 0.01),
    ("reset_interval", 20_000, "reset_interval", 20_000),
    ("average_decay", 0.99, "average_decay", 0.99),
    ("learning_rate", 3e-4, "learning_rate", 3e-4),
    ("epsilon_decay", 7, "epsilon_decay", 7),
]


def by_builder(name, value):
    return RainbowConfig().training(**{name: value})


def by_attribute(name, value):
    config = RainbowConfig()
    setattr(config, name, value)
    return config


def by_item(name, value):
    config = RainbowConfig()
    config[name] = value
    return config


def by_dict(name, value):
    return RainbowConfig().update_from_dict({name: value})


def by_tune(name, value):
    """As Tune does: the whole config as a dict, one key exchanged, taken by a fresh config."""
    return RainbowConfig.from_dict({**RainbowConfig().to_dict(), name: value})


def by_variant(name, value):
    return RainbowConfig().variant("rainbow", **{name: value})


@pytest.mark.parametrize("how", [by_builder, by_attribute, by_item, by_dict, by_tune, by_variant])
def test_whatever_way_it_is_set_it_is_the_setting(how):
    for name, value, setting, expected in NAMES:
        config = how(name, value)
        assert getattr(config.settings, setting) == expected, name
        if name not in ("replay_buffer_config", "train_batch_size"):
            assert getattr(config, name) == value, name
    for copied in (config.copy(), pickle.loads(pickle.dumps(config)), RainbowConfig.from_state(config.get_state())):
        assert copied.settings == config.settings


def test_an_untouched_config_says_what_the_variant_trains():
    for name, variant in variants.VARIANTS.items():
        config = RainbowConfig().variant(name)
        settings = variants.resolve(name)
        assert config.settings == settings
        assert (config.lr, config.gamma, config.n_step, config.num_atoms) == (
            settings.learning_rate, settings.discount, settings.n_step, settings.atoms,
        )  # fmt: skip
        assert (config.variant, config.noisy, config.optimizer) == (variant.name, settings.noisy, settings.optimizer)
    assert RainbowConfig().variant("denoised").epsilon == [[0, 1.0], [1600, 1.0], [3600, 0.01]]
    assert RainbowConfig().epsilon == 0.0


def test_a_variant_keeps_what_was_chosen_and_brings_the_rest():
    config = RainbowConfig().training(lr=5e-4).variant("kfac-trl-5x")
    assert (config.lr, config.optimizer, config.compression, config.noisy) == (5e-4, "kfac", 5, False)
    config.variant = "denoised"
    assert (config.lr, config.optimizer, config.compression) == (5e-4, "adam", None)
    # As Tune's grid over variants does.
    taken = RainbowConfig.from_dict({**RainbowConfig().to_dict(), "variant": "kfac-denoised"})
    assert taken.settings == variants.resolve("kfac-denoised")


def test_a_built_configs_dict_holds_everything_and_builds_the_same():
    config = RainbowConfig().environment("boxing").variant("trl-10x").training(lr=2e-4, epsilon_decay=9)
    config.freeze()
    recorded = config.to_dict()
    assert {**recorded, "env": "boxing"} == recorded
    assert ATTRIBUTES - recorded.keys() <= {
        "hiddens", "target_interval", "epsilon_start", "epsilon_end", "replay_capacity", "priority_exponent",
        "beta_start", "epsilon",
    }  # fmt: skip
    assert (recorded["lr"], recorded["gamma"], recorded["n_step"], recorded["compression"]) == (2e-4, 0.99, 20, 10)
    assert RainbowConfig.from_dict(dict(recorded)).settings == config.settings
    # A key exchanged in it counts.
    assert RainbowConfig.from_dict({**recorded, "epsilon_decay": 50}).settings.epsilon_decay == 50
    assert RainbowConfig.from_dict({**recorded, "train_batch_size": 8}).settings.batch_size == 8


def test_epsilon_is_rllibs_schedule():
    config = RainbowConfig().variant("denoised").training(epsilon=[(0, 0.9), (300, 0.9), (500, 0.1)])
    config.num_steps_sampled_before_learning_starts = 300
    s = config.settings
    assert (s.epsilon_start, s.epsilon_end, s.epsilon_decay, s.learning_starts) == (0.9, 0.1, 200, 300)
    assert RainbowConfig().variant("denoised").training(epsilon=0.2).settings.epsilon_end == 0.2
    config.epsilon_end = 0.05
    assert config.epsilon == [[0, 0.9], [300, 0.9], [500, 0.05]]


def test_the_target_is_copied_by_agent_steps():
    config = RainbowConfig().training(target_network_update_freq=1_200, update_interval=4)
    assert config.settings.target_interval == 300
    assert RainbowConfig().training(target_interval=300, update_interval=4).target_network_update_freq == 1_200
    with pytest.raises(InputError, match="multiple of update_interval=4"):
        RainbowConfig().training(target_network_update_freq=1_201, update_interval=4)


def test_numpys_numbers_are_numbers():
    config = RainbowConfig().training(n_step=np.int64(5), lr=np.float32(0.5)).debugging(seed=np.int64(3))
    config.validate()
    assert (config.settings.n_step, config.settings.learning_rate, type(config.seed)) == (5, 0.5, int)


class Renamed(RainbowModule):
    """As a user's."""


def test_what_rllib_asks_a_config_for():
    config = RainbowConfig().environment("breakout")
    assert config.is_atari
    assert config.learner_class is RainbowLearner
    for spec, kind in ((None, RainbowModule), (RLModuleSpec(module_class=Renamed), Renamed)):
        config.rl_module(rl_module_spec=spec)
        assert config.rl_module_spec.module_class is kind
        (found,) = config.get_multi_rl_module_spec(spaces={"default_policy": (None, None)}).rl_module_specs.values()
        assert found.module_class is kind
        assert found.model_config["network"]["actions"] == 4
    config.update_from_dict({"callbacks_class": [RLlibCallback, RLlibCallback]}).validate()
    assert config.callbacks_class == [RLlibCallback, RLlibCallback]


def test_a_checked_config_holds_the_values_that_train():
    config = RainbowConfig().variant("trl-5x").training(lr="1e-3", compression=8, n_step="3", epsilon=0.1)
    drawn = config.to_dict()
    config.validate()
    assert (config.lr, config.compression, config.n_step) == (1e-3, 8, 3)
    # Written as it was given where it is the same number.
    assert (type(config.compression), config.epsilon) == (int, 0.1)
    Rainbow.default_resource_request(drawn)
    assert (drawn["lr"], str(drawn["compression"]), drawn["n_step"]) == (1e-3, "8", 3)


def test_what_rainbow_has_one_way_of_is_taken_at_that():
    config = RainbowConfig().training(
        dueling=True, double_q=True, tau=1.0, td_error_loss_fn="huber", v_min=-10, hiddens=[256],
        grad_clip_by="global_norm", store_buffer_in_checkpoints=True, num_epochs=1,
    )  # fmt: skip
    config.validate()
    assert config.settings == Settings()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RainbowConfig().environment("pnog"), "pong"),
        (lambda: RainbowConfig().environment("pong", clip_rewards=True), "clip_rewards"),
        (lambda: RainbowConfig().environment("CartPole-v1"), "CartPole"),
        (lambda: RainbowConfig().update_from_dict({"env": "nosuch"}).validate(), "nosuch"),
        (lambda: RainbowConfig().update_from_dict({"learning_rat": 1}), "learning_rate"),
        (lambda: setattr(RainbowConfig(), "gama", 0.9), "gamma"),
        (lambda: RainbowConfig().variant("rainbo"), "rainbow"),
        (lambda: RainbowConfig().variant("rainbow", lrr=1), "lr"),
        (lambda: by_attribute("variant", "rainbo").validate(), "rainbow"),
        (lambda: RainbowConfig().training(lrr=1e-3), "lr"),
        (lambda: RainbowConfig().training(n_step=0), "n_step"),
        (lambda: RainbowConfig().training(lr=-1.0), r"^lr=-1"),
        (lambda: by_attribute("lr", "fast").validate(), r"^lr="),
        (lambda: RainbowConfig().training(lr=[[0, 1e-3], [1000, 1e-4]]), "no schedule"),
        (lambda: RainbowConfig().training(n_step=(1, 5)), "one number"),
        (lambda: RainbowConfig().training(v_min=-1, v_max=10), "symmetric"),
        (lambda: RainbowConfig().training(dueling=False), "dueling"),
        (lambda: RainbowConfig().training(tau=0.5), "tau"),
        (lambda: RainbowConfig().training(hiddens=[64, 64]), "one hidden layer"),
        (lambda: RainbowConfig().training(replay_buffer_config={"type": "ReplayBuffer"}), "PrioritizedEpisode"),
        (lambda: RainbowConfig().training(replay_buffer_config={"prioritized_replay_alpha": 1}), "alpha"),
        (lambda: RainbowConfig().variant("denoised", epsilon=[[0, 1.0], [10_000, 0.05]]).validate(), "flat until"),
        (lambda: RainbowConfig().training(epsilon=0.1).validate(), "NoisyNet"),
        (lambda: RainbowConfig().training(total_steps=0), "total_steps"),
        (lambda: by_attribute("steps_per_iteration", 2.5).validate(), "steps_per_iteration"),
        (lambda: RainbowConfig().debugging(seed=-1).validate(), "seed"),
        (lambda: RainbowConfig().debugging(seed=True).validate(), "seed"),
        (lambda: RainbowConfig().variant(None), "variant"),
        (lambda: RainbowConfig().update_from_dict({"variant": 3}).validate(), "variant"),
        (lambda: RainbowConfig().evaluation(evaluation_interval=-1).validate(), "evaluation_interval"),
        (lambda: RainbowConfig().evaluation(evaluation_interval="2").validate(), "evaluation_interval"),
        (lambda: RainbowConfig().evaluation(evaluation_duration=0).validate(), "evaluation_duration"),
        (lambda: RainbowConfig().evaluation(evaluation_duration_unit="frames").validate(), "episodes, timesteps"),
        (lambda: RainbowConfig().evaluation(evaluation_config={"lrr": 1}).validate(), "lrr"),
        (lambda: RainbowConfig().reporting(metrics_num_episodes_for_smoothing=0).validate(), "smoothing"),
        (lambda: RainbowConfig().variant("rainbow", compression=5).validate(), "factorization"),
        (lambda: RainbowConfig().training(lr=tune.grid_search([1e-4, 1e-3])).validate(), "tune.Tuner"),
        (lambda: RainbowConfig().env_runners(explore=False).validate(), "explore"),
        (lambda: RainbowConfig().evaluation(evaluation_config={"env": "breakout"}).validate(), "one game"),
        (lambda: RainbowConfig().evaluation(evaluation_config={"num_atoms": 1}).validate(), "num_atoms"),
        (lambda: RainbowConfig().rl_module(model_config={"fcnet_hiddens": [8]}).validate(), "model_config"),
    ],
)  # fmt: skip
def test_what_rainbow_cannot_do_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_refused_change_leaves_the_config_as_it_was():
    config = RainbowConfig().training(lr=2e-4)
    with pytest.raises(InputError):
        config.training(gamma=0.9, n_step=0)
    assert (config.lr, config.gamma, config.n_step) == (2e-4, 0.99, 20)


def test_every_builder_method_takes_a_search_space():
    grid = tune.grid_search([1, 2])
    config = RainbowConfig().environment(tune.grid_search(["pong", "breakout"])).debugging(seed=grid)
    config.variant(tune.choice(["rainbow", "denoised"]), kfac_damping=tune.uniform(0.1, 1.0))
    config.training(lr=tune.loguniform(1e-5, 1e-3), total_steps=grid, replay_buffer_config={"alpha": grid})
    config.evaluation(evaluation_interval=grid).reporting(metrics_num_episodes_for_smoothing=grid)
    config.resources(num_cpus_for_main_process=grid).fault_tolerance(max_num_env_runner_restarts=grid)
    config.learners(num_gpus_per_learner=grid).env_runners(num_cpus_per_env_runner=grid)
    found = config.to_dict()
    for name in (
        "env", "seed", "variant", "kfac_damping", "lr", "total_steps", "replay_buffer_config", "evaluation_interval",
        "metrics_num_episodes_for_smoothing", "num_cpus_for_main_process", "max_num_env_runner_restarts",
        "num_gpus_per_learner", "num_cpus_per_env_runner",
    ):  # fmt: skip
        value = found[name]["alpha"] if name == "replay_buffer_config" else found[name]
        assert isinstance(value, tune.search.sample.Domain) or "grid_search" in value, name


def test_tunes_record_of_a_trial_is_completed():
    drawn = {**RainbowConfig().training(lr=1e-3).to_dict(), "variant": "kfac-trl-5x"}
    Rainbow.default_resource_request(drawn)
    assert (drawn["lr"], drawn["optimizer"], drawn["n_step"], drawn["compression"]) == (1e-3, "kfac", 20, 5)
    assert RainbowConfig.from_dict(dict(drawn)).settings == variants.resolve("kfac-trl-5x", {"learning_rate": 1e-3})


def walk():
    """Every option of every builder method of the installed RLlib."""
    found = set()
    for kind in (AlgorithmConfig, DQNConfig):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            returns = inspect.signature(method).return_annotation
            if (
                not name.startswith("_")
                and getattr(returns, "__name__", returns) == "Self"
                and name not in _NO_BUILDERS
            ):
                parameters = inspect.signature(method).parameters.values()
                found |= {(name, p.name) for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"}
    return found


_NO_BUILDERS = {"update_from_dict", "copy", "get_config_for_module"}


def test_every_option_of_rllibs_builder_is_honoured_or_refused():
    honoured = {(option.method, option.name) for option in options.options(options.HONOURED)}
    refused = {(option.method, option.name) for option in options.options(options.REFUSED)}
    assert not honoured & refused
    assert honoured | refused == walk()
    print(f"options of RLlib's builder: {len(honoured)} honoured, {len(refused)} refused")


def another(value):
    """A value that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"other": 1} if isinstance(value, dict) else "other"


_POLICIES = {"policies": {"default_policy", "other"}, "policies_to_train": ["default_policy"]}
# RLlib's own word for options that it has removed.
_REMOVED = (ValueError, AttributeError, TypeError)


def test_every_refused_option_is_refused():
    fresh, ignored = vars(RainbowConfig()), []
    for option in options.options(options.REFUSED):
        stored = options._STORED_AS.get(option.name, option.name)
        default = fresh.get(stored, fresh.get(f"_{option.name}"))
        config = RainbowConfig()
        value = _POLICIES.get(option.name, another(default))
        try:
            getattr(config, option.method)(**{option.name: value})
            config.validate()
        except InputError as error:
            told = any(word in str(error) for word in (option.name, stored, "num_"))
            if "\n" in str(error) or not told:
                ignored.append(f"{option}: {error}")
        except _REMOVED:
            pass
        else:
            ignored.append(f"{option.method}({option.name}={value!r})")
    assert not ignored


def test_the_documentation_has_the_table():
    assert options.markdown() in DOCS.read_text()
