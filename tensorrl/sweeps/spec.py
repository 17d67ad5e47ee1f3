"""The description of a sweep: one typed model, read from YAML, checked whole before anything runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError
from pydantic_core import ErrorDetails

from tensorrl import games, variants
from tensorrl.errors import InputError, unknown
from tensorrl.settings import network_spec
from tensorrl.trial import TrialSpec

ATARI_100K = "atari-100k"
MOST_SEEDS = 10_000


def _listed_once(values: Sequence[Any]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise InputError(f"{value!r} is listed twice (allowed: each value once)")
    return tuple(values)


def _names(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(f"{value!r} is no list of {what} (allowed: a list of one name or more)")
    return _listed_once(value)


def _games(value: Any) -> tuple[str, ...]:
    if value == ATARI_100K:
        return tuple(games.GAMES)
    if isinstance(value, str):
        raise InputError(f"{value!r} is no list of games (allowed: a list of names, or the word {ATARI_100K})")
    return tuple(games.get(name).name for name in _names(value, "games"))


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
        f"{value!r} (allowed: a list of whole numbers from 0 to 2^31 - 1, or how many seeds, {MOST_SEEDS:,} at most)"
    )


class SweepSpec(BaseModel):
    """A grid of trials: every game with every variant and every seed.

    Attributes:
        name: names the sweep's folder under `runs` and its MLflow experiment.
        games: ALE's names, or the word `atari-100k` for all 26.
        variants: names of the registry.
        seeds: the seeds, or how many: n stands for 0 to n - 1.
        steps: agent steps of each trial.
        settings: settings changed from the variant's own, for every trial.
        cpus: CPU cores, and threads, of each trial. Two trials of one thread are faster than one of two.
        checkpoint_every: agent steps between checkpoints; None leaves it to the trial.
        max_concurrent: trials at once at most; None runs as many as fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    games: Annotated[tuple[str, ...], BeforeValidator(_games)]
    variants: Annotated[tuple[str, ...], BeforeValidator(_variants)]
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)]
    steps: Annotated[StrictInt, Field(ge=1)] = 100_000
    settings: dict[str, Any] = {}
    cpus: Annotated[StrictInt, Field(ge=1)] = 1
    checkpoint_every: Annotated[StrictInt, Field(ge=1)] | None = None
    max_concurrent: Annotated[StrictInt, Field(ge=1)] | None = None


def cells(spec: SweepSpec) -> list[TrialSpec]:
    """Returns the sweep's trials, seed by seed: a sweep cut short has every game and variant with the first seeds."""
    return [
        TrialSpec(
            game=game,
            variant=variant,
            seed=seed,
            steps=spec.steps,
            overrides=dict(spec.settings),
            threads=spec.cpus,
            checkpoint_every=spec.checkpoint_every,
        )
        for seed in spec.seeds
        for game in spec.games
        for variant in spec.variants
    ]


def cell_folder(cell: TrialSpec) -> str:
    """Returns the name of a trial's folder inside its sweep's: `<game>-<variant>-seed<k>`."""
    return f"{cell.game}-{cell.variant}-seed{cell.seed}"


def load_sweep(path: Path) -> SweepSpec:
    """Reads a sweep file and checks all of it, down to every trial's settings.

    Args:
        path: a YAML file with the fields of `SweepSpec`.

    Raises:
        InputError: in one line the file, the field, its value and what is allowed, with the nearest valid name.
    """
    content = _read(path)
    for field in content:
        if field not in SweepSpec.model_fields:
            raise unknown("field", str(field), SweepSpec.model_fields, where=str(path))
    try:
        spec = SweepSpec.model_validate(content)
    except ValidationError as error:
        first, *more = error.errors()
        others = f" (and {len(more)} more)" if more else ""
        raise InputError(f"{path}: {_explain(first)}{others}") from None
    try:
        _check_networks(spec)
    except InputError as error:
        raise InputError(f"{path}: settings: {error}") from None
    return spec


def _check_networks(spec: SweepSpec) -> None:
    """Resolves every variant's settings and sizes its network for every number of actions the games have."""
    actions = {games.get(game).actions for game in spec.games}
    for name in spec.variants:
        settings = variants.resolve(name, spec.settings)
        for count in sorted(actions):
            network_spec(settings, count)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a field given twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in names[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        # The loader is a safe one: it makes plain values only.
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror} (allowed: a sweep's YAML file)") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no UTF-8 text (allowed: a sweep's YAML file)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{path}:{line} not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        fields = ", ".join(SweepSpec.model_fields)
        raise InputError(f"{path}: holds no fields (allowed: {fields})")
    return content


def _explain(error: ErrorDetails) -> str:
    """Returns one of pydantic's errors in our words: the field, its value, what is allowed."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{where}: missing (required: name, games, variants, seeds)"
    context: Mapping[str, Any] = error.get("ctx", {})
    own = context.get("error")
    if isinstance(own, InputError):
        return f"{where}: {own}"
    allowed = {
        "name": "letters, digits and . _ - , the first a letter or digit, 100 at most",
        "settings": "a mapping of settings to values",
    }
    return f"{where}: {error['input']!r} (allowed: {allowed.get(where.split('.')[0], 'a whole number from 1')})"
