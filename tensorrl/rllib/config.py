"""The configuration of `Rainbow`: its attributes are what trains, however they are set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided
from ray.util.debug import log_once

from tensorrl import games
from tensorrl.errors import InputError, unknown
from tensorrl.rllib import options
from tensorrl.rllib.attributes import (
    ALIASES,
    ATTRIBUTES,
    WHOLES,
    attributes_of,
    is_space,
    parts_of,
    plain,
    resolve,
    value_of,
)
from tensorrl.rllib.env_runner import AtariEnvRunner
from tensorrl.rllib.learner import RainbowLearner
from tensorrl.rllib.module import RainbowModule
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings, network_spec

_PART_OF = {part: whole for whole, parts in WHOLES.items() for part in parts}
_OURS = ("variant", "total_steps", "steps_per_iteration")
# RLlib sets these on configs that know nothing of them.
_LATE = frozenset({"worker_index", "simple_optimizer"})


class VariantName(str):
    """The name of a config's variant; called, the builder's method that chooses one."""

    _config: RainbowSettings

    def __call__(self, name: Any, **overrides: Any) -> Any:
        """See `RainbowSettings.variant`."""
        return self._config.choose(name, **overrides)


class _Variant:
    """`config.variant` is a name, as RLlib's attributes are values, and `config.variant(…)` the builder's method."""

    def __get__(self, config: RainbowSettings | None, owner: type) -> Any:
        if config is None:
            return self
        value = config.__dict__["variant"]
        if not isinstance(value, str):
            return value
        name = VariantName(value)
        name._config = config
        return name

    def __set__(self, config: RainbowSettings, value: Any) -> None:
        config.__dict__["variant"] = value


class RainbowSettings(DQNConfig):  # type: ignore[misc]
    """Everything of `RainbowConfig` but the algorithm that it is of.

    An attribute that the user chose lies in the instance; every other setting is the variant's own, and is looked up
    when it is asked for. So a change of the variant changes all that was not chosen.

    Attributes:
        variant: name of the variant; `config.variant(name, **settings)` chooses one in the builder's chain.
        total_steps: agent steps of the whole trial; schedules end there.
        steps_per_iteration: agent steps of one `train()`.
    """

    variant = _Variant()

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
        # Last: from here on a name that nothing has is an error.
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

    def choose(self, name: Any, **overrides: Any) -> Self:
        """Chooses a variant, with settings of one's own; `config.variant(…)` in the builder's chain.

        Args:
            name: see `tensorrl variants`; or a search space of Tune.
            overrides: settings, under RLlib's names or ours.

        Raises:
            InputError: unknown variant, setting or value.
        """
        if not is_space(name):
            variants.get(name)
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
                resolve(self.variant, {name: value for name, value in self.chosen.items() if not is_space(value)})
        except InputError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def update_from_dict(self, config_dict: Any) -> Self:
        """Takes a configuration as the dict that Tune hands over.

        Raises:
            InputError: a name that no attribute has.
        """
        # RLlib sends some through the builder's methods, though they are what they were; and merges ours, a dict.
        routed = ("env_config", "model")
        rest = {
            name: value
            for name, value in config_dict.items()
            if not (name in routed and value == getattr(self, name, None)) and name not in ATTRIBUTES
        }
        super().update_from_dict(rest)
        for name, value in config_dict.items():
            if name in ATTRIBUTES:
                setattr(self, name, value)
        return self

    def to_dict(self) -> dict[str, Any]:
        """All attributes: those that were chosen, and once the config is frozen also those that the variant gives."""
        found: dict[str, Any] = super().to_dict()
        return self.complete(found) if self._is_frozen else found

    def complete(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Adds to a dict of attributes what it leaves to the variant, so that it holds all that trains."""
        given = {ALIASES.get(name, name) for name in chosen}
        wholes = {_PART_OF[name] for name in given if name in _PART_OF} | ({"v_min"} if "v_max" in given else set())
        if self.noisy:
            wholes.add("epsilon")
        rest = {name: value for name, value in attributes_of(self.settings).items() if name not in given | wholes}
        return {**chosen, **rest}

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that differ from the variant's by the user's choice, under their attributes' names."""
        return {name: value for name, value in self.__dict__.items() if name in ATTRIBUTES}

    @property
    def settings(self) -> Settings:
        """The resolved settings.

        Raises:
            InputError: a value that Rainbow cannot have, or a search space that nothing was drawn from yet.
        """
        for name, value in (("variant", self.variant), *self.chosen.items()):
            if is_space(value):
                raise InputError(f"{name}: is a search space; give the config to tune.Tuner, which draws from it")
        return resolve(self.variant, self.chosen)

    @property
    def train_batch_size_per_learner(self) -> Any:
        """Transitions an update."""
        found = self.__dict__
        name = "train_batch_size_per_learner"
        return found[name] if name in found else self._default(name)

    @train_batch_size_per_learner.setter
    def train_batch_size_per_learner(self, value: Any) -> None:
        self.__dict__["train_batch_size_per_learner"] = value

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES or name in ALIASES:
            return self._default(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _default(self, name: str) -> Any:
        """A setting that the user left to the variant."""
        name = ALIASES.get(name, name)
        if name in self.__dict__:
            return self.__dict__[name]
        if "variant" not in self.__dict__ or is_space(self.__dict__["variant"]):
            raise AttributeError(f"{name}: is the variant's, which is not chosen yet")
        chosen = {key: value for key, value in self.chosen.items() if not is_space(value)}
        return value_of(name, resolve(self.variant, chosen))

    def __setattr__(self, name: str, value: Any) -> None:
        if "variant" not in self.__dict__:
            super().__setattr__(name, value)  # RLlib's own constructor
            return
        name = ALIASES.get(name, name)
        if name in ATTRIBUTES:
            self._set_setting(name, plain(value))
            return
        known = name.startswith("_") or name in self.__dict__ or name in _LATE or hasattr(type(self), name)
        if not known:
            raise unknown("option", name, [*ATTRIBUTES, *(key for key in self.__dict__ if not key.startswith("_"))])
        super().__setattr__(name, plain(value))

    def _set_setting(self, name: str, value: Any) -> None:
        """The last of a whole and its parts to be set is what counts."""
        whole = _PART_OF.get(name)
        if whole in self.__dict__ and not self._is_frozen:
            if is_space(self.__dict__[whole]):
                raise InputError(f"{name}: {whole} is a search space, and holds it already")
            self.__dict__.update(parts_of(whole, self.__dict__.pop(whole), self.settings))
        if name == "replay_buffer_config" and isinstance(value, Mapping) and not self._is_frozen:
            # As RLlib does: what is not mentioned stays.
            known = "rainbow" if is_space(self.variant) else self.variant
            value = {**value_of(name, resolve(known, {})), **self.__dict__.get(name, {}), **value}
        super().__setattr__(name, value)
        for part in WHOLES.get(name, ()):
            self.__dict__.pop(part, None)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, self._translate_special_keys(name, warn_deprecated=False), value)

    def validate(self) -> None:
        """Checks the whole configuration.

        Raises:
            InputError: what Rainbow cannot do or have, in one line.
        """
        for name, value in self.__dict__.items():
            if is_space(value):
                raise InputError(f"{name}: is a search space; give the config to tune.Tuner, which draws from it")
        options.check(self.__dict__, _defaults(type(self)))
        if not self._is_frozen:
            self.env = _game(self.env)
            self.seed = 0 if self.seed is None else self.seed
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise InputError(f"seed={self.seed!r}: a whole number from 0 to 2147483647")
        self._check_steps()
        network_spec(self.settings, games.get(self.env).actions)
        self._check_classes()
        if not self.explore and not self.in_evaluation:
            raise InputError("env_runners(explore=False): training explores; evaluation_config={'explore': False}")
        if not self.in_evaluation:
            self._check_evaluation()
        # RLlib would say that the new API stack is new.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        super().validate()

    def _check_steps(self) -> None:
        for name in ("total_steps", "steps_per_iteration"):
            value = self.__dict__[name]
            if not is_space(value) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name}={value!r}: a whole number of agent steps, at least 1")

    def _check_classes(self) -> None:
        for option, given, base in (
            ("env_runners(env_runner_cls", self.env_runner_cls, AtariEnvRunner),
            ("learners(learner_class", self._learner_class or RainbowLearner, RainbowLearner),
        ):
            if not (isinstance(given, type) and issubclass(given, base)):
                raise InputError(f"{option}={given!r}): a subclass of {base.__name__}")

    def _check_evaluation(self) -> None:
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

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        """What every module is told: the settings, the network that they describe for the game, and the seed."""
        settings = self.settings
        return {
            "network": network_spec(settings, games.get(self.env).actions).model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "seed": self.seed,
        }


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
def _defaults(kind: type[RainbowSettings]) -> dict[str, Any]:
    """Attributes of a config that nothing was changed in."""
    fresh: Any = kind
    return dict(vars(fresh()))
