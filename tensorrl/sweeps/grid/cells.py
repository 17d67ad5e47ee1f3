"""The cells of a sweep: the trial, the key and the folder of each."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tensorrl import games
from tensorrl.errors import InputError
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial import variants
from tensorrl.trial.cell import Cell
from tensorrl.trial.settings import network_spec
from tensorrl.trial.spec import TrialSpec, determining_settings, trial_key

KEY_LETTERS = 8
"""Number of characters of a cell's key at the end of its folder's name."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell(Cell):
    """A cell with its trial's description, ready to be trained.

    Attributes:
        trial: the trial's settings, and how it is run.
    """

    trial: TrialSpec

    def on(self, device: str) -> PlannedCell:
        """The same cell, to be trained on "cpu" or "cuda"."""
        return replace(self, trial=self.trial.model_copy(update={"device": device}))


def cells(spec: SweepSpec) -> list[PlannedCell]:
    """Returns the sweep's cells, seed by seed: a sweep cut short has the first seeds of every game and variant.

    Raises:
        InputError: the settings give no valid network for one of the games, or give two equal cells.
    """
    combined = [(variant, axes, _settings(spec, variant, axes)) for variant, axes in _combinations(spec)]
    _check_networks(spec, combined)
    # Resolved once per combination: hundreds of cells share a few combinations of settings.
    kinds = [_Kind.of(spec, *each) for each in combined]
    found = [kind.cell(game, seed) for seed in spec.seeds for game in spec.games for kind in kinds]
    _check_distinct(found)
    return found


def select(grid: Sequence[PlannedCell], pattern: str | None) -> list[PlannedCell]:
    """Returns the cells whose name (`<game>-<variant>-seed<k>`) matches.

    Args:
        grid: the cells.
        pattern: a pattern such as `pong-*-seed0`, or several separated by commas. A pattern that begins with `!`
            excludes the cells that it matches. None selects all cells.

    Raises:
        InputError: no cell matches.
    """
    patterns = [each.strip() for each in (pattern or "*").split(",")]
    wanted = [each for each in patterns if not each.startswith("!")] or ["*"]
    unwanted = [each.removeprefix("!") for each in patterns if each.startswith("!")]
    chosen = [cell for cell in grid if _matches(cell, wanted) and not _matches(cell, unwanted)]
    if not chosen:
        raise InputError(f"--only {pattern!r}: matches no cell (allowed: a pattern for names such as {grid[0].name})")
    return chosen


def _matches(cell: PlannedCell, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(cell.name, each) for each in patterns)


@dataclass(frozen=True)
class _Kind:
    """A variant with one combination of axis values. Its cells differ only in game and seed."""

    trial: TrialSpec
    axes: Mapping[str, Any]
    determining: Mapping[str, Any]

    @classmethod
    def of(cls, spec: SweepSpec, variant: str, axes: Mapping[str, Any], settings: Mapping[str, Any]) -> _Kind:
        trial = TrialSpec(
            game=spec.games[0],
            variant=variant,
            seed=spec.seeds[0],
            steps=spec.steps,
            overrides=dict(settings),
            threads=spec.resources.cpus,
            checkpoint_every=spec.checkpoint_every,
        )
        return cls(trial, axes, determining_settings(trial.settings))

    def cell(self, game: str, seed: int) -> PlannedCell:
        trial = self.trial.model_copy(update={"game": game, "seed": seed})
        key = trial_key(game, self.determining, seed=seed, steps=trial.steps)
        return PlannedCell(
            key=key,
            folder=f"{game}-{trial.variant}-seed{seed}-{key[:KEY_LETTERS]}",
            game=game,
            variant=trial.variant,
            seed=seed,
            steps=trial.steps,
            axes=self.axes,
            trial=trial,
        )


def _combinations(spec: SweepSpec) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for variant in spec.variants:
        axes = spec.axes_of(variant)
        found += [(variant, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    return found


def _settings(spec: SweepSpec, variant: str, axes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **spec.settings,
        **spec.evaluation.settings(),
        **spec.variant_settings.get(variant, {}),
        **axes,
    }


def _check_networks(spec: SweepSpec, combined: Sequence[tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    """Resolves every variant's settings, and sizes its network for every number of actions among the games."""
    actions = tuple(sorted({games.get(game).actions for game in spec.games}))
    for variant, axes, settings in combined:
        try:
            resolved = variants.resolve(variant, settings)
            for count in actions:
                network_spec(resolved, count)
        except InputError as error:
            values = ", ".join(f"{name} {value}" for name, value in axes.items())
            where = f"axes ({values}), variant {variant}" if axes else "settings"
            raise InputError(f"{where}: {error}") from None


def _check_distinct(grid: Sequence[PlannedCell]) -> None:
    known: dict[str, PlannedCell] = {}
    for cell in grid:
        other = known.setdefault(cell.key, cell)
        if other is not cell:
            raise InputError(
                f"{_title(other)} and {_title(cell)} are the same cell: their settings are equal "
                "(allowed: variants and values of axes that differ)"
            )


def _title(cell: PlannedCell) -> str:
    values = "".join(f" {name}={value}" for name, value in cell.axes.items())
    return cell.name + values
