"""A sweep of real trials that take seconds: they learn, checkpoint and are evaluated all the same."""

from __future__ import annotations

from typing import Any


def short_sweep(**changes: Any) -> dict[str, Any]:
    """The fields of its sweep file, with changes."""
    return {
        "games": ["pong"],
        "variants": ["denoised"],
        "settings": {"learning_starts": 300, "epsilon_decay": 200},
        "evaluation": {"final_episodes": 1, "epsilon": 1.0},
        "checkpoint_every": 100,
        "resources": {"gpus": 0},
        **changes,
    }
