"""Which attribute of `RainbowConfig` is which setting of a trial: RLlib's name where RLlib has one, ours otherwise.

Pure functions between the attributes a user has chosen and `Settings`. A *whole* is an attribute of RLlib that stands
for several settings of ours (`epsilon`, a schedule); its *parts* may be given instead, under our names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search.sample import Domain

from tensorrl.errors import InputError
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings

RENAMED = {
    "lr": "learning_rate",
    "gamma": "discount",
    "grad_clip": "gradient_norm",
    "train_batch_size_per_learner": "batch_size",
    "num_steps_sampled_before_learning_starts": "learning_starts",
    "num_atoms": "atoms",
    "sigma0": "noisy_sigma",
}
"""RLlib's name of an attribute → the name of the setting it is."""

WHOLES: dict[str, tuple[str, ...]] = {
    "target_network_update_freq": ("target_interval",),
    "epsilon": ("epsilon_start", "epsilon_end", "epsilon_decay"),
    "replay_buffer_config": ("replay_capacity", "priority_exponent", "beta_start"),
    "hiddens": ("hidden",),
    "v_min": (),
}
"""An attribute of RLlib that stands for others → its parts."""

FIXED: dict[str, Any] = {"dueling": True, "double_q": True, "tau": 1.0, "td_error_loss_fn": "huber"}
"""What RLlib lets a user choose and Rainbow has one way of."""

ALIASES = {setting: name for name, setting in RENAMED.items()} | {
    "train_batch_size": "train_batch_size_per_learner",
    "_train_batch_size_per_learner": "train_batch_size_per_learner",
}
"""Other names that are taken for an attribute: our settings' own, and RLlib's old ones."""

_SAME = tuple(name for name in Settings.model_fields if name not in RENAMED.values())
ATTRIBUTES = frozenset({*RENAMED, *WHOLES, *FIXED, *_SAME})
"""Every attribute that is a setting."""

BUFFER_TYPE = "PrioritizedEpisodeReplayBuffer"
_UNCLIPPED = 1e12
"""The largest norm that a setting can have, which no gradient reaches: RLlib's `grad_clip=None`."""
_BUFFER_KEYS = {"capacity": "replay_capacity", "alpha": "priority_exponent", "beta": "beta_start"}


def is_space(value: Any) -> bool:
    """Whether a value is a search space of Tune, or holds one."""
    if isinstance(value, Domain):
        return True
    if isinstance(value, Mapping):
        return "grid_search" in value or any(map(is_space, value.values()))
    return isinstance(value, list | tuple) and any(map(is_space, value))


def plain(value: Any) -> Any:
    """A value without NumPy's scalars, which searches of Tune give."""
    return value.item() if isinstance(value, np.generic) else value


def resolve(variant: str, chosen: Mapping[str, Any]) -> Settings:
    """Settings of a variant with the attributes that a user chose on top.

    Args:
        variant: its name.
        chosen: attributes by name, none of them a search space.

    Raises:
        InputError: unknown variant, or a value that Rainbow cannot have; the message names the attribute.
    """
    for name, only in FIXED.items():
        if name in chosen and chosen[name] != only:
            raise InputError(f"{name}={chosen[name]!r}: Rainbow has {name}={only!r} only")
    changes = {RENAMED.get(name, name): value for name, value in chosen.items() if name not in WHOLES | FIXED}
    for name in ("lr", "n_step"):
        if isinstance(chosen.get(name), list | tuple):
            raise InputError(f"{name}={chosen[name]!r}: one number, as Rainbow has no schedule or range of it")
    if changes.get("gradient_norm", 0.0) is None:
        changes["gradient_norm"] = _UNCLIPPED
    if "hiddens" in chosen:
        changes["hidden"] = _one_layer(chosen["hiddens"])
    if "replay_buffer_config" in chosen:
        changes |= _buffer_settings(chosen["replay_buffer_config"])
    if "v_min" in chosen and "v_max" not in chosen:
        changes["v_max"] = _negated(chosen["v_min"])
    settings = _settings(str(variant), changes)
    if "v_min" in chosen and -settings.v_max != chosen["v_min"]:
        raise InputError(f"v_min={chosen['v_min']!r}: Rainbow's support is symmetric, v_min=-v_max={-settings.v_max:g}")
    later: dict[str, Any] = {}
    if "target_network_update_freq" in chosen:
        later["target_interval"] = _interval(chosen["target_network_update_freq"], settings.update_interval)
    if "epsilon" in chosen:
        later |= _epsilon_settings(chosen["epsilon"], settings)
    return _settings(str(variant), {**changes, **later}) if later else settings


def _settings(variant: str, changes: Mapping[str, Any]) -> Settings:
    try:
        return variants.resolve(variant, changes)
    except InputError as error:
        names = {setting: name for name, setting in RENAMED.items()}
        found = re.match(r"setting (\w+)", str(error))
        if found is None or found[1] not in names:
            raise
        raise InputError(f"{names[found[1]]}{str(error)[found.end() :]}") from None


def attributes_of(settings: Settings) -> dict[str, Any]:
    """Every attribute's value under these settings; parts are left to their wholes."""
    values = settings.model_dump(mode="python")
    parts = {part for whole in WHOLES.values() for part in whole if part != "hidden"}
    found = {name: values[RENAMED.get(name, name)] for name in (*RENAMED, *_SAME) if name not in parts}
    if settings.gradient_norm >= _UNCLIPPED:
        found["grad_clip"] = None
    s = settings
    begin, end = s.learning_starts, s.learning_starts + s.epsilon_decay
    schedule = [[0, s.epsilon_start], [begin, s.epsilon_start], [end, s.epsilon_end]]
    return {
        **found,
        **FIXED,
        "v_min": -s.v_max,
        "target_network_update_freq": s.target_interval * s.update_interval,
        "epsilon": 0.0 if s.noisy else schedule,
        "replay_buffer_config": {
            "type": BUFFER_TYPE,
            # RLlib must not build its own buffer: ours is a part of the training.
            "no_local_replay_buffer": True,
            "capacity": s.replay_capacity,
            "alpha": s.priority_exponent,
            "beta": s.beta_start,
        },
    }


def value_of(name: str, settings: Settings) -> Any:
    """One attribute's value under these settings, parts and `hiddens` included."""
    if name == "hiddens":
        return [settings.hidden]
    found = attributes_of(settings)
    return found[name] if name in found else getattr(settings, name)


def parts_of(whole: str, value: Any, settings: Settings) -> dict[str, Any]:
    """The values of a whole's parts, for changing one part alone.

    Raises:
        InputError: a value that Rainbow cannot have.
    """
    if whole == "epsilon":
        return _epsilon_settings(value, settings.model_copy(update={"noisy": False}))
    if whole == "replay_buffer_config":
        return _buffer_settings(value)
    return {}


def _one_layer(hiddens: Any) -> Any:
    if isinstance(hiddens, list | tuple):
        if len(hiddens) != 1:
            raise InputError(f"hiddens={list(hiddens)!r}: each of Rainbow's streams has one hidden layer, as in [256]")
        return plain(hiddens[0])
    return hiddens


def _negated(value: Any) -> Any:
    return -value if isinstance(value, int | float) and not isinstance(value, bool) else value


def _interval(steps: Any, update_interval: int) -> int:
    steps = plain(steps)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1 or steps % update_interval:
        unit = (
            "agent steps"
            if update_interval == 1
            else f"agent steps and a multiple of update_interval={update_interval}"
        )
        raise InputError(f"target_network_update_freq={steps!r}: a whole number of {unit}, at least 1")
    return steps // update_interval


def _buffer_settings(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise InputError(f"replay_buffer_config={config!r}: a mapping with capacity, alpha or beta")
    changes = {}
    for key, value in config.items():
        if key == "type":
            name = value if isinstance(value, str) else getattr(value, "__name__", str(value))
            if name.rpartition(".")[2] != BUFFER_TYPE:
                raise InputError(
                    f"replay_buffer_config.type={name!r}: Rainbow's replay is {BUFFER_TYPE!r}, prioritized"
                )
        elif key == "no_local_replay_buffer":
            if value is not True:
                raise InputError(
                    "replay_buffer_config.no_local_replay_buffer: True only, as Rainbow has its own replay"
                )
        elif key in _BUFFER_KEYS:
            changes[_BUFFER_KEYS[key]] = plain(value)
        else:
            raise InputError(f"replay_buffer_config: unknown key {key!r} (allowed: type, {', '.join(_BUFFER_KEYS)})")
    return changes


def _epsilon_settings(epsilon: Any, settings: Settings) -> dict[str, Any]:
    """Parts of a constant ε, or of a schedule that is flat until learning starts and then falls in a line."""
    begins = settings.learning_starts
    if settings.noisy and epsilon != 0.0:
        raise InputError(f"epsilon={epsilon!r}: NoisyNet explores without ε; set noisy=False, or variant denoised")
    if not isinstance(epsilon, Sequence) or isinstance(epsilon, str):
        return {"epsilon_start": plain(epsilon), "epsilon_end": plain(epsilon), "epsilon_decay": 0}
    shape = f"[[0, 1.0], [{begins}, 1.0], [{begins + 2000}, 0.01]]"
    try:
        points = [(int(step), float(value)) for step, value in epsilon]
    except (TypeError, ValueError):
        points = []
    if len(points) == 2 and points[0][1] == points[1][1]:
        points = [points[0], (begins, points[0][1]), (begins, points[0][1])]
    flat = len(points) == 3 and points[0][0] == 0 and points[0][1] == points[1][1]
    if not flat or points[1][0] != begins or points[2][0] < begins:
        raise InputError(f"epsilon={epsilon!r}: a number, or flat until learning starts and then one line, as {shape}")
    return {"epsilon_start": points[0][1], "epsilon_end": points[2][1], "epsilon_decay": points[2][0] - begins}
