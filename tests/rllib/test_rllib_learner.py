"""The learner as RLlib's own tests use one, and modules of a user's own in it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from test_rllib_cases import quick, sha

from tensorrl.errors import InputError
from tensorrl.rllib import Rainbow, RainbowModule
from tensorrl.trial.run import build_training
from tensorrl.trial.spec import make_spec
from tensorrl.trial.training import parameters_sha256

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


@pytest.fixture
def learner():
    algorithm = quick(lr=1e-3, adam_epsilon=1e-8).build_algo()
    yield algorithm.learner_group._learner
    algorithm.stop()


def test_the_gradient_of_the_sum_of_all_parameters_is_one(learner):
    gradients = learner.compute_gradients({"default_policy": sum(p.sum() for p in learner.agent.network.parameters())})
    trained = {learner.get_param_ref(p) for p in learner.agent.network.parameters()}
    assert trained <= gradients.keys()
    assert all((gradients[ref] == 1).all() for ref in trained)


def test_gradients_are_clipped_by_their_global_norm(learner):
    network = learner.agent.network
    gradients = {learner.get_param_ref(p): torch.full_like(p, 0.5) for p in network.parameters()}
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert norm > learner.config.grad_clip == 10.0
    clipped = learner.postprocess_gradients({ref: gradient.clone() for ref, gradient in gradients.items()})
    for ref, gradient in gradients.items():
        torch.testing.assert_close(clipped[ref], gradient * 10 / norm, rtol=1e-4, atol=0.0)


def test_steps_of_gradients_of_one_are_adams(learner):
    network = learner.agent.network
    before = [p.detach().clone() for p in network.parameters()]
    for _ in range(20):
        learner.apply_gradients({learner.get_param_ref(p): torch.ones_like(p) for p in network.parameters()})
    # Bias-corrected moments of a constant gradient of one are one: each step is lr.
    for parameter, start in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 20 * 1e-3, rtol=0.0, atol=1e-5)


def test_weights_are_got_and_set():
    first, second = quick().build_algo(), quick().debugging(seed=9).build_algo()
    assert sha(first) != sha(second)
    second.set_weights(first.get_weights())
    assert sha(first) == sha(second)
    second.train()
    for wrong in ({"other": {}}, {"default_policy": {"weight": 1}}):
        with pytest.raises(InputError, match="weights"):
            second.set_weights(wrong)
    for one in (first, second):
        one.stop()


def test_the_learner_group_updates_from_episodes():
    algorithm = quick(lr=1e-3).build_algo()
    episodes = algorithm.env_runner.sample(num_timesteps=40)
    losses = []
    for _ in range(8):
        (result,) = algorithm.learner_group.update(episodes=episodes)
        losses.append(result["default_policy"]["total_loss"].peek())
    assert min(losses[1:]) < losses[0]
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


def test_ways_to_hold_learning_back_train_under_rllib_as_without_it_and_last_through_a_restore(tmp_path):
    held_back = {"weight_decay": 0.1, "decoupled_weight_decay": True, "average_decay": 0.9, "reset_interval": 20}
    algorithm = quick(**held_back).build_algo()
    algorithm.train()
    assert algorithm.training.agent.acting is algorithm.get_module().average
    saved = algorithm.save_to_path(tmp_path)
    other = quick(**{**held_back, "weight_decay": 0.2}).build_algo()
    other.restore_from_path(saved)
    assert [group["weight_decay"] for group in other.training.agent.optimizer.param_groups] == [0.2]
    same = Rainbow.from_checkpoint(saved)
    for one in (algorithm, same):
        one.train()
    settings = {**held_back, "learning_starts": 25, "epsilon_decay": 20}
    spec = make_spec(game="road_runner", variant="denoised", seed=3, steps=600, overrides=settings)
    training = build_training(spec, torch.device("cpu"))
    training.run(120)
    assert training.agent.updates == 95
    networks = [one.training.agent for one in (algorithm, same)] + [training.agent]
    assert len({parameters_sha256(agent.network) for agent in networks}) == 1
    assert len({parameters_sha256(agent.acting) for agent in networks}) == 1
    acting = algorithm.get_module().acting.advantage_output
    with torch.no_grad():
        acting.bias.view(-1, 51)[2, -1] += 100
    frames = np.zeros((1, 4, 84, 84), dtype=np.uint8)
    assert int(algorithm.get_module().forward_inference({"obs": torch.from_numpy(frames)})["actions"]) == 2
    training.close()
    for one in (algorithm, other, same):
        one.stop()


def test_what_needs_our_network_is_refused_with_a_module_of_another_kind():
    spec = RLModuleSpec(module_class=StockOnFrames)
    for settings in ({"reset_interval": 20}, {"average_decay": 0.9}):
        with pytest.raises(InputError, match="needs the network of a RainbowModule, and StockOnFrames is none"):
            quick(**settings).rl_module(rl_module_spec=spec).validate()


class StockOnFrames(DefaultDQNTorchRLModule):
    """RLlib's own network reads images in floats, channels last."""

    def compute_q_values(self, batch):
        return super().compute_q_values({"obs": batch["obs"].permute(0, 2, 3, 1) / 255})

    def forward_target(self, batch):
        return super().forward_target({"obs": batch["obs"].permute(0, 2, 3, 1) / 255})


def test_the_stock_module_of_dqn_is_trained_once_it_is_given_its_kind_of_images():
    config = {"conv_filters": [[16, 8, 4], [32, 4, 2]], "conv_activation": "relu", "head_fcnet_hiddens": [32]}
    spec = RLModuleSpec(module_class=DefaultDQNTorchRLModule, model_config=config)
    stock = quick().rl_module(rl_module_spec=spec)
    with pytest.raises(InputError, match=r"DefaultDQNTorchRLModule.compute_q_values: cannot take frames") as raised:
        stock.build_algo()
    assert "\n" not in str(raised.value)
    images = gym.spaces.Box(0.0, 1.0, (84, 84, 4), np.float32)
    spec = RLModuleSpec(module_class=StockOnFrames, observation_space=images, model_config=config)
    config = quick().rl_module(rl_module_spec=spec).evaluation(evaluation_duration=1, evaluation_config={})
    algorithm = config.build_algo()
    before = sha(algorithm)
    algorithm.train()
    result = algorithm.train()
    assert np.isfinite(result["learners"]["default_policy"]["total_loss"])
    assert algorithm.training.agent.network.spec.atoms == 51
    assert sha(algorithm) != before
    assert algorithm.evaluate()["env_runners"]["num_episodes"] == 1
    algorithm.stop()
