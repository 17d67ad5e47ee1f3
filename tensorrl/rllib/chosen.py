"""Attributes of a config that are a trial's settings: it holds the chosen ones, the variant gives the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from ray.rllib.algorithms.dqn import DQNConfig

from tensorrl.errors import InputError, unknown
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
from tensorrl.trial.settings import Settings

_PART_OF = {part: whole for whole, parts in WHOLES.items() for part in parts}
# RLlib sets these on configs that know nothing of them.
_LATE = frozenset({"worker_index", "simple_optimizer"})


class VariantName(str):
    """The name of a config's variant; called, the builder's method that chooses one."""

    _config: ChosenSettings

    def __call__(self, name: Any, **overrides: Any) -> Any:
        """See `ChosenSettings.variant`."""
        return self._config.choose(name, **overrides)


class _Variant:
    """`config.variant` is a name, as RLlib's attributes are values, and `config.variant(…)` the builder's method."""

    def __get__(self, config: ChosenSettings | None, owner: type) -> Any:
        if config is None:
            return self
        value = config.__dict__["variant"]
        if not isinstance(value, str):
            return value
        name = VariantName(value)
        name._config = config
        return name

    def __set__(self, config: ChosenSettings, value: Any) -> None:
        config.__dict__["variant"] = value


class ChosenSettings(DQNConfig):  # type: ignore[misc]
    """A config of RLlib whose attributes are the settings of a trial.

    The instance holds the attributes that the user chose. Every other setting is the variant's, and is looked up when
    it is read. So a change of the variant changes every setting that was not chosen.

    Attributes:
        variant: name of the variant; called, the builder's method that chooses one.
    """

    variant = _Variant()

    def choose(self, name: Any, **overrides: Any) -> Self:
        """Chooses a variant: what `config.variant(…)` calls."""
        raise NotImplementedError

    def update_from_dict(self, config_dict: Any) -> Self:
        """Takes a configuration as the dict that Tune hands over.

        Raises:
            InputError: a name that no attribute has.
        """
        # RLlib sends some unchanged ones through the builder's methods, and merges ours, a dict.
        routed = ("env_config", "model")
        ours = {name: value for name, value in config_dict.items() if name in ATTRIBUTES or name in ALIASES}
        rest = {
            name: value
            for name, value in config_dict.items()
            if name not in ours and not (name in routed and value == getattr(self, name, None))
        }
        super().update_from_dict(rest)
        for name, value in ours.items():
            setattr(self, name, value)
        return self

    def to_dict(self) -> dict[str, Any]:
        """All attributes: those that were chosen, and once the config is frozen also those that the variant gives."""
        found: dict[str, Any] = super().to_dict()
        return self.complete(found) if self._is_frozen else found

    def complete(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Adds to a dict of attributes those it leaves to the variant, so that it holds every setting of the
        training."""
        given = {ALIASES.get(name, name) for name in chosen}
        wholes = {_PART_OF[name] for name in given if name in _PART_OF} | ({"v_min"} if "v_max" in given else set())
        if self.noisy:
            wholes.add("epsilon")
        rest = {name: value for name, value in attributes_of(self.settings).items() if name not in given | wholes}
        return {**chosen, **self.as_trained(chosen), **rest}

    def as_trained(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values among those chosen that train as another one: 0.001 for "1e-3", but not 5.0 for 5."""
        trained = attributes_of(self.settings)
        single = {name: ALIASES.get(name, name) for name in chosen}
        return {
            name: trained[other]
            for name, other in single.items()
            if other in trained and other not in WHOLES and trained[other] != chosen[name]
        }

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
            raise unknown(
                "option", name, [*ATTRIBUTES, *ALIASES, *(key for key in self.__dict__ if not key.startswith("_"))]
            )
        super().__setattr__(name, plain(value))

    def _set_setting(self, name: str, value: Any) -> None:
        """The last of a whole and its parts to be set is what counts."""
        whole = _PART_OF.get(name)
        if whole in self.__dict__ and not self._is_frozen:
            if is_space(self.__dict__[whole]):
                raise InputError(f"{name}: {whole} is a search space, and holds it already")
            self.__dict__.update(parts_of(whole, self.__dict__.pop(whole), self.settings))
        if name == "replay_buffer_config" and isinstance(value, Mapping) and not self._is_frozen:
            # As in RLlib: attributes that are not named stay.
            known = "rainbow" if is_space(self.variant) else self.variant
            value = {**value_of(name, resolve(known, {})), **self.__dict__.get(name, {}), **value}
        super().__setattr__(name, value)
        for part in WHOLES.get(name, ()):
            self.__dict__.pop(part, None)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, self._translate_special_keys(name, warn_deprecated=False), value)
