"""One trial through three doors: a sweep's cell, `tensorrl train` and RLlib's `build_algo().train()`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch

from tensorrl.rllib import RainbowConfig
from tensorrl.trial.training import parameters_sha256

ROOT = Path(__file__).parents[3]
STEPS, SETTINGS = 400, {"learning_starts": 100, "epsilon_decay": 50, "learning_rate": 2e-4}
EVALUATION = {"final_episodes": 1, "evaluation_epsilon": 1.0}
SWEEP = f"""
name: doors
games: [road_runner]
variants: [trl-10x]
seeds: [5]
steps: {STEPS}
settings: {json.dumps(SETTINGS)}
evaluation: {{final_episodes: 1, epsilon: 1.0}}
resources: {{gpus: 0, cpus: 1}}
"""


@pytest.mark.slow
def test_a_cell_a_trial_and_an_algorithm_give_the_same_parameters(tmp_path: Path) -> None:
    file, store, out = tmp_path / "doors.yaml", tmp_path / "store", tmp_path / "alone"
    file.write_text(SWEEP)
    settings = [f"--set={name}={value}" for name, value in (SETTINGS | EVALUATION).items()]
    trial = ["--game=road_runner", "--variant=trl-10x", "--seed=5", f"--steps={STEPS}", "--device=cpu", "--threads=1"]
    for command in (["sweep", str(file), "--out", str(store)], ["train", *trial, *settings, "--out", str(out)]):
        subprocess.run(
            [sys.executable, "-m", "tensorrl", *command], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
        )
    (cell,) = store.glob("*/result.json")
    results = [json.loads(path.read_text()) for path in (cell, out / "result.json")]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        config = RainbowConfig().environment("road_runner").variant("trl-10x").debugging(seed=5)
        # RLlib's names, and iterations that end elsewhere than the reports of the other two.
        config.training(
            lr=2e-4, num_steps_sampled_before_learning_starts=100, epsilon=[[0, 1.0], [100, 1.0], [150, 0.01]],
            total_steps=STEPS, steps_per_iteration=80,
        )  # fmt: skip
        algorithm = config.build_algo()
        for _ in range(STEPS // 80):
            algorithm.train()
        found = parameters_sha256(algorithm.training.agent.network)
        algorithm.stop()
    finally:
        ray.shutdown()
        torch.set_num_threads(threads)
    assert [result["parameters_sha256"] for result in results] == [found, found]
