"""What updates do at several ages of a real trial, for several optimizers: the figures of `tensorrl diagnose`, in time.

    python -m benchmarks.kfac_diagnosis --json FILE --arm 'NAME:KEY=VALUE,KEY=VALUE' [--arm ...] [--game road_runner]
                                        [--variant trl-5x] [--seed 0] [--updates 2000 20000 50000]
    python -m benchmarks.kfac_diagnosis --table FILE [FILE ...]

The second form prints docs/kfac.md's table from files that the first wrote. An arm is a variant's settings with
changes. Its trial trains as in any sweep; at each of the points a copy of it, restored from a checkpoint, makes 100
further updates that are measured, and the trial goes on untouched. Arms already in FILE are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.kfac_fixed_replay import parse_arm
from tensorrl import files, system
from tensorrl.errors import InputError
from tensorrl.trial import checkpoints, diagnosis
from tensorrl.trial.run import build_training
from tensorrl.trial.settings import Settings
from tensorrl.trial.spec import TrialSpec, make_spec
from tensorrl.trial.training import Training

_COLUMNS = (
    "arm", "updates", "loss on sampled, held out", "held out − beside it", "Q, return that followed", "dead units",
    "KL on the batch, on other states", "greedy actions changed", "step over Adam's, least to most by parameter",
    "clip's factor", "½ δᵀFδ", "Σ μ/(μ+λ)", "plays (error)",
)  # fmt: skip


def run_arm(spec: TrialSpec, points: list[int], games: int) -> list[dict[str, Any]]:
    """Trains one arm and measures it after every number of updates in `points`."""
    training, found = build_training(spec, torch.device("cpu")), []
    try:
        for point in points:
            training.run(agent_steps(spec.settings, point) - training.steps)
            copy = _copy(spec, training)
            scores = [game.score for game in copy.evaluate(games, seed=2**31 + spec.seed)]
            figures = diagnosis.measure(copy) | {"scores": scores}
            copy.close()
            found.append(figures)
            print(json.dumps({key: figures[key] for key in ("updates", "figures", "scores")}), flush=True)
    finally:
        training.close()
    return found


def agent_steps(settings: Settings, updates: int) -> int:
    """Agent steps after which a trial has made so many updates."""
    return settings.learning_starts + updates * settings.update_interval


def _copy(spec: TrialSpec, training: Training) -> Training:
    with tempfile.TemporaryDirectory() as aside:
        saved = checkpoints.save(training, Path(aside))
        copy = build_training(spec, torch.device("cpu"))
        checkpoints.restore(copy, saved)
    return copy


def table(paths: list[Path]) -> str:
    """The figures of files as a Markdown table."""
    lines = [f"| game | {' | '.join(_COLUMNS)} |", "|" + " --- |" * (len(_COLUMNS) + 1)]
    for path in paths:
        content = json.loads(path.read_text())
        for name, arm in content["arms"].items():
            lines += [f"| {content['game']} | {name} | {_row(point)} |" for point in arm["points"]]
    return "\n".join(lines)


def _row(point: dict[str, Any]) -> str:
    seen, steps, scores = point["figures"], point["steps"], point["scores"]
    lengths = steps["length_over_adams"].values()
    mean = sum(scores) / len(scores)
    error = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5 / len(scores) ** 0.5
    cells = [
        f"{point['updates']:,}",
        f"{seen['loss_unweighted']:.2f}, {seen['loss_held_out']:.2f}",
        f"{seen['loss_held_out'] - seen['loss_beside_held_out']:+.3f}",
        f"{seen['q_chosen']:.2f}, {seen['return_followed']:.2f}",
        f"{seen['dead_units']:.2f}",
        f"{steps['kl_batch']:.1e}, {steps['kl_others']:.1e}",
        f"{steps['churn']:.1%}",
        f"{min(lengths):.2g} to {max(lengths):.3g}",
        *(_figure(seen, key) for key in ("kfac_step_scale", "kfac_step_divergence", "kfac_directions")),
        f"{mean:,.0f} ({error:,.0f})",
    ]
    return " | ".join(cells)


def _figure(figures: dict[str, float], key: str) -> str:
    return f"{figures[key]:.3g}" if key in figures else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print the table of these files")
    parser.add_argument("--json", type=Path, help="file for the figures; arms already in it are kept")
    parser.add_argument("--arm", action="append", metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--game", default="road_runner")
    parser.add_argument("--variant", default="trl-5x")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000, help="length of the trial, for its schedules")
    parser.add_argument("--updates", type=int, nargs="+", default=[2_000, 20_000, 50_000])
    parser.add_argument("--games", type=int, default=20)
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    if not (options.json and options.arm):
        parser.error("--json and an --arm or more are needed, or --table")
    system.use_threads(1)
    system.keep_freed_memory()
    about = {"game": options.game, "seed": options.seed, "steps": options.steps, "commit": system.commit()}
    for text in options.arm:
        kept = json.loads(options.json.read_text()) if options.json.exists() else {**about, "arms": {}}
        name, settings = parse_arm(text, options.variant)
        if name in kept["arms"]:
            continue
        changed = settings.model_dump(exclude_defaults=True)
        spec = make_spec(
            game=options.game, variant="rainbow", seed=options.seed, steps=options.steps, overrides=changed
        )
        start = time.process_time()
        points = run_arm(spec, sorted(options.updates), options.games)
        kept["arms"][name] = {"settings": changed, "points": points, "cpu_seconds": time.process_time() - start}
        files.write_text(options.json, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"kfac_diagnosis: {error}")
