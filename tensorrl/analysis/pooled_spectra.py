"""Spectra of many runs: read from their folders, and pooled over the runs of a variant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorrl.errors import InputError
from tensorrl.trial import spectra
from tensorrl.trial.folder import SPECTRA, TRIAL_FILE, DamagedFile, load_trial
from tensorrl.trial.spectra import Spectrum, Values


@dataclass(frozen=True)
class RunSpectra:
    """Spectra of one run over its training.

    Attributes:
        folder: the run's.
        key: of its trial.
        game: name of the game.
        label: its variant, with the settings that differ from the variant's.
        spectra: by time.
    """

    folder: Path
    key: str
    game: str
    label: str
    spectra: Sequence[Spectrum]


def load_run(folder: Path) -> RunSpectra:
    """Reads what a run kept.

    Raises:
        InputError: `folder` holds no run or no spectra, or a file of it is damaged.
    """
    trial = load_trial(folder)
    if trial is None:
        raise InputError(f"{folder}: contains no run of tensorrl (no {TRIAL_FILE} there)")
    try:
        key, game, label = trial["key"], trial["game"], _label(trial["variant"], trial["settings"])
    except KeyError as lacking:
        raise DamagedFile(folder / TRIAL_FILE, f"no {lacking.args[0]}") from None
    held = spectra.load(folder)
    if not held:
        raise InputError(f"{folder}: contains no spectra ({SPECTRA}/*.npz); runs of earlier versions keep none")
    return RunSpectra(folder, key, game, label, held)


def load_runs(folders: Iterable[Path]) -> list[RunSpectra]:
    """Reads many runs.

    Raises:
        InputError: see `load_run`; or no folder at all, or one trial twice, which would count double.
    """
    runs: dict[str, RunSpectra] = {}
    for folder in folders:
        run = load_run(folder)
        if run.key in runs:
            raise InputError(f"{folder}: the same trial as {runs[run.key].folder}; give each once")
        runs[run.key] = run
    if not runs:
        raise InputError("spectrum: give at least one run's folder")
    return list(runs.values())


def pool(runs: Iterable[RunSpectra], unfolding: str = spectra.MATRIX) -> dict[str, dict[int, list[Values]]]:
    """Singular values of one unfolding by label, then agent steps: an array for each run.

    Raises:
        InputError: a run has no such unfolding.
    """
    pooled: dict[str, dict[int, list[Values]]] = {}
    for run in runs:
        for spectrum in run.spectra:
            if unfolding not in spectrum.values:
                allowed = ", ".join(spectrum.values)
                raise InputError(f"{run.folder}: its spectra have no unfolding {unfolding!r} (allowed: {allowed})")
            moments = pooled.setdefault(run.label, {})
            moments.setdefault(spectrum.agent_steps, []).append(spectrum.values[unfolding])
    return {label: dict(sorted(moments.items())) for label, moments in pooled.items()}


def rank_table(runs: Sequence[RunSpectra], unfolding: str = spectra.MATRIX) -> list[dict[str, Any]]:
    """What rank each variant's layer needs at each moment, over its runs.

    Returns:
        A row for each label and moment: variant, agent_steps, unfolding, runs, size (the largest possible rank),
        largest (singular value, mean), and rank_90, rank_95 and rank_99, each with mean, min and max over runs.

    Raises:
        InputError: a run has no such unfolding.
    """
    return [
        {
            "variant": label,
            "agent_steps": steps,
            "unfolding": unfolding,
            "runs": len(held),
            "size": max(len(values) for values in held),
            "largest": float(np.mean([values.max() for values in held])),
            **dict(_over_runs(held)),
        }
        for label, moments in pool(runs, unfolding).items()
        for steps, held in moments.items()
    ]


def _over_runs(held: Sequence[Values]) -> Iterator[tuple[str, dict[str, float]]]:
    ranks = [spectra.energy_ranks(values) for values in held]
    for name in ranks[0]:
        found = [each[name] for each in ranks]
        yield name, {"mean": sum(found) / len(found), "min": min(found), "max": max(found)}


def _label(variant: str, settings: Mapping[str, Any]) -> str:
    """The variant, and what the run changed about it: runs of other settings are never pooled."""
    from tensorrl.trial import variants

    if variant not in variants.VARIANTS:
        return variant
    usual = variants.resolve(variant).model_dump(mode="json")
    changed = {name: value for name, value in settings.items() if name in usual and usual[name] != value}
    if not changed:
        return variant
    return f"{variant} ({', '.join(f'{name}={_short(value)}' for name, value in changed.items())})"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
