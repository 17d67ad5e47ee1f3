"""What the agent sees through the scattering stem: a frame beside its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from tensorrl import files, games
from tensorrl.environments.atari import AtariGame
from tensorrl.errors import InputError
from tensorrl.networks.scattering import ScatteringStem


def draw(frame: Tensor, stem: ScatteringStem, path: Path) -> None:
    """Draws a frame, its average, and the features of every wavelet, a row for each scale.

    The frame and its average are grey; all wavelet features share one colour scale, from 0 to the largest of them, in
    units of the channel's expected value (`ScatteringStem.encode`).

    Args:
        frame: (rows, columns) uint8, on the stem's device.
        stem: the stem whose features are drawn.
        path: image to write; its suffix, such as .png, says the format.

    Raises:
        InputError: the frame is not of the stem's shape or dtype, or the suffix names no image format.
    """
    formats = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise InputError(f"{path}: cannot write an image of type {path.suffix!r} (allowed: {', '.join(formats)})")
    features = stem.encode(frame.unsqueeze(0))[0].float().cpu().numpy()
    average, waves = features[0], features[1:]
    rows = len(waves) // stem.L
    figure = Figure(figsize=(2 * (stem.L + 1) + 2.2, 2.2 * max(rows, 2)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.3, stem.L])[0]

    pixels, blurred = left.subplots(2, 1)
    pixels.imshow(frame.cpu().numpy(), cmap="gray", vmin=0, vmax=255)
    pixels.set_title(f"frame, {frame.shape[0]}×{frame.shape[1]}", fontsize=9)
    blurred.imshow(average, cmap="gray", vmin=0)
    blurred.set_title(f"average, {average.shape[0]}×{average.shape[1]}", fontsize=9)

    grid = right.subplots(rows, stem.L, squeeze=False)
    largest = max(float(waves.max()), 1e-6)
    for axes, wave, label in zip(grid.flat, waves, stem.labels[1:], strict=True):
        shown = axes.imshow(wave, cmap="magma", vmin=0, vmax=largest)
        axes.set_title(label, fontsize=9)
    right.colorbar(shown, ax=grid, shrink=0.8, label="feature (1 = expected on a natural image)")
    for axes in (pixels, blurred, *grid.flat):
        axes.set_xticks([])
        axes.set_yticks([])
    with files.replacing(path, sync=False, keep_suffix=True) as draft:
        figure.savefig(draft, dpi=120)


def draw_game(game: str, out: Path, *, scale: int, orientations: int, seed: int, steps: int) -> None:
    """Plays random agent steps and draws the frame they end on beside its scattering coefficients.

    Raises:
        InputError: unknown game, a setting out of range, or a file that cannot be written.
    """
    name = games.get(game).name
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no such folder")
    stem = ScatteringStem(J=scale, L=orientations)
    emulator, rng = AtariGame(name, seed), np.random.default_rng(seed)
    frame = emulator.begin_game()
    for _ in range(steps):
        emulator.send(int(rng.integers(emulator.actions)))
        step = emulator.receive()
        frame = emulator.begin_game() if step.over else step.frame
    emulator.close()
    draw(torch.from_numpy(frame.copy()), stem, out)
