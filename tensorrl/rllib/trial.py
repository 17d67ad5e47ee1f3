"""A trial whose training RLlib builds, as a sweep's cells run it; its loop, folder and bits are `tensorrl train`'s."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tensorrl.rllib.algorithm import Rainbow, RainbowConfig
from tensorrl.trial import run
from tensorrl.trial.spec import TrialSpec
from tensorrl.trial.training import Training


def config_of(spec: TrialSpec, device: torch.device) -> RainbowConfig:
    """The configuration of RLlib that trains a trial.

    Raises:
        InputError: unknown game, variant or setting, or a value that is not allowed.
    """
    config = RainbowConfig().environment(spec.game).choose(spec.variant, **spec.overrides)
    config.training(total_steps=spec.steps).debugging(seed=spec.seed, log_sys_usage=False)
    # A fraction would do: Tune has chosen the device, and the process sees no other.
    config.learners(num_gpus_per_learner=1 if device.type == "cuda" else 0)
    return config


def build_training(spec: TrialSpec, device: torch.device) -> Training:
    """Everything that a trial runs on, from an algorithm that RLlib builds.

    Raises:
        InputError: see `config_of`.
    """
    algorithm = Rainbow(config=config_of(spec, device))
    # RLlib makes a folder for files of its own; a trial's files are in the trial's folder.
    with suppress(OSError):
        Path(algorithm.logdir).rmdir()
    return algorithm.training


def run_trial(spec: TrialSpec, out: Path, **options: Any) -> dict[str, Any]:
    """As `tensorrl.trial.run.run_trial`, with the training that RLlib builds."""
    return run.run_trial(spec, out, build=build_training, **options)
