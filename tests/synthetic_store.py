"""Makes a store of synthetic cells: the layout and the files of a real one, scores drawn at random.

    python tests/synthetic_store.py STORE

writes the sweep `table12` (26 games × 9 variants × 3 seeds = 702 cells) and `pong_ranks` (6 variants × 3 seeds). No
agent is trained: every `trial.json` and `result.json` says so ("synthetic": true), and so does a report on it. Scores
are normal around those of 100 published runs of data-efficient Rainbow, scaled by a factor of the variant's.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tensorrl import games
from tensorrl.trial import spectra
from tensorrl.trial.spec import TrialSpec, describe, make_spec

PAPER_VARIANTS = {
    "rainbow": 1.0,
    "denoised": 0.97,
    "trl-2.5x": 0.94,
    "trl-5x": 0.86,
    "trl-10x": 0.7,
    "kfac-denoised": 1.1,
    "kfac-trl-5x": 1.05,
    "kfac-trl-10x": 0.95,
    "scattering": 0.6,
}
PONG_VARIANTS = {"pong-dqn": 1.0, **{f"pong-dqn-trl-{ratio}": 1.0 - 0.03 * ratio for ratio in (1.5, 2, 3, 4, 5)}}
STEPS = 100_000
REPORTS = 20
PONG_REPORTS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    store = parser.parse_args().store
    make_sweep(store, "table12", list(games.GAMES), PAPER_VARIANTS, range(3))
    make_sweep(store, "pong_ranks", ["pong"], PONG_VARIANTS, range(3))


def make_sweep(
    store: Path, name: str, game_names: Sequence[str], variants: dict[str, float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Writes a sweep's cells and its `cells.json`; returns the rows of the latter."""
    rows = []
    for seed in seeds:
        for game in game_names:
            for variant, factor in variants.items():
                rows.append(_make_cell(store, game, variant, seed, factor))
    folder = store / ".sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": 1, "name": name, "experiment": name, "cells": rows}
    (folder / "cells.json").write_text(json.dumps(content, indent=1) + "\n")
    return rows


def _bounds(game: str) -> tuple[float, float]:
    return (-21.0, 21.0) if game == "pong" else (-np.inf, np.inf)


@cache
def _about(actions: int, variant: str) -> dict[str, Any]:
    """A trial's description; finding ranks takes time, and they depend on the number of actions alone."""
    game = next(name for name, game in games.GAMES.items() if game.actions == actions)
    return describe(make_spec(game=game, variant=variant, steps=STEPS))


def _make_cell(store: Path, game: str, variant: str, seed: int, factor: float) -> dict[str, Any]:
    key = TrialSpec(game=game, variant=variant, seed=seed, steps=STEPS).key
    folder = store / f"{game}-{variant}-seed{seed}-{key[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    trial = _about(games.get(game).actions, variant) | {"key": key, "game": game, "seed": seed, "synthetic": True}
    (folder / "trial.json").write_text(json.dumps(trial) + "\n")
    draws = np.random.default_rng(zlib.crc32(f"{game} {variant} {seed}".encode()))
    about, published = games.get(game), games.published()[game]
    mean = about.random + factor * (published.der_rliable100_mean - about.random)
    run = np.clip(mean + draws.normal(0, published.der_rliable100_sd), *_bounds(game))
    episodes = run + draws.normal(0, 0.3 * published.der_rliable100_sd, 9)
    final = run + draws.normal(0, 0.3 * published.der_rliable100_sd, 100)
    reports = PONG_REPORTS if variant in PONG_VARIANTS else REPORTS
    with (folder / "progress.jsonl").open("w") as file:
        for report in range(1, reports + 1):
            done = report / reports
            level = about.random + (run - about.random) / (1 + np.exp(-10 * (done - 0.5)))
            noisy = level + draws.normal(0, 0.2 * published.der_rliable100_sd)
            line = {
                "agent_steps": round(STEPS * done),
                "episodes": round(600 * done),
                "episode_return": float(np.clip(noisy, *_bounds(game))),
                "steps_per_second": 60.0,
            }
            if done in (0.8, 0.9, 1.0):
                line["evaluation_return"] = float(episodes.mean())
            file.write(json.dumps(line) + "\n")
    result = trial | {
        "score": float(episodes.mean()),
        "human_normalized": games.human_normalized(about, float(episodes.mean())),
        "score_episodes": episodes.tolist(),
        "final_score": float(final.mean()),
        "final_human_normalized": games.human_normalized(about, float(final.mean())),
        "final_episodes": final.tolist(),
        "training_seconds": 1_700.0,
        "steps_per_second": 60.0,
        "peak_memory_bytes": 1_500_000_000,
        "parameters_sha256": key[::-1],
    }
    (folder / "result.json").write_text(json.dumps(result) + "\n")
    if game == "road_runner" and variant in ("rainbow", "denoised"):
        for steps in spectra.points(STEPS):
            weight = draws.normal(0, 0.02, (64, 3, 3, 256)) + 2e-2 * (steps / STEPS) * draws.normal(0, 1, (64, 3, 3, 1))
            spectra.save(folder, spectra.Spectrum(steps, spectra.singular_values(weight, 3)))
    return {
        "key": key,
        "folder": folder.name,
        "game": game,
        "variant": variant,
        "seed": seed,
        "steps": STEPS,
        "axes": {},
    }


if __name__ == "__main__":
    main()
