"""The differences between trials: the parts of their descriptions that are not the same in all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tensorrl.trial.settings import Settings

_IDENTITY = ("game", "variant", "seed", "steps", "protocol")


def rows(trials: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Returns what differs, by name: game, variant, seed, steps, then settings.

    Args:
        trials: descriptions, as `trial.json` holds them. A setting that one of them lacks (written by another version)
            counts as the setting's default, which is what that version did; "-" if this version does not know it.

    Returns:
        For each name a text for each trial, in their order.
    """
    settings = [trial.get("settings") or {} for trial in trials]
    names = dict.fromkeys(name for each in settings for name in each)
    found = {name: [trial.get(name) for trial in trials] for name in _IDENTITY}
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    found |= {name: [each.get(name, defaults.get(name, "-")) for each in settings] for name in names}
    found["started from"] = [(trial.get("decomposed_from") or {}).get("parameters_sha256") for trial in trials]
    return {
        name: tuple(_text(value) for value in values)
        for name, values in found.items()
        if any(value != values[0] for value in values)
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
