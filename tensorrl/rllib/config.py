"""`RainbowConfig`: a trial's settings under RLlib's chained builder."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided

from tensorrl import games
from tensorrl.errors import InputError, unknown
from tensorrl.rllib.module import RainbowModule
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings, network_spec

# RLlib's names for what `Settings` has under its own.
_ALIASES = {
    "lr": "learning_rate",
    "gamma": "discount",
    "grad_clip": "gradient_norm",
    "train_batch_size": "batch_size",
    "train_batch_size_per_learner": "batch_size",
    "num_steps_sampled_before_learning_starts": "learning_starts",
    "target_network_update_freq": "target_interval",
    "num_atoms": "atoms",
    "sigma0": "noisy_sigma",
    "hiddens": "hidden",
}


class RainbowConfig(DQNConfig):  # type: ignore[misc]
    """Configures `Rainbow`.

    Example:
        >>> config = RainbowConfig().environment("pong").variant("denoised").training(lr=2e-4).debugging(seed=3)
        >>> algorithm = config.build_algo()  # doctest: +SKIP

    Attributes:
        game: ALE's name of the game.
        variant_name: the variant.
        overrides: settings that differ from the variant's.
        total_steps: agent steps of the whole trial; schedules end there.
        steps_per_iteration: agent steps of one `train()`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from tensorrl.rllib.algorithm import Rainbow
        from tensorrl.rllib.env_runner import AtariEnvRunner

        super().__init__(algo_class=algo_class or Rainbow)
        self.game = "pong"
        self.variant_name = "rainbow"
        self.overrides: dict[str, Any] = {}
        self.total_steps = 100_000
        self.steps_per_iteration = 1_000
        self.seed = 0
        self.env_runner_cls = AtariEnvRunner
        # Ours lies in the algorithm's training state.
        self.replay_buffer_config = {"type": "EpisodeReplayBuffer", "no_local_replay_buffer": True}
        self.log_gradients = False
        # One iteration is one `training_step`, however short.
        self.min_sample_timesteps_per_iteration = 0

    def environment(self, env: Any = NotProvided, **kwargs: Any) -> Self:
        """Names the game, as `tensorrl games` lists it.

        Raises:
            InputError: no such game, or an option of RLlib that would change the protocol of Atari 100k.
        """
        for name, value in kwargs.items():
            if value is not NotProvided:
                raise InputError(
                    f"environment({name}=…): Rainbow plays Atari 100k with fixed settings; only `env` is allowed"
                )
        if env is not NotProvided:
            self.game = games.get(env).name
            super().environment(env=self.game)
        return self

    def variant(self, name: str, **overrides: Any) -> Self:
        """Chooses a variant, with settings of one's own on top; see `tensorrl variants`.

        Raises:
            InputError: unknown variant, setting or value.
        """
        variants.resolve(name, overrides)
        self.variant_name, self.overrides = name, dict(overrides)
        return self

    def training(
        self, *, total_steps: int | None = None, steps_per_iteration: int | None = None, **settings: Any
    ) -> Self:
        """Changes settings, under their own names or RLlib's where it has one (`lr`, `gamma`, `n_step`, …).

        Args:
            total_steps: agent steps of the whole trial.
            steps_per_iteration: agent steps of one `train()`.
            settings: see `tensorrl.trial.settings.Settings`.

        Raises:
            InputError: a setting Rainbow does not have, or a value that is not allowed.
        """
        changes = {_ALIASES.get(name, name): value for name, value in settings.items() if value is not NotProvided}
        for name in changes:
            if name not in Settings.model_fields:
                raise unknown("setting", name, [*Settings.model_fields, *_ALIASES], where="training()")
        merged = {**self.overrides, **changes}
        variants.resolve(self.variant_name, merged)
        for label, value in (("total_steps", total_steps), ("steps_per_iteration", steps_per_iteration)):
            if value is not None and value < 1:
                raise InputError(f"training({label}={value}): at least 1")
        self.overrides = merged
        self.total_steps = total_steps or self.total_steps
        self.steps_per_iteration = steps_per_iteration or self.steps_per_iteration
        return self

    def update_from_dict(self, config_dict: Any) -> Self:
        """Takes a configuration as the dict that Tune hands over."""
        # RLlib sends these through the builder's methods, though they are what they were.
        routed = ("env_config", "model", "optimizer", "replay_buffer_config")
        unchanged = {name for name in routed if name in config_dict and config_dict[name] == getattr(self, name, None)}
        super().update_from_dict({name: value for name, value in config_dict.items() if name not in unchanged})
        return self

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return variants.resolve(self.variant_name, self.overrides)

    def validate(self) -> None:
        """Checks the whole configuration.

        Raises:
            InputError: what one sequential training cannot do, such as remote env runners.
        """
        if self.num_env_runners or self.num_envs_per_env_runner != 1:
            raise InputError("env_runners(): one update an agent step needs num_env_runners=0 and one environment")
        if self.num_learners:
            raise InputError("learners(): Rainbow learns in one process, num_learners=0")
        if self.seed is None:
            self.seed = 0
        super().validate()

    @property
    def is_atari(self) -> bool:
        """Always: every game here is one of Atari."""
        return True

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The network of the settings, for the game's action set."""
        network = network_spec(self.settings, games.get(self.game).actions)
        return RLModuleSpec(
            module_class=RainbowModule,
            model_config={
                "network": network.model_dump(mode="json"),
                "settings": self.settings.model_dump(mode="json"),
                "seed": self.seed,
            },
        )

    def get_default_learner_class(self) -> type:
        """`RainbowLearner`."""
        from tensorrl.rllib.learner import RainbowLearner

        return RainbowLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        # The module's description is complete; RLlib's defaults would only be ignored.
        return {}
