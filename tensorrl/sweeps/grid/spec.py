"""The description of a sweep: one typed model, checked completely before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from tensorrl import games
from tensorrl.errors import InputError, shown, unknown
from tensorrl.trial import variants
from tensorrl.trial.settings import MOST_STEPS, Settings
from tensorrl.trial.spec import MOST_THREADS
from tensorrl.uris import holds_secret, redact_uri

MOST_SEEDS = 10_000
_MOST_CELLS = 100_000
_MOST_KINDS = 2_000
"""Most combinations of a variant and its axes' values; a network is sized for each."""
_MOST_GPUS, _MOST_MEMORY = 64, 1 << 44
_STRICT = ConfigDict(extra="forbid", frozen=True)


def _listed_once(values: Sequence[Any]) -> tuple[Any, ...]:
    seen = set()
    for value in values:
        if (known := _hashable(value)) in seen:
            raise InputError(f"{shown(value)} is listed twice (allowed: each value once)")
        seen.add(known)
    return tuple(values)


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return frozenset((key, _hashable(inner)) for key, inner in value.items()) if isinstance(value, dict) else value


def _names(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(f"{shown(value)} is not a list of {what} (allowed: a list of at least one name)")
    return _listed_once(value)


def _games(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value in games.GROUPS:
        return games.GROUPS[value]
    if isinstance(value, str):
        words = " or ".join(games.GROUPS)
        raise InputError(f"{shown(value)} is not a list of games (allowed: a list of names, or the word {words})")
    return _listed_once([games.get(name).name for name in _names(value, "games")])


def _variants(value: Any) -> tuple[str, ...]:
    return tuple(variants.get(name).name for name in _names(value, "variants"))


def _seeds(value: Any) -> tuple[int, ...]:
    def whole(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool)

    if whole(value) and 1 <= value <= MOST_SEEDS:
        return tuple(range(value))
    if isinstance(value, list | tuple) and value and all(whole(seed) and 0 <= seed < 2**31 for seed in value):
        return _listed_once(value)
    raise InputError(
        f"{shown(value)} (allowed: a list of whole numbers from 0 to 2^31 - 1, "
        f"or how many seeds, {MOST_SEEDS:,} at most)"
    )


def _settings(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{shown(value)} (allowed: a mapping of settings to values)")
    for name in value:
        if name not in Settings.model_fields:
            raise unknown("setting", str(name), Settings.model_fields)
    return dict(value)


def _values(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{shown(value)} (allowed: a list of at least one value)")
    return _listed_once(value)


def _axis(value: Any) -> Any:
    return value if isinstance(value, Mapping | Axis) else {"values": _values(value)}


def _whole_bytes(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{shown(value)} (allowed: bytes, or a size such as 1.5GiB)")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _as_word(value: Any) -> Any:
    # In YAML 1.1, `on` and `off` without quotes are true and false.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise InputError(f"{shown(text)} (allowed: printable characters)")
    return text


class Axis(BaseModel):
    """The values of one setting. Each value gives cells of its own.

    Attributes:
        values: the setting's values.
        variants: the variants that the axis applies to; None for all of the sweep's variants.
    """

    model_config = _STRICT

    values: Annotated[tuple[Any, ...], BeforeValidator(_values)]
    variants: Annotated[tuple[str, ...], BeforeValidator(_variants)] | None = None


class Resources(BaseModel):
    """The resources that each trial reserves.

    Attributes:
        cpus: CPU cores, which is also the number of threads. Two trials with one thread each are faster than one
            trial with two.
        gpus: GPUs, or the fraction of one: 0.25 puts four trials on each GPU. 0 trains on the CPU. `auto` is 0 without
            a GPU, and otherwise the fraction that memory and cores allow.
        mps: NVIDIA's Multi-Process Service (MPS), which lets trials that share a GPU run at the same time instead of
            in turn. `auto` starts it for the duration of the sweep if there is a GPU, MPS is installed and the sweep
            starts its own Ray. `on` refuses to run without it, `off` never starts it. No setting of the GPU is changed.
        memory: bytes of main memory (`1.5GiB`); None takes the estimate of `tensorrl sweep --check`.
    """

    model_config = _STRICT

    cpus: Annotated[StrictInt, Field(ge=1, le=MOST_THREADS)] = 1
    gpus: Annotated[float, Field(ge=0, le=_MOST_GPUS, strict=True, allow_inf_nan=False)] | Literal["auto"] = "auto"
    mps: Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)] = "auto"
    memory: Annotated[ByteSize, BeforeValidator(_whole_bytes), Field(gt=0, le=_MOST_MEMORY)] | None = None


class Evaluation(BaseModel):
    """The evaluation that ends a trial; None leaves the setting to the variant.

    Attributes:
        final_episodes: games after 100k steps; a shorter trial plays proportionally fewer.
        epsilon: ε in evaluation.
    """

    model_config = _STRICT

    final_episodes: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    epsilon: Annotated[float, BeforeValidator(_number), Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    def settings(self) -> dict[str, Any]:
        """Returns the evaluation as settings of a trial."""
        given = {"final_episodes": self.final_episodes, "evaluation_epsilon": self.epsilon}
        return {name: value for name, value in given.items() if value is not None}


def _without_secret(uri: str) -> str:
    _printable(uri)
    if holds_secret(uri):
        raise InputError(
            f"{redact_uri(uri)} holds a password, which is not allowed in a sweep file (allowed: a URI without "
            "one; give the password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole URI in "
            "MLFLOW_TRACKING_URI)"
        )
    return uri


class Tracking(BaseModel):
    """Where the record in MLflow is kept.

    Attributes:
        uri: the URI of the MLflow server, without a password. `MLFLOW_TRACKING_URI` takes precedence; without either,
            the record is an SQLite file in the sweep's store.
        experiment: the MLflow experiment; None takes the sweep's name.
    """

    model_config = _STRICT

    uri: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_without_secret)] | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_printable)] | None = None


def _scheduler(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Scheduler(BaseModel):
    """Stops the worse cells of each game early, by asynchronous successive halving (Li et al. 2020).

    Cells of a game are compared at `grace_period`, `grace_period * reduction`, … agent steps. A cell stops there unless
    it is in the best `1 / reduction` of the cells that got there so far.

    Attributes:
        name: `asha`.
        metric: the figure of a report that is compared. `episode_return` is the mean score of the training games that
            ended since the previous report; a cell that has none yet continues.
        grace_period: agent steps that every cell makes; None for a tenth of the trial.
        reduction: one of this many cells continues.
    """

    model_config = _STRICT

    name: Literal["asha"]
    metric: Literal["episode_return", "evaluation_return", "score"] = "episode_return"
    grace_period: Annotated[StrictInt, Field(ge=1, le=MOST_STEPS)] | None = None
    reduction: Annotated[StrictInt, Field(ge=2, le=1_000)] = 4


class SweepSpec(BaseModel):
    """A grid of trials: every game with every variant, every value of its axes and every seed.

    Attributes:
        name: the sweep's name in its store, and the default name of its MLflow experiment.
        games: names of games in ALE, or the word `atari-100k` for all 26.
        variants: names of registered variants.
        seeds: a list of seeds, or their number: n stands for 0 to n - 1.
        steps: agent steps of each trial.
        settings: settings of every trial that differ from the variant's own.
        variant_settings: settings of single variants, by the variant's name; they take precedence over `settings`.
        axes: settings with several values, by name.
        evaluation: the evaluation at a trial's end.
        resources: the resources of each trial. At the top level, `cpus: n` is short for `resources: {cpus: n}`.
        checkpoint_every: agent steps between checkpoints; None leaves it to the trial.
        retries: how often a failed trial is retried from its last checkpoint.
        max_concurrent: most trials at once; None runs as many as fit.
        tracking: the MLflow server and experiment.
        tensorboard: whether TensorBoard event files are written into each trial's folder.
        scheduler: stops unpromising cells early; None trains all cells to the end. `scheduler: asha` is short for its
            defaults.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    games: Annotated[tuple[str, ...], BeforeValidator(_games)]
    variants: Annotated[tuple[str, ...], BeforeValidator(_variants)]
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)]
    steps: Annotated[StrictInt, Field(ge=1, le=MOST_STEPS)] = 100_000
    settings: Annotated[dict[str, Any], BeforeValidator(_settings)] = {}
    variant_settings: dict[str, Annotated[dict[str, Any], BeforeValidator(_settings)]] = {}
    axes: dict[str, Annotated[Axis, BeforeValidator(_axis)]] = {}
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    checkpoint_every: Annotated[StrictInt, Field(ge=1, le=MOST_STEPS)] | None = None
    retries: Annotated[StrictInt, Field(ge=0, le=1_000)] = 2
    max_concurrent: Annotated[StrictInt, Field(ge=1, le=_MOST_CELLS)] | None = None
    tracking: Tracking = Tracking()
    tensorboard: StrictBool = False
    scheduler: Annotated[Scheduler, BeforeValidator(_scheduler)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or "cpus" not in fields:
            return fields
        fields = dict(fields)
        cpus, resources = fields.pop("cpus"), fields.get("resources", {})
        if not isinstance(resources, Mapping) or "cpus" in resources:
            raise InputError("cpus: is given twice, at the top level and in resources (allowed: once)")
        return {**fields, "resources": {**resources, "cpus": cpus}}

    @model_validator(mode="after")
    def _consistent(self) -> SweepSpec:
        for name in self.variant_settings:
            if name not in self.variants:
                raise unknown("variant", name, self.variants, where="variant_settings")
        for name, axis in self.axes.items():
            if name not in Settings.model_fields:
                raise unknown("setting", name, Settings.model_fields, where="axes")
            for variant in axis.variants or ():
                if variant not in self.variants:
                    raise unknown("variant", variant, self.variants, where=f"axes.{name}.variants")
        if self.scheduler is not None and (self.scheduler.grace_period or 0) > self.steps:
            raise InputError(
                f"scheduler.grace_period: {self.scheduler.grace_period} (allowed: 1 to steps={self.steps})"
            )
        for variant in self.variants:
            self._check_once(variant)
        kinds = sum(self.combinations(variant) for variant in self.variants)
        if kinds > _MOST_KINDS:
            raise InputError(
                f"variants and axes make {kinds:,} combinations of settings (allowed: {_MOST_KINDS:,} at most)"
            )
        count = len(self.seeds) * len(self.games) * kinds
        if count > _MOST_CELLS:
            raise InputError(f"the grid has {count:,} cells (allowed: {_MOST_CELLS:,} at most)")
        return self

    def _check_once(self, variant: str) -> None:
        """Refuses a setting that two fields give for one variant, unless one of them is `variant_settings`."""
        axes = {name: f"axes.{name}" for name in self.axes_of(variant)}
        evaluated = dict.fromkeys(self.evaluation.settings(), "evaluation")
        for name in axes.keys() & evaluated.keys():
            raise InputError(f"evaluation: {name} is also set in axes (allowed: in one place)")
        own = self.variant_settings.get(variant, {})
        for name, place in (axes | evaluated).items():
            other = f"variant_settings.{variant}" if name in own else "settings" if name in self.settings else None
            if other:
                raise InputError(f"{place}: {name} is also set in {other} (allowed: in one place)")

    def axes_of(self, variant: str) -> dict[str, tuple[Any, ...]]:
        """Returns the values of each axis that applies to a variant."""
        return {n: axis.values for n, axis in self.axes.items() if axis.variants is None or variant in axis.variants}

    def combinations(self, variant: str) -> int:
        """Returns the number of combinations of axis values for a variant."""
        count = 1
        for values in self.axes_of(variant).values():
            count *= len(values)
        return count

    @property
    def experiment(self) -> str:
        """MLflow's experiment."""
        return self.tracking.experiment or self.name
