"""The description of a trial: its typed fields, its key, and the content of `trial.json`.

Modules that need PyTorch are imported where they are used, so a large sweep can be described and watched without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tensorrl import games
from tensorrl.errors import InputError, shown
from tensorrl.trial import variants
from tensorrl.trial.allowed import allowed
from tensorrl.trial.settings import MOST_STEPS, Settings, network_spec, reference_coefficients

PROTOCOL = "atari-100k/1"
FULL_STEPS = 100_000
"""Agent steps of Atari 100k."""
MOST_THREADS = 256


class TrialSpec(BaseModel):
    """The settings that determine a trial's result, and how it is run on this machine.

    Attributes:
        game: name of a game.
        variant: name of a variant.
        seed: seed of every source of randomness.
        steps: agent steps, 4 frames each.
        overrides: settings that differ from the variant's.
        device: "auto", "cpu" or "cuda".
        threads: of PyTorch's CPU operators; None leaves PyTorch's own choice.
        checkpoint_every: agent steps between checkpoints; None for a twentieth of the trial, at least 500.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    game: str
    variant: str = "rainbow"
    seed: int = Field(default=0, ge=0, lt=2**31)
    steps: int = Field(default=FULL_STEPS, ge=1, le=MOST_STEPS)
    overrides: dict[str, Any] = {}
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=MOST_THREADS)
    checkpoint_every: int | None = Field(default=None, ge=1, le=MOST_STEPS)

    @field_validator("overrides")
    @classmethod
    def _absolute_source(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        # A sweep's workers run in other working folders, where a relative path would point elsewhere.
        source = overrides.get("decompose_from")
        if not isinstance(source, str) or not source:
            return overrides
        return {**overrides, "decompose_from": str(Path(source).absolute())}

    @property
    def settings(self) -> Settings:
        """The resolved settings.

        Raises:
            InputError: unknown variant, setting or value.
        """
        return variants.resolve(self.variant, self.overrides)

    @property
    def key(self) -> str:
        """Digest of what determines the result: game, settings, seed, steps, protocol, and a warm start's source.

        Raises:
            InputError: unknown game, variant or setting, or a source that cannot be read.
        """
        return trial_key(self.game, determining_settings(self.settings), seed=self.seed, steps=self.steps)


def determining_settings(settings: Settings) -> dict[str, Any]:
    """Returns the settings that determine a trial's result, and therefore its key.

    Raises:
        InputError: a warm start's source cannot be read.
    """
    # Defaults are left out, so that adding a setting later does not change the keys of older trials.
    found: dict[str, Any] = {
        "settings": settings.model_dump(mode="json", exclude={"decompose_from"}, exclude_defaults=True)
    }
    if settings.decompose_from:
        from tensorrl.trial import warm_start

        found["source"] = warm_start.load_source(settings.decompose_from).parameters_sha256
    return found


def trial_key(game: str, determining: Mapping[str, Any], *, seed: int, steps: int) -> str:
    """The key of a trial; see `TrialSpec.key`.

    Args:
        game: name of a game.
        determining: what `determining_settings` gives, which trials that differ in game and seed share.
        seed: of the trial.
        steps: agent steps.

    Raises:
        InputError: unknown game.
    """
    identity = {"game": games.get(game).name, "seed": seed, "steps": steps, "protocol": PROTOCOL, **determining}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def make_spec(**fields: Any) -> TrialSpec:
    """Validates a trial's description from outside.

    Raises:
        InputError: unknown game, variant or setting, or a value that is not allowed.
    """
    try:
        spec = TrialSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        given = f"--{name.replace('_', '-')} {shown(first['input'])}"
        raise InputError(f"{given} (allowed: {allowed(TrialSpec, name).text})") from None
    settings = spec.settings
    from tensorrl.trial import warm_start

    warm_start.find_source(settings.decompose_from, network_spec(settings, games.get(spec.game).actions))
    return spec


def describe(spec: TrialSpec) -> dict[str, Any]:
    """Returns the content of `trial.json`: the trial and everything that determines it.

    Raises:
        InputError: unknown game, variant or setting, or a warm start's source that cannot be used.
    """
    from tensorrl import system
    from tensorrl.trial import warm_start

    settings, game = spec.settings, games.get(spec.game)
    network = network_spec(settings, game.actions)
    coefficients = network.total_coefficients()
    source = warm_start.find_source(settings.decompose_from, network)
    return {
        "key": spec.key,
        "game": game.name,
        "variant": spec.variant,
        "seed": spec.seed,
        "steps": spec.steps,
        "coefficients": coefficients,
        "compression_ratio": reference_coefficients(settings, game.actions) / coefficients,
        "settings": settings.model_dump(mode="json"),
        "network": network.model_dump(mode="json"),
        **({"decomposed_from": source.description()} if source else {}),
        "protocol": PROTOCOL,
        "versions": system.versions(),
        "commit": system.commit(),
        "machine": system.machine(),
    }
