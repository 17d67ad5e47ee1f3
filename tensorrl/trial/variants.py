"""The registry of variants: every name works wherever a variant is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorrl.errors import unknown
from tensorrl.trial.settings import Settings, make_settings


@dataclass(frozen=True)
class Variant:
    """A named agent.

    Attributes:
        name: how it is named everywhere.
        summary: one line for people.
        changes: settings that differ from the baseline `rainbow`.
    """

    name: str
    summary: str
    changes: Mapping[str, Any] = field(default_factory=dict)


_DENOISED = {"noisy": False}
# From the search in docs/kfac.md, for all games.
_KFAC = {
    "optimizer": "kfac",
    "learning_rate": 2e-4,
    "kfac_graft": True,
    "kfac_relative_damping": True,
    "kfac_curvature_interval": 25,
    "update_interval": 2,
    "target_interval": 1_000,
}
_PONG_DQN = {"torso": "nature", "hidden": 512, "atoms": 1, "noisy": False, "n_step": 3}


def _trl(compression: float) -> dict[str, Any]:
    return {**_DENOISED, "factorization": "tucker", "compression": compression}


_LIST = (
    Variant("rainbow", "data-efficient Rainbow: NoisyNet, dense layers, Adam"),
    Variant("denoised", "rainbow without NoisyNet, ε-greedy", _DENOISED),
    *(
        Variant(f"trl-{ratio:g}x", f"denoised, Tucker regression layers, {ratio:g}x fewer coefficients", _trl(ratio))
        for ratio in (2.5, 5, 10)
    ),
    Variant("kfac-denoised", "denoised, K-FAC, half the updates", {**_DENOISED, **_KFAC}),
    Variant("kfac-trl-5x", "trl-5x, K-FAC, half the updates", {**_trl(5), **_KFAC}),
    Variant("kfac-trl-10x", "trl-10x, K-FAC, half the updates", {**_trl(10), **_KFAC}),
    Variant(
        "scattering",
        "wavelet scattering stem, Tucker regression layers, K-FAC, half the updates, 10x fewer coefficients",
        {**_trl(10), **_KFAC, "stem": "scattering"},
    ),
    Variant("pong-dqn", "prioritized dueling double DQN on Nature's convolutions (figures 3 and 4)", _PONG_DQN),
    *(
        Variant(
            f"pong-dqn-trl-{ratio:g}",
            f"pong-dqn, Tucker regression layers, {ratio:g}x fewer coefficients",
            {**_PONG_DQN, "factorization": "tucker", "compression": ratio},
        )
        for ratio in (1.5, 2, 3, 4, 5)
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _LIST}


def get(name: str, *, where: str | None = None) -> Variant:
    """Looks a variant up.

    Raises:
        InputError: no variant has that name.
    """
    if name not in VARIANTS:
        raise unknown("variant", name, VARIANTS, where=where)
    return VARIANTS[name]


def resolve(name: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a variant, with a user's own on top.

    A budget given by the user takes the place of the variant's own. With another optimizer than the variant's, the
    variant's own settings of K-FAC have no meaning, and are left out.

    Raises:
        InputError: unknown variant, setting or value.
    """
    changes, overrides = dict(get(name).changes), dict(overrides or {})
    if {"compression", "coefficients"} & overrides.keys():
        changes.pop("compression", None)
    if overrides.get("optimizer", "kfac") != "kfac":
        changes = {name: value for name, value in changes.items() if not name.startswith("kfac_")}
    return make_settings({**changes, **overrides})
