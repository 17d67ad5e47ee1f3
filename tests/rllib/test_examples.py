"""The scripts of docs/examples run, each for a little while, and the parts in them do what they are there for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.kfac import KFAC

FOLDER = Path(__file__).parents[2] / "docs" / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_script_runs(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--iterations", "1"])
    load(name).main()
    assert "steps: mean return" in capsys.readouterr().out


def test_dqn_is_trained_by_kfac_and_goes_on_from_a_checkpoint(tmp_path):
    config = load("dqn_kfac_cartpole").config()
    config.training(num_steps_sampled_before_learning_starts=60).reporting(min_sample_timesteps_per_iteration=120)
    algorithm = config.build_algo()
    algorithm.train()
    optimizer = algorithm.learner_group._learner.get_optimizer()
    assert isinstance(optimizer, KFAC)
    observed = [float(pair.inputs.diagonal().sum()) for pair in optimizer.factors().values()]
    assert min(observed) > 0
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    again = config.build_algo()
    again.restore_from_path(path)
    assert again.learner_group._learner.get_optimizer().steps == optimizer.steps > 20
    for one in (algorithm, again):
        one.stop()


def test_ppo_has_tensor_regression_heads():
    algorithm = load("ppo_trl_heads").config().build_algo()
    policy = algorithm.get_module().policy
    assert isinstance(policy, TensorRegression)
    assert policy.out_shape == (2,)
    before = policy.core.detach().clone()
    algorithm.train()
    assert not algorithm.get_module().policy.core.equal(before)
    algorithm.stop()


def test_the_encoder_of_dqn_is_the_scattering_stem():
    algorithm = load("dqn_scattering_frames").config().build_algo()
    encoder = algorithm.get_module().encoder
    assert encoder.stem.out_shape[0] == 13
    assert not list(encoder.stem.parameters())
    algorithm.stop()
