"""All settings of a trial's agent in one flat, annotated model; a variant is a small set of changes to it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tensorrl.errors import InputError, shown, unknown
from tensorrl.networks.frames import StoredFrame
from tensorrl.networks.ranks import solve_ranks
from tensorrl.networks.shapes import LayerShape
from tensorrl.networks.spec import DENSE_LAYERS, NetworkSpec
from tensorrl.trial.allowed import allowed

MOST_STEPS = 100_000_000
"""Agent steps of the longest trial: 400 million frames, twice what agents of the whole field are trained for."""
_Rank = Annotated[int, Field(ge=1, le=65_536, strict=True)]


class Settings(BaseModel):
    """Hyperparameters of data-efficient Rainbow (van Hasselt et al. 2019) and of what TensorRL changes about it.

    Units are agent steps (4 frames each) unless a description says otherwise. Every setting has a list of values or
    bounds on both sides, which keep a trial within what a machine can do: `trial/allowed.py` reads them from here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    torso: Literal["data-efficient", "nature"] = Field("data-efficient", description="convolutions")
    stem: Literal["convolution", "scattering"] = Field("convolution", description="first layer: learned, or wavelets")
    stem_j: int = Field(2, ge=1, le=3, description="scale of the scattering, 2^J pixels; also written stem.J")
    stem_l: int = Field(4, ge=1, le=16, description="orientations of the scattering; also written stem.L")
    hidden: int = Field(256, ge=1, le=4_096, description="units of each stream's hidden layer")
    atoms: int = Field(51, ge=1, le=1_024, description="atoms of the value distribution; 1: plain Q-values")
    v_max: float = Field(10.0, ge=0.001, le=1e6, description="the distribution's support is [-v_max, v_max]")
    noisy: bool = Field(True, description="NoisyNet; otherwise ε-greedy exploration")
    noisy_sigma: float = Field(0.1, ge=0, le=100, description="NoisyNet's initial noise σ0")
    factorization: Literal["none", "tucker", "cp", "tt"] = Field("none", description="kind of the four dense layers")
    compression: float | None = Field(
        None, ge=0.01, le=100_000, description="coefficients of `rainbow` on the same game ÷ those of this network"
    )
    coefficients: int | None = Field(
        None, ge=1, le=1_000_000_000, description="learned coefficients, instead of `compression`"
    )
    ranks: dict[str, Annotated[tuple[_Rank, ...], Field(min_length=1, max_length=8)]] = Field(
        {}, max_length=4, description="ranks by layer, e.g. ranks.value_hidden=[16,3,3,24]"
    )
    decompose_from: str | None = Field(
        None,
        min_length=1,
        max_length=4_096,
        description="a run or checkpoint of a dense agent, to start from its decomposed weights",
    )

    optimizer: Literal["adam", "kfac"] = Field("adam", description="what turns gradients into updates")
    learning_rate: float = Field(1e-4, ge=1e-12, le=100, description="step size")
    adam_epsilon: float = Field(1.5e-4, ge=1e-12, le=100, description="Adam's ε")
    kfac_damping: float = Field(0.01, ge=1e-12, le=1e6, description="K-FAC's Tikhonov damping λ")
    kfac_damping_end: float | None = Field(
        None, ge=1e-12, le=1e6, description="λ after its geometric decay; none: λ stays"
    )
    kfac_damping_decay: int = Field(10_000, ge=1, le=MOST_STEPS, description="updates that λ's decay takes")
    kfac_relative_damping: bool = Field(False, description="λ in units of each layer's mean curvature")
    kfac_factor_decay: float = Field(0.95, ge=0, lt=1, description="decay of K-FAC's moving averages")
    kfac_curvature_interval: int = Field(
        10, ge=1, le=1_000_000, description="updates between two observations of curvature"
    )
    kfac_inverse_interval: int = Field(
        100, ge=1, le=1_000_000, description="updates between two refreshes of the inverses"
    )
    kfac_clip: float = Field(1e-3, ge=1e-12, le=1e12, description="how far an update may move predictions, in nats")
    kfac_trust_region: float | None = Field(
        None, ge=1e-12, le=1e3, description="KL divergence of an update on its batch, in nats; replaces kfac_clip"
    )
    kfac_graft: bool = Field(False, description="K-FAC's direction with Adam's length; replaces kfac_clip")
    kfac_eigenbasis: bool = Field(False, description="second moments in the factors' eigenbasis (EKFAC)")
    kfac_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of K-FAC's steps")
    weight_decay: float = Field(0.0, ge=0, le=100, description="λ of weight decay: λ·θ is added to gradients (L2)")
    decoupled_weight_decay: bool = Field(
        False, description="weights shrink by learning_rate·λ beside each step, instead of L2"
    )
    gradient_norm: float = Field(10.0, ge=1e-6, le=1e12, description="largest global L2 norm of a gradient")
    batch_size: int = Field(32, ge=1, le=2_048, description="transitions in the batch of an update")
    update_interval: int = Field(1, ge=1, le=1_000_000, description="agent steps between updates")
    learning_starts: int = Field(1_600, ge=1, le=MOST_STEPS, description="agent steps before the first update")
    target_interval: int = Field(2_000, ge=1, le=MOST_STEPS, description="updates between copies to the target network")
    average_decay: float = Field(
        0.0, ge=0, lt=1, description="decay of a running average of the network, which then acts; 0: no average"
    )
    reset_interval: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="updates between resets of the last layers; none: no resets"
    )
    reset_layers: Literal["outputs", "streams"] = Field(
        "outputs", description="layers that are drawn anew: outputs of both streams, or all of both streams"
    )
    discount: float = Field(0.99, gt=0, le=1, description="γ for one agent step")
    n_step: int = Field(20, ge=1, le=1_000, description="rewards in a return")
    replay_capacity: int = Field(
        100_000, ge=2_000, le=1_000_000, description="transitions kept; no more than `steps` are reserved"
    )
    priority_exponent: float = Field(0.5, ge=0, le=4, description="ω: priority = loss^ω")
    beta_start: float = Field(0.4, ge=0, le=1, description="importance-sampling exponent at the first update")
    beta_end: float = Field(1.0, ge=0, le=1, description="importance-sampling exponent at the last step")
    epsilon_start: float = Field(1.0, ge=0, le=1, description="ε until learning starts (not with NoisyNet)")
    epsilon_end: float = Field(0.01, ge=0, le=1, description="ε after its decay (not with NoisyNet)")
    epsilon_decay: int = Field(2_000, ge=0, le=MOST_STEPS, description="agent steps that ε's linear decay takes")
    evaluation_epsilon: float = Field(0.001, ge=0, le=1, description="ε in evaluation")
    final_episodes: int = Field(
        100, ge=1, le=10_000, description="evaluation games after 100,000 steps; shorter trials play fewer"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false are no numbers")
        return value


def make_settings(changes: Mapping[str, Any]) -> Settings:
    """Validates changes to the baseline.

    Raises:
        InputError: an unknown setting, with the nearest name, or a value that is not allowed.
    """
    for name in changes:
        if name not in Settings.model_fields:
            raise unknown("setting", name, Settings.model_fields)
    try:
        return Settings.model_validate(dict(changes))
    except ValidationError as error:
        first = error.errors()[0]
        name, *inner = map(str, first["loc"])
        dotted = ".".join([name, *inner])
        raise InputError(
            f"setting {dotted}={shown(first['input'])} (allowed: {allowed(Settings, name).text})"
        ) from None


def network_spec(settings: Settings, actions: int) -> NetworkSpec:
    """The network that settings describe for a game with `actions` actions, ranks found from the budget.

    Raises:
        InputError: a budget or ranks where nothing is factorised, a budget that no ranks meet, or settings that mean
            nothing together.
    """
    _check_together(settings)
    shape = {
        "actions": actions,
        "torso": settings.torso,
        "stem": settings.stem,
        "scattering_j": settings.stem_j,
        "scattering_l": settings.stem_l,
        "hidden": settings.hidden,
        "atoms": settings.atoms,
        "v_min": -settings.v_max,
        "v_max": settings.v_max,
        "noisy_sigma": settings.noisy_sigma,
    }
    if settings.factorization == "none":
        for name in ("compression", "coefficients", "ranks", "decompose_from"):
            if getattr(settings, name):
                raise InputError(f"setting {name} needs factorization=tucker, cp or tt")
        return _spec({**shape, "noisy": settings.noisy})
    if settings.noisy:
        raise InputError("setting noisy=true cannot be combined with a factorization: set noisy=false")
    for name in settings.ranks:
        if name not in DENSE_LAYERS:
            raise unknown("layer", name, DENSE_LAYERS, where="setting ranks")
    dense = _spec(shape)
    layers = dense.dense_layers()
    if set(settings.ranks) == set(DENSE_LAYERS) and not (settings.compression or settings.coefficients):
        # Every rank is given: the budget is whatever they cost.
        ranks = dict(settings.ranks)
    else:
        if settings.compression and settings.coefficients:
            raise InputError("settings compression and coefficients: set only one of them")
        if settings.coefficients:
            budget = settings.coefficients
        elif settings.compression:
            budget = round(reference_coefficients(settings, actions) / settings.compression)
        else:
            raise InputError(
                f"factorization={settings.factorization} needs compression, coefficients or all four ranks"
            )
        fixed = sum(dense.convolution_coefficients().values())
        if budget <= fixed:
            raise InputError(f"budget of {budget} coefficients: the convolutions alone have {fixed}")
        given = tuple(sorted(settings.ranks.items()))
        ranks = dict(_solve(tuple(layers), settings.factorization, budget - fixed, given))
    return _spec({**shape, "factorization": settings.factorization, "ranks": ranks})


def _check_together(settings: Settings) -> None:
    """Refuses a setting that does nothing without another one."""
    if settings.decoupled_weight_decay and not settings.weight_decay:
        raise InputError("setting decoupled_weight_decay=true needs weight_decay above 0")
    if settings.reset_layers != "outputs" and settings.reset_interval is None:
        raise InputError(f"setting reset_layers={settings.reset_layers} needs reset_interval")
    if settings.optimizer != "kfac":
        for name, field in Settings.model_fields.items():
            value = getattr(settings, name)
            if name.startswith("kfac_") and value != field.default:
                raise InputError(f"setting {name}={value} needs optimizer=kfac (or a variant with K-FAC)")


@functools.lru_cache(maxsize=1024)
def _solve(
    layers: tuple[LayerShape, ...],
    factorization: str,
    coefficients: int,
    given: tuple[tuple[str, tuple[int, ...]], ...],
) -> Mapping[str, tuple[int, ...]]:
    """Ranks within a budget, kept: a sweep asks for those of its cells more than once."""
    return solve_ranks(layers, factorization=factorization, coefficients=coefficients, fixed=dict(given))


def reference_coefficients(settings: Settings, actions: int) -> int:
    """Learned coefficients a compression ratio is measured against.

    For the data-efficient torso that is `rainbow` on the same game; for the Nature torso, the same network dense.
    """
    if settings.torso == "nature":
        dense = settings.model_copy(
            update={
                "factorization": "none",
                "compression": None,
                "coefficients": None,
                "ranks": {},
                "decompose_from": None,
            }
        )
        return network_spec(dense, actions).total_coefficients()
    return network_spec(Settings(), actions).total_coefficients()


def replay_slots(settings: Settings, steps: int) -> int:
    """Slots of the replay of a trial of `steps` agent steps: for all of them, or the last `replay_capacity`.

    A game takes three more slots, and another one if its frame limit ends it. There is room for one game per 60 steps.
    Most games are longer. In a trial with shorter games the oldest transitions are dropped.
    """
    kept = min(settings.replay_capacity, steps)
    return kept + kept // 15 + settings.n_step + 8


def stored_frame(settings: Settings) -> StoredFrame:
    """Returns the form in which replay stores a frame."""
    return _spec(
        {
            "actions": 1,
            "torso": settings.torso,
            "stem": settings.stem,
            "scattering_j": settings.stem_j,
            "scattering_l": settings.stem_l,
        }
    ).stored_frame


def _spec(fields: dict[str, Any]) -> NetworkSpec:
    try:
        return NetworkSpec.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"network: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
