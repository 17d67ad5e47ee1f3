"""The differences between trials: the parts of their descriptions that are not the same in all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_IDENTITY = ("game", "variant", "seed", "steps", "protocol")


def rows(trials: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Returns what differs, by name: game, variant, seed, steps, then settings.

    Args:
        trials: descriptions, as `trial.json` holds them. A setting that one of them lacks (written by another version)
            is shown as "-".

    Returns:
        For each name a text for each trial, in their order.
    """
    settings = [trial.get("settings") or {} for trial in trials]
    names = dict.fromkeys(name for each in settings for name in each)
    found = {name: [trial.get(name) for trial in trials] for name in _IDENTITY}
    found |= {name: [each.get(name, "-") for each in settings] for name in names}
    found["started from"] = [(trial.get("decomposed_from") or {}).get("parameters_sha256") for trial in trials]
    return {
        name: tuple(_text(value) for value in values)
        for name, values in found.items()
        if any(value != values[0] for value in values)
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
