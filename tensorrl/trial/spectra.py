"""Weight spectra over training (the paper's figure 1): singular values, kept in a run's folder and pooled over runs.

The paper shows "eigenvalue histograms of the value-based linear layer". That layer is not square (256×576), so it has
no eigenvalues; its singular values σ stand for them here. σ² are the eigenvalues of W Wᵀ, and σ² over their sum is the
share of the layer's energy ‖W‖² that a rank-one part carries.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.trial.folder import SPECTRA, TRIAL_FILE, DamagedFile, load_trial, spectrum_files

Values = npt.NDArray[np.float32]

MATRIX = "matrix"
ENERGIES = (0.90, 0.95, 0.99)
ZERO = 1e-5
"""Singular values below this share of the largest are zero but for the rounding of float32 weights."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one layer at one moment of one run.

    Attributes:
        agent_steps: the moment.
        values: by unfolding: "matrix" (outputs × inputs) and "mode_0", "mode_1", … of the inputs (one mode × all else);
            each descending, as long as the unfolding's shorter side.
    """

    agent_steps: int
    values: Mapping[str, Values]


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


def singular_values(weight: npt.NDArray[Any], inputs: int) -> dict[str, Values]:
    """Singular values of a layer's weight as a matrix and of its unfoldings along the input modes.

    With one output mode, as in the hidden layers, the unfolding along it is the matrix itself.

    Args:
        weight: (*in_shape, *out_shape).
        inputs: number of input modes, the leading ones.

    Returns:
        float32 values by unfolding (see `Spectrum`), computed in float64.
    """
    full = weight.astype(np.float64)
    unfolded = {MATRIX: full.reshape(math.prod(full.shape[:inputs]), -1)}
    if inputs > 1:
        for mode in range(inputs):
            unfolded[f"mode_{mode}"] = np.moveaxis(full, mode, 0).reshape(full.shape[mode], -1)
    return {name: np.linalg.svd(matrix, compute_uv=False).astype(np.float32) for name, matrix in unfolded.items()}


def energy_rank(values: npt.NDArray[Any], energy: float) -> int:
    """Smallest number of leading singular values whose squares sum to at least `energy` (0 to 1) of the total.

    By Eckart and Young (1936) no matrix of lower rank keeps as much.
    """
    shares = np.cumsum(np.square(values, dtype=np.float64))
    return int(np.searchsorted(shares, energy * shares[-1])) + 1 if shares[-1] > 0 else 0


def energy_ranks(values: npt.NDArray[Any], prefix: str = "rank_") -> dict[str, int]:
    """`energy_rank` for 90, 95 and 99 % of the energy, by `prefix` and the percentage."""
    return {f"{prefix}{energy:.0%}".rstrip("%"): energy_rank(values, energy) for energy in ENERGIES}


def points(steps: int) -> list[int]:
    """Agent steps at which a trial of `steps` keeps its spectrum: its start, and every tenth of it."""
    return sorted({round(tenth * steps / 10) for tenth in range(11)})


def save(run: Path, spectrum: Spectrum) -> Path:
    """Writes a spectrum into a run's folder, whole or not at all.

    Returns:
        `run`/spectra/<agent steps>.npz: an array for each unfolding.
    """
    folder = run / SPECTRA
    folder.mkdir(exist_ok=True)
    path = folder / f"{spectrum.agent_steps:08d}.npz"
    arrays: dict[str, Any] = dict(spectrum.values)
    with files.replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)
    return path


def load_run(folder: Path) -> RunSpectra:
    """Reads what a run kept.

    Raises:
        InputError: `folder` holds no run or no spectra, or a file of it is damaged.
    """
    trial = load_trial(folder)
    if trial is None:
        raise InputError(f"{folder}: holds no run of tensorrl (no {TRIAL_FILE} there)")
    try:
        key, game, label = trial["key"], trial["game"], _label(trial["variant"], trial["settings"])
    except KeyError as lacking:
        raise DamagedFile(folder / TRIAL_FILE, f"no {lacking.args[0]}") from None
    paths = spectrum_files(folder)
    if not paths:
        raise InputError(f"{folder}: holds no spectra ({SPECTRA}/*.npz); only runs begun with this version keep them")
    return RunSpectra(folder, key, game, label, [_load(path) for path in paths])


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


def pool(runs: Iterable[RunSpectra], unfolding: str = MATRIX) -> dict[str, dict[int, list[Values]]]:
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


def rank_table(runs: Sequence[RunSpectra], unfolding: str = MATRIX) -> list[dict[str, Any]]:
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
            "runs": len(spectra),
            "size": max(len(values) for values in spectra),
            "largest": float(np.mean([values.max() for values in spectra])),
            **dict(_over_runs(spectra)),
        }
        for label, moments in pool(runs, unfolding).items()
        for steps, spectra in moments.items()
    ]


def _over_runs(spectra: Sequence[Values]) -> Iterator[tuple[str, dict[str, float]]]:
    ranks = [energy_ranks(values) for values in spectra]
    for name in ranks[0]:
        found = [each[name] for each in ranks]
        yield name, {"mean": sum(found) / len(found), "min": min(found), "max": max(found)}


def _load(path: Path) -> Spectrum:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Spectrum(int(path.stem), {name: file[name] for name in file.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged ({error})") from None


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
