"""Weight spectra over training (the paper's figure 1): singular values, measured and kept in a run's folder.

The paper shows "eigenvalue histograms of the value-based linear layer". That layer is not square (256×576), so it has
no eigenvalues; its singular values σ stand for them here. σ² are the eigenvalues of W Wᵀ, and σ² over their sum is the
share of the layer's energy ‖W‖² that a rank-one part carries.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.trial.folder import SPECTRA, spectrum_files

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


def load(run: Path) -> list[Spectrum]:
    """Reads the spectra that a run's folder holds, by time; none where it keeps none.

    Raises:
        InputError: a file is damaged.
    """
    return [_load(path) for path in spectrum_files(run)]


def _load(path: Path) -> Spectrum:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Spectrum(int(path.stem), {name: file[name] for name in file.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged ({error})") from None
