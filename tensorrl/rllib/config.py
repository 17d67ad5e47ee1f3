"""The configuration of `Rainbow`: training uses its attributes, however they are set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided
from ray.util.debug import log_once

from tensorrl import games
from tensorrl.errors import InputError, unknown
from tensorrl.rllib import options
from tensorrl.rllib.attributes import ALIASES, ATTRIBUTES, is_space, resolve
from tensorrl.rllib.chosen import ChosenSettings
from tensorrl.rllib.env_runner import AtariEnvRunner
from tensorrl.rllib.learner import RainbowLearner
from tensorrl.rllib.module import RainbowModule
from tensorrl.trial import variants
from tensorrl.trial.settings import network_spec

_OURS = ("variant", "total_steps", "steps_per_iteration")
_UNITS = ("episodes", "timesteps")


class RainbowSettings(ChosenSettings):
    """Everything of `RainbowConfig` except its algorithm class.

    Attributes:
        variant: name of the variant; `config.variant(name, **settings)` chooses one in the builder's chain.
        total_steps: agent steps of the whole trial; schedules end there.
        steps_per_iteration: agent steps of one `train()`.
    """

    def __init__(self, algo_class: type) -> None:
        super().__init__(algo_class=algo_class)
        for name in (*ATTRIBUTES, *ALIASES):
            self.__dict__.pop(name, None)
        self.total_steps = 100_000
        self.steps_per_iteration = 1_000
        self.env = "pong"
        self.seed = 0
        self.env_runner_cls = AtariEnvRunner
        self.store_buffer_in_checkpoints = True
        # One iteration is one `training_step`, however short.
        self.min_sample_timesteps_per_iteration = 0
        # Last: from here on an unknown name is an error.
        self.variant = "rainbow"

    def environment(self, env: Any = NotProvided, **others: Any) -> Self:
        """Names the game, as `tensorrl games` lists it; see `AlgorithmConfig.environment`.

        Raises:
            InputError: no such game, or an option that would change the protocol of Atari 100k.
        """
        for name, value in others.items():
            if value is not NotProvided:
                raise InputError(f"environment({name}=…): Atari 100k fixes the environment; only `env` can be chosen")
        if env is not NotProvided:
            self.env = env if is_space(env) else _game(env)
        return self

    def env_runners(self, **settings: Any) -> Self:
        """As `AlgorithmConfig.env_runners`, which silently ignores one old option.

        Raises:
            InputError: that option.
        """
        if "enable_connectors" in settings:
            raise InputError("env_runners(enable_connectors=…): leave it out; only RLlib's old API stack reads it")
        super().env_runners(**settings)
        return self

    def choose(self, name: Any, **overrides: Any) -> Self:
        """Chooses a variant, with settings of one's own; `config.variant(…)` in the builder's chain.

        Args:
            name: see `tensorrl variants`; or a search space of Tune.
            overrides: settings, under RLlib's names or ours.

        Raises:
            InputError: unknown variant, setting or value.
        """
        if not is_space(name):
            variants.get(str(name))
        before = dict(self.__dict__)
        self.variant = name
        return self._take(overrides, "variant()", before)

    def training(self, **settings: Any) -> Self:
        """Changes settings, under RLlib's names where it has one (`lr`, `gamma`, `n_step`, …), or ours.

        Args:
            settings: `total_steps`, `steps_per_iteration`; every setting of `tensorrl settings`; and what
                `DQNConfig.training` takes. Values may be search spaces of Tune.

        Raises:
            InputError: a setting Rainbow does not have, or a value that is not allowed.
        """
        ours = {name: value for name, value in settings.items() if name in {*ATTRIBUTES, *ALIASES, *_OURS}}
        others = {name: value for name, value in settings.items() if name not in ours and value is not NotProvided}
        for name in others:
            if name not in _training_options():
                raise unknown("setting", name, [*ATTRIBUTES, *_OURS, *_training_options()], where="training()")
        self._take(ours, "training()", dict(self.__dict__))
        super().training(**others)
        return self

    def _take(self, changes: Mapping[str, Any], where: str, before: dict[str, Any]) -> Self:
        """Sets attributes all at once, or none where one is wrong."""
        try:
            for name, value in changes.items():
                if value is NotProvided:
                    continue
                if name not in {*ATTRIBUTES, *ALIASES, *_OURS}:
                    raise unknown("setting", name, [*ATTRIBUTES, *_OURS], where=where)
                setattr(self, name, value)
            self._check_steps()
            if not is_space(self.variant):
                # A schedule of ε must fit settings that may come after it: `validate` looks at it.
                known = {name: value for name, value in self.chosen.items() if not is_space(value)}
                resolve(self.variant, {name: value for name, value in known.items() if name != "epsilon"})
        except InputError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def validate(self) -> None:
        """Checks the whole configuration.

        Raises:
            InputError: what Rainbow cannot do or have, in one line.
        """
        for name, value in self.__dict__.items():
            if is_space(value):
                raise InputError(f"{name}: is a search space; give the config to tune.Tuner, which draws from it")
        kind: Any = type(self)
        options.check(self.__dict__, _defaults(kind))
        if not self._is_frozen:
            self.env = _game(self.env)
            self.seed = 0 if self.seed is None else self.seed
        if not _is_count(self.seed, 0) or self.seed >= 2**31:
            raise InputError(f"seed={self.seed!r}: a whole number from 0 to 2147483647")
        self._check_steps()
        network_spec(self.settings, games.get(self.env).actions)
        if not self._is_frozen:
            self.__dict__.update(self.as_trained(self.chosen))
        self._check_classes()
        module_class = self._module_class()
        if self._model_config and module_class is RainbowModule:
            raise InputError("rl_module(model_config=…): Rainbow's network is described by settings, such as `hidden`")
        if not self.explore and not self.in_evaluation:
            raise InputError("env_runners(explore=False): training explores; evaluation_config={'explore': False}")
        if not self.in_evaluation:
            self._check_evaluation()
        # RLlib would warn that the new API stack is new.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        try:
            super().validate()
        except InputError:
            raise
        except ValueError as error:
            # RLlib adds how to turn its checks off, which is refused here.
            raise InputError(" ".join(str(error).partition("\nTo suppress all validation errors")[0].split())) from None

    def _check_steps(self) -> None:
        for name in ("total_steps", "steps_per_iteration"):
            value = self.__dict__[name]
            if not is_space(value) and not _is_count(value, 1):
                raise InputError(f"{name}={value!r}: a whole number of agent steps, at least 1")

    def _check_classes(self) -> None:
        for option, given, base in (
            ("env_runners(env_runner_cls", self.env_runner_cls, AtariEnvRunner),
            ("learners(learner_class", self._learner_class or RainbowLearner, RainbowLearner),
        ):
            if not (isinstance(given, type) and issubclass(given, base)):
                raise InputError(f"{option}={given!r}): a subclass of {base.__name__}")

    def _module_class(self) -> type:
        """The module to train.

        Raises:
            InputError: it cannot be trained here.
        """
        if self._rl_module_spec is not None and not isinstance(self._rl_module_spec, RLModuleSpec):
            raise InputError("rl_module(rl_module_spec=…): one RLModuleSpec, as an Atari game has one module")
        given = getattr(self._rl_module_spec, "module_class", None) or RainbowModule
        if not issubclass(given, QNetAPI) or not issubclass(given, TargetNetworkAPI):
            raise InputError(f"rl_module_spec: {given.__name__} must be a QNetAPI and a TargetNetworkAPI of RLlib")
        if self.noisy and not issubclass(given, RainbowModule):
            raise InputError(
                f"rl_module_spec: {given.__name__} explores ε-greedily; set noisy=False, or variant denoised"
            )
        for name, off in (("reset_interval", None), ("average_decay", 0.0)):
            value = getattr(self, name)
            if value != off and not issubclass(given, RainbowModule):
                raise InputError(
                    f"{name}={value!r}: needs the network of a RainbowModule, and {given.__name__} is none"
                )
        return given

    def _check_evaluation(self) -> None:
        for name, least in (("evaluation_interval", 0), ("metrics_num_episodes_for_smoothing", 1)):
            value = self.__dict__[name]
            if not _is_count(value, least) and not (least == 0 and value is None):
                raise InputError(
                    f"{name}={value!r}: {'None, or ' if least == 0 else ''}a whole number, at least {least}"
                )
        unit = self.evaluation_duration_unit
        if unit not in _UNITS:
            raise InputError(f"evaluation_duration_unit={unit!r} (allowed: {', '.join(_UNITS)})")
        given = self.evaluation_config if isinstance(self.evaluation_config, Mapping) else {}
        self.copy(copy_frozen=False).update_from_dict(given)
        ours = {name: value for name, value in given.items() if ALIASES.get(name, name) in {*ATTRIBUTES, "variant"}}
        if ours:
            other, actions = self.copy(copy_frozen=False), games.get(self.env).actions
            for name, value in ours.items():
                setattr(other, name, value)
            if network_spec(other.settings, actions) != network_spec(self.settings, actions):
                raise InputError(f"evaluation_config={dict(ours)!r}: evaluation plays the network that is trained")
        if isinstance(self.evaluation_config, AlgorithmConfig | Mapping):
            env = self.evaluation_config.get("env")
            if env is not None and _game(env) != self.env:
                raise InputError(
                    f"evaluation(evaluation_config={{'env': {env!r}}}): the network knows one game, {self.env}"
                )

    @property
    def is_atari(self) -> bool:
        """Always: every game here is one of Atari."""
        return True

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """`RainbowModule`, whose description comes by `model_config`."""
        return RLModuleSpec(module_class=RainbowModule)

    def get_default_learner_class(self) -> type:
        """`RainbowLearner`."""
        return RainbowLearner

    def get_multi_rl_module_spec(self, **kwargs: Any) -> Any:
        """As RLlib's; what the settings say is never that of an older copy."""
        spec = super().get_multi_rl_module_spec(**kwargs)
        for module in spec.rl_module_specs.values():
            module.model_config = {**module.model_config, **self._model_config_auto_includes}
        return spec

    def get_rl_module_spec(self, *args: Any, **kwargs: Any) -> RLModuleSpec:
        """As RLlib's; what the settings say is never that of an older copy."""
        spec = super().get_rl_module_spec(*args, **kwargs)
        spec.model_config = {**spec.model_config, **self._model_config_auto_includes}
        return spec

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        """What every module is told: the settings, the network that they describe for the game, and the seed."""
        settings = self.settings
        return {
            **super()._model_config_auto_includes,
            "network": network_spec(settings, games.get(self.env).actions).model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "seed": self.seed,
        }


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _game(name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(f"env={name!r}: the name of a game, such as 'pong'; `tensorrl games` lists them")
    return games.get(name).name


@functools.cache
def _training_options() -> frozenset[str]:
    """What RLlib's own `training` takes."""
    found = {*inspect.signature(DQNConfig.training).parameters, *inspect.signature(AlgorithmConfig.training).parameters}
    return frozenset(found - {"self", "kwargs"})


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    """Attributes of an unchanged config."""
    return dict(vars(kind()))
