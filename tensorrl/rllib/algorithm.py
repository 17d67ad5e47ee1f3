"""`Rainbow`: RLlib's DQN with our training loop, whose checkpoints hold all that a resumed run needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.algorithms.dqn import DQN
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, TIMERS

from tensorrl import system
from tensorrl.rllib.config import RainbowConfig
from tensorrl.trial import checkpoints
from tensorrl.trial.training import Training

COMPONENT = "training"


class Rainbow(DQN):  # type: ignore[misc]
    """Data-efficient Rainbow and its variants, one update an agent step.

    Each `train()` does `steps_per_iteration` agent steps in this process. Checkpoints hold replay, generators and the
    game, so that an algorithm restored from one goes on to the same bits.

    Attributes:
        training: the trial in progress.
    """

    training: Training

    @classmethod
    def get_default_config(cls) -> RainbowConfig:
        """A config for pong with the variant rainbow."""
        return RainbowConfig()

    def setup(self, config: Any) -> None:
        """Builds env runner and learner, and the training loop over both."""
        system.keep_freed_memory()
        super().setup(config)
        (learner,) = (result.get() for result in self.learner_group.foreach_learner(lambda learner: learner))
        self.env_runner.module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        self.training = Training(self.env_runner.game, learner.agent, self.config.settings, self.config.total_steps)

    def training_step(self) -> None:
        """Does one iteration: act, update and remember, `steps_per_iteration` times; metrics once."""
        training, runner = self.training, self.env_runner
        steps = self.config.steps_per_iteration
        with self.metrics.log_time((TIMERS, "training_loop")):
            training.run(steps)
        runner.log_steps(steps)
        for score, length in training.take_games():
            runner.log_game(score, length)
        self.metrics.aggregate([runner.get_metrics()], key=ENV_RUNNER_RESULTS)
        figures = {"beta": training.beta, "epsilon": training.epsilon, "num_updates": float(training.agent.updates)}
        loss = training.agent.take_mean_loss()
        if loss is not None:
            figures["loss"] = loss
        for name, value in figures.items():
            self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, name), value, window=1)

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """RLlib's own, and the training."""
        return [*super().get_checkpointable_components(), (COMPONENT, _TrainingFiles(self))]

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state; the training is saved by its own component."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COMPONENT, components, not_components):
            state[COMPONENT] = {}
        return state


class _TrainingFiles(Checkpointable):  # type: ignore[misc]
    """The training as a component of an RLlib checkpoint: our files, read without unpickling."""

    def __init__(self, algorithm: Rainbow) -> None:
        self._algorithm = algorithm

    def save_to_path(self, path: Any = None, **_: Any) -> str:
        """Writes a checkpoint of the training below `path`."""
        checkpoints.save(self._algorithm.training, Path(path))
        return str(path)

    def restore_from_path(self, path: Any, **_: Any) -> None:
        """Takes the newest checkpoint below `path`."""
        checkpoints.restore(self._algorithm.training, checkpoints.checkpoints(Path(path))[-1])

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Nothing beside the files."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing beside the files."""

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Never built on its own."""
        return (), {}
