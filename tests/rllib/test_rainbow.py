import numpy as np
import pytest
import torch

from tensorrl import games
from tensorrl.errors import InputError
from tensorrl.learning.replay import Replay
from tensorrl.rllib import AtariEnvRunner, Rainbow, RainbowConfig
from tensorrl.trial.run import TrialSpec, build_training
from tensorrl.trial.training import parameters_sha256

pytestmark = pytest.mark.usefixtures("one_ray")

QUICK = {"learning_starts": 100, "epsilon_decay": 50}


def config(variant="denoised", game="road_runner", **training):
    training = {"total_steps": 400, "steps_per_iteration": 80, **training}
    return RainbowConfig().environment(game).variant(variant, **QUICK).training(**training).debugging(seed=3)


def sha(algorithm):
    return parameters_sha256(algorithm.training.agent.network)


def test_the_algorithm_is_the_trial(tmp_path):
    """One loop serves both: RLlib's train() and `tensorrl train` reach the same bits, through a checkpoint too."""
    algorithm = config("rainbow").build_algo()
    first = algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    results = [first, *(algorithm.train() for _ in range(2))]
    result = results[-1]
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 240
    assert result["learners"]["default_policy"]["num_updates"] == 140
    assert np.isfinite(result["learners"]["default_policy"]["loss"])

    restored = Rainbow.from_checkpoint(path)
    assert restored.training.steps == 80
    for _ in range(2):
        restored.train()
    assert sha(restored) == sha(algorithm)

    spec = TrialSpec(game="road_runner", variant="rainbow", seed=3, steps=400, overrides=QUICK)
    alone = build_training(spec, torch.device("cpu"))
    alone.run(240)
    assert parameters_sha256(alone.agent.network) == sha(algorithm)
    for one in (algorithm, restored):
        one.stop()


def test_tune_runs_it(tmp_path):
    from ray import tune

    tuner = tune.Tuner(
        Rainbow,
        param_space=config(),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), stop={"training_iteration": 2}, verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )  # fmt: skip
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics["env_runners"]["num_env_steps_sampled_lifetime"] == 160
    restored = Rainbow.from_checkpoint(result.checkpoint.path)
    assert restored.training.steps == 160
    restored.stop()


def test_rllib_loss_has_the_gradient_of_our_update():
    algorithm = config().build_algo()
    algorithm.train()
    algorithm.train()
    learner = algorithm.learner_group._learner
    agent, training = algorithm.training.agent, algorithm.training
    slots = torch.arange(32)
    replay: Replay = training.replay

    def raw(rows):
        patches = replay._gather(rows)
        images = torch.zeros(len(rows), 4, 84, 84, dtype=torch.uint8)
        images[..., :75, :75] = (
            patches.view(-1, 4, 3, 3, 5, 5, 5, 5).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(-1, 4, 75, 75)
        )
        return images

    weights = torch.rand(32)
    batch = {
        "obs": raw(slots), "new_obs": raw(replay.bootstraps[slots]), "actions": replay.actions[slots],
        "rewards": replay.returns[slots], "discounts": replay.discounts[slots], "weights": weights,
    }  # fmt: skip
    module = learner.module["default_policy"].unwrapped()
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=algorithm.config, batch=batch, fwd_out=module.forward_train(batch)
    )
    agent.network.zero_grad()
    loss.backward()
    theirs = [p.grad.clone() for p in agent.network.parameters()]

    from tensorrl.learning.replay import Batch

    ours = Batch(
        slots, replay._gather(slots), batch["actions"], batch["rewards"], batch["discounts"],
        replay._gather(replay.bootstraps[slots]), weights,
    )  # fmt: skip
    agent.gradient_norm = 1e9
    agent.optimizer.step = lambda: None
    agent.update(ours)
    for mine, other in zip(agent.network.parameters(), theirs, strict=True):
        torch.testing.assert_close(mine.grad, other, rtol=1e-4, atol=1e-6)
    algorithm.stop()


def test_noisy_exploration_explores_and_inference_does_not():
    algorithm = config("rainbow", noisy_sigma=0.5).build_algo()
    module = algorithm.env_runner.module
    batch = {"obs": torch.randint(0, 256, (16, 4, 84, 84), dtype=torch.uint8)}
    explored = {tuple(module.forward_exploration(batch, t=0)["actions"].tolist()) for _ in range(12)}
    greedy = {tuple(module.forward_inference(batch)["actions"].tolist()) for _ in range(5)}
    assert len(explored) > 1
    assert len(greedy) == 1
    algorithm.stop()


def test_beta_anneals_over_the_trial():
    algorithm = config(total_steps=240).build_algo()
    betas = [algorithm.train()["learners"]["default_policy"]["beta"] for _ in range(3)]
    assert betas == pytest.approx([0.4, 0.4 + 0.6 * 60 / 140, 1.0])
    algorithm.stop()


def test_the_env_runner_gives_whole_games_with_true_rewards():
    built = config("denoised").build_algo()
    runner: AtariEnvRunner = built.env_runner
    (episode,) = runner.sample(num_episodes=1, random_actions=True)
    assert episode.is_terminated
    assert episode.get_observations(0).shape == (4, 84, 84)
    assert episode.get_return() % 100 == 0
    assert runner.get_spaces()["default_policy"][1].n == games.get("road_runner").actions
    built.stop()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RainbowConfig().environment("pnog"), "pong"),
        (lambda: RainbowConfig().environment("pong", clip_rewards=True), "clip_rewards"),
        (lambda: RainbowConfig().variant("rainbo"), "rainbow"),
        (lambda: RainbowConfig().training(lrr=1e-3), "lr"),
        (lambda: RainbowConfig().training(n_step=0), "n_step"),
        (lambda: RainbowConfig().training(total_steps=0), "total_steps"),
        (lambda: RainbowConfig().env_runners(num_env_runners=2).validate(), r"num_env_runners=2\): 0 only"),
        (lambda: RainbowConfig().learners(num_learners=1).validate(), r"num_learners=1\): 0 only"),
    ],
)
def test_what_rainbow_cannot_do_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_rllib_names_reach_our_settings():
    settings = RainbowConfig().training(lr=2e-4, gamma=0.9, n_step=3, num_atoms=21, train_batch_size=16).settings
    assert (settings.learning_rate, settings.discount, settings.n_step, settings.atoms, settings.batch_size) == (
        2e-4, 0.9, 3, 21, 16,
    )  # fmt: skip
