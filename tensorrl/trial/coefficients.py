"""Coefficients of a variant on a game, counted from its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorrl.games import Game
from tensorrl.trial import variants
from tensorrl.trial.settings import network_spec, reference_coefficients


def count(game: Game, variant: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Counts learned coefficients.

    Returns:
        game, actions, variant, coefficients, compression_ratio, layers (name → coefficients), ranks (name → ranks).

    Raises:
        InputError: unknown variant or setting, or a budget that cannot be met.
    """
    settings = variants.resolve(variant, overrides)
    network = network_spec(settings, game.actions)
    total = network.total_coefficients()
    return {
        "game": game.name,
        "actions": game.actions,
        "variant": variant,
        "coefficients": total,
        "compression_ratio": reference_coefficients(settings, game.actions) / total,
        "layers": network.coefficients(),
        "ranks": {name: list(ranks) for name, ranks in network.ranks.items()},
    }
