"""`RainbowConfig` and `Rainbow`: RLlib's DQN with our training loop, whose state is all that a resumed run needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQN
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, TIMERS

from tensorrl import system
from tensorrl.errors import InputError, unknown
from tensorrl.rllib.config import RainbowSettings
from tensorrl.rllib.metrics import log_learning
from tensorrl.rllib.options import changed
from tensorrl.rllib.state import TrainingFiles, put_back, snapshot, told
from tensorrl.trial.training import Training

COMPONENT = "training"


class RainbowConfig(RainbowSettings):
    """Configures `Rainbow`; see `RainbowSettings` for its attributes.

    Example:
        >>> config = RainbowConfig().environment("pong").variant("denoised").training(lr=2e-4).debugging(seed=3)
        >>> config.lr, config.n_step, config.noisy
        (0.0002, 20, False)
        >>> algorithm = config.build_algo()  # doctest: +SKIP
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or Rainbow)


class Rainbow(DQN):  # type: ignore[misc]
    """Data-efficient Rainbow and its variants, one update an agent step.

    Each `train()` does `steps_per_iteration` agent steps in this process. Checkpoints hold replay, generators and the
    game, so that an algorithm restored from one goes on to the same bits.

    Args:
        config: a `RainbowConfig`, a dict of its attributes, or another config of RLlib, whose changed options count.
        args: see RLlib's `Algorithm`.
        others: see RLlib's `Algorithm`.

    Attributes:
        training: the trial in progress.

    Raises:
        InputError: a configuration that Rainbow cannot have.
    """

    training: Training

    def __init__(self, config: Any = None, *args: Any, **others: Any) -> None:
        if isinstance(config, AlgorithmConfig) and not isinstance(config, RainbowSettings):
            # RLlib's defaults must not displace the variant's settings.
            config = self.get_default_config().update_from_dict(changed(config))
        super().__init__(config, *args, **others)

    @classmethod
    def get_default_config(cls) -> RainbowConfig:
        """A config for pong with the variant rainbow."""
        return RainbowConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        """What one trial reserves; completes the trial's own configuration, which Tune's loggers record.

        Tune asks this once it has drawn a trial's configuration, before any logger hears of the trial.

        Raises:
            InputError: a configuration that Rainbow cannot have.
        """
        request = super().default_resource_request(config)
        if isinstance(config, dict):
            drawn = cls.get_default_config().update_from_dict(config)
            config.update(drawn.complete(config))
        return request

    def setup(self, config: Any) -> None:
        """Builds env runner and learner, and the training loop over both."""
        system.keep_freed_memory()
        super().setup(config)
        (learner,) = (result.get() for result in self.learner_group.foreach_learner(lambda learner: learner))
        self._learner = learner
        self.env_runner.adopt(learner.module[DEFAULT_MODULE_ID].unwrapped(), learner.device)
        self.training = Training(self.env_runner.game, learner.agent, self.config.settings, self.config.total_steps)

    def training_step(self) -> None:
        """Does one iteration: act, update and remember, `steps_per_iteration` times; metrics once."""
        training, steps = self.training, self.config.steps_per_iteration
        updates = training.agent.updates
        with self.metrics.log_time((TIMERS, "training_loop")):
            training.run(steps)
        figures = self.env_runner.log_training(steps, training.take_games())
        self.metrics.aggregate([figures], key=ENV_RUNNER_RESULTS)
        learned = {
            "beta": training.beta,
            "epsilon": training.epsilon,
            "num_updates": float(training.agent.updates),
            **self._learner.take_figures(training),
        }
        seen = (training.agent.updates - updates) * training.settings.batch_size
        log_learning(self.metrics, LEARNER_RESULTS, learned, seen)

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """RLlib's own, and the training."""
        return [*super().get_checkpointable_components(), (COMPONENT, TrainingFiles(self))]

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and the training's, replay included."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COMPONENT, components, not_components):
            state[COMPONENT] = snapshot(self.training)
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `get_state` gave; the optimizer's options stay the config's.

        Raises:
            InputError: the state is of another network, game or replay.
        """
        with told():
            super().set_state(state)
        if state.get(COMPONENT):
            put_back(self.training, state[COMPONENT])
        self._learner.keep_options()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Takes a checkpoint's state; the optimizer's options stay the config's.

        Raises:
            InputError: the checkpoint is of another network, game or replay.
        """
        with told():
            super().restore_from_path(path, *args, **kwargs)
        self._learner.keep_options()

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Sets the network's weights, as `get_weights` gives them.

        Args:
            weights: by module id.

        Raises:
            InputError: they are of another module or network.
        """
        known = self.get_weights()
        for module, values in weights.items():
            if module not in known:
                raise unknown("module", module, known, where="weights")
            other = sorted(known[module].keys() ^ values.keys())
            if other:
                raise InputError(f"weights: of another network than {module}'s; they differ in {', '.join(other[:3])}")
        self.set_state({"learner_group": {"learner": {"rl_module": dict(weights)}}})
