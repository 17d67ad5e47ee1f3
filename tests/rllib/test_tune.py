"""Tune on `Rainbow`, for real: grids, population-based training, successive halving, a driver that is killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from tensorrl.rllib import Rainbow, RainbowConfig

pytestmark = pytest.mark.slow

# Two values of each, in words of the builder or of a `param_space`.
GRIDS = {
    "env": ["road_runner", "breakout"],
    "variant": ["denoised", "trl-10x"],
    "lr": [1e-4, 1e-2],
    "gamma": [0.99, 0.5],
    "n_step": [20, 1],
    "num_atoms": [51, 11],
    "train_batch_size_per_learner": [32, 8],
    "seed": [0, 1],
    "compression": [5, 10],
    "optimizer": ["adam", "kfac"],
}


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One database for all grids: making its tables takes MLflow longer than a trial takes."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def quick(variant="denoised"):
    config = RainbowConfig().environment("road_runner").variant(variant).debugging(seed=1)
    return config.training(
        total_steps=400, steps_per_iteration=60, learning_starts=25, epsilon_decay=20, target_interval=5
    )


def in_builder(name, values):
    config, space = quick("trl-5x" if name == "compression" else "denoised"), tune.grid_search(values)
    if name == "env":
        return config.environment(space)
    if name == "variant":
        return config.variant(space)
    if name == "seed":
        return config.debugging(seed=space)
    return config.training(**{name: space})


def in_param_space(name, values):
    config = quick("trl-5x" if name == "compression" else "denoised")
    return {**config.to_dict(), name: tune.grid_search(values)}


@pytest.mark.parametrize("where", [in_builder, in_param_space])
@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_of_two_values_trains_two_different_runs(name, where, tmp_path, database):
    import mlflow

    values, experiment = GRIDS[name], f"{name}-{where.__name__}"
    results = tune.Tuner(
        Rainbow,
        param_space=where(name, values),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), stop={"training_iteration": 1}, verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=database, experiment_name=experiment)],
        ),
    ).fit()  # fmt: skip
    assert not results.errors
    assert [result.config[name] for result in results] == values
    losses = [result.metrics["learners"]["default_policy"]["loss"] for result in results]
    assert losses[0] != losses[1]
    client = mlflow.MlflowClient(database)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert sorted(run.data.params[name] for run in runs) == sorted(map(str, values))
    for run in runs:
        # What was left to the variant is recorded as it trained.
        trained = next(result.config for result in results if str(result.config[name]) == run.data.params[name])
        for other in ("lr", "n_step", "num_atoms", "gamma", "noisy", "optimizer"):
            assert run.data.params[other] == str(trained[other]), other


@pytest.mark.parametrize("bad", [{"lrr": 1e-3}, {"env": "nosuch"}, {"lr": -1.0}])
def test_a_bad_key_or_value_stops_the_tuner(bad, tmp_path):
    space = {**quick().to_dict(), **bad}
    run_config = tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 1}, verbose=0)
    with pytest.raises(Exception, match=r"lrr|nosuch|lr=-1"):
        tune.Tuner(Rainbow, param_space=space, run_config=run_config).fit()


def test_after_an_exploit_the_optimizer_has_the_trials_rate(tmp_path):
    """Population-based training over `lr`: every result says the rate of its trial's config and of its optimizer."""
    from ray.tune.schedulers import PopulationBasedTraining

    seen, chosen = [], {}

    class Watch(tune.Callback):
        def on_step_begin(self, iteration, trials, **info):
            # A scheduler hears of a result before a callback does, and may give the trial its next rate at once.
            chosen.update({trial.trial_id: trial.config["lr"] for trial in trials})

        def on_trial_result(self, iteration, trials, trial, result, **info):
            learned = result["learners"]["default_policy"]
            seen.append((trial.trial_id, chosen[trial.trial_id], result["config"]["lr"],
                         learned["default_optimizer_learning_rate"]))  # fmt: skip

    scheduler = PopulationBasedTraining(
        time_attr="training_iteration", metric="score", mode="max", perturbation_interval=2, quantile_fraction=0.5,
        resample_probability=1.0, hyperparam_mutations={"lr": tune.loguniform(1e-5, 1e-2)}, synch=True,
    )  # fmt: skip

    def rank(*, algorithm, result, **_):
        result["score"] = algorithm.config.seed

    space = quick().callbacks(on_train_result=rank).training(lr=tune.loguniform(1e-4, 1e-3)).to_dict()
    tune.Tuner(
        Rainbow,
        param_space={**space, "seed": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), stop={"training_iteration": 6}, verbose=0, callbacks=[Watch()]
        ),
    ).fit()
    assert len({rate for _, rate, _, _ in seen}) > 2, "no exploit took place"
    for _, wanted, recorded, used in seen:
        assert wanted == pytest.approx(recorded)
        assert used == pytest.approx(recorded)


def test_asha_on_episode_return_mean_stops_a_trial(tmp_path):
    from ray.tune.schedulers import ASHAScheduler

    def worse(*, algorithm, result, **_):
        if algorithm.config.seed == 2 and not math.isnan(result["env_runners"]["episode_return_mean"]):
            result["env_runners"]["episode_return_mean"] = -1e3

    def named(*, env_runner, **_):
        assert env_runner.tune_trial_id

    scheduler = ASHAScheduler(
        metric="env_runners/episode_return_mean", mode="max", max_t=8, grace_period=5, reduction_factor=2
    )
    # 600 agent steps to the first comparison: a game has ended by then.
    config = quick().callbacks(on_train_result=worse, on_environment_created=named).training(steps_per_iteration=120)
    results = tune.Tuner(
        Rainbow,
        param_space={**config.to_dict(), "seed": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 8}, verbose=0),
    ).fit()
    assert not results.errors
    ran = {result.config["seed"]: result.metrics["training_iteration"] for result in results}
    assert ran[2] == 5 < ran[1] == 8


DRIVER = """
import sys
import ray
from ray import tune
from tensorrl.rllib import Rainbow
sys.path.insert(0, {tests!r})
from test_tune import quick

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
tune.Tuner(
    Rainbow,
    param_space={{**quick().training(total_steps=900).to_dict(), "seed": tune.grid_search([1, 2])}},
    run_config=tune.RunConfig(
        name="killed", storage_path={storage!r}, stop={{"training_iteration": 12}}, verbose=0,
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
    ),
).fit()
"""


def knows_a_checkpoint(folder):
    """Whether Tune wrote its state after a trial's second checkpoint began, and so knows of the first."""
    second = [path.stat().st_mtime for path in folder.glob("*/checkpoint_000001")]
    written = [path.stat().st_mtime for path in folder.glob("experiment_state-*.json")]
    return bool(second and written) and max(written) > min(second)


def test_a_tuner_goes_on_after_its_driver_was_killed(tmp_path):
    code = DRIVER.format(tests=str(Path(__file__).parent), storage=str(tmp_path))
    said = tmp_path / "said.txt"
    with said.open("w") as log:
        # Tune writes what it knows of its trials every so often, here at every chance.
        often = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0"}
        driver = subprocess.Popen(
            [sys.executable, "-c", code], env=often, start_new_session=True, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 600
    while not knows_a_checkpoint(tmp_path / "killed"):
        assert driver.poll() is None, said.read_text()[-3000:]
        assert time.monotonic() < deadline, said.read_text()[-3000:]
        time.sleep(0.1)
    below = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    # Its Ray ends with it; until then its trials could write into the folder.
    _, alive = psutil.wait_procs(below, timeout=120)
    assert not alive
    results = tune.Tuner.restore(str(tmp_path / "killed"), trainable=Rainbow, resume_errored=True).fit()
    assert not results.errors
    assert [result.metrics["training_iteration"] for result in results] == [12, 12]
    assert [result.metrics["env_runners"]["num_env_steps_sampled_lifetime"] for result in results] == [720, 720]
    # A trial whose checkpoint Tune knew of went on from it.
    assert min(result.metrics["iterations_since_restore"] for result in results) < 12
