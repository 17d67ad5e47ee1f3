"""What Tune and MLflow cost training: two trials of a sweep beside two bare `tensorrl train` processes, in turn.

    python -m benchmarks.overhead [--steps 8000] [--rounds 3] [--json FILE]

Both sides train the same two trials (same seeds, one thread each) at once: by `tensorrl train` in two processes that
know nothing of each other, and by `tensorrl sweep`, with its driver, Ray's processes and the record in MLflow (an
SQLite file, as without a server). What is compared is the agent steps a second of both trials together, seen from
outside by what they report, from the moment both learn until the first evaluation; start-up and evaluation are no part
of it. Rounds alternate, so that a slow minute of the machine slows both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT, Spread, environment, ratio, save
from benchmarks.startup import end
from tensorrl.trial.settings import Settings

SEEDS = (0, 1)
GOAL = 0.95
_EVALUATION = 0.8
_LOOK_SECONDS = 0.02
_PATIENCE = 7_200.0


class Failed(Exception):
    """A side ended, or took too long, before what is timed was done."""


def main() -> None:
    options = parse(sys.argv[1:])
    rates: dict[str, list[float]] = {"bare": [], "sweep": []}
    for number in range(options.rounds):
        for side, start in (("bare", bare), ("sweep", sweep)):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                rates[side].append(measure(start, Path(folder), options))
            print(f"round {number + 1}, {side}: {rates[side][-1]:.1f} steps/s", file=sys.stderr)
    relative = ratio(rates["sweep"], rates["bare"])
    print(f"two bare `tensorrl train` processes   {Spread.of(rates['bare'])} steps/s together")
    print(f"two trials of `tensorrl sweep`        {Spread.of(rates['sweep'])} steps/s together")
    lowest, highest = relative.lowest, relative.highest
    print(f"sweep over bare                       {relative.median:.3f} ({lowest:.3f}-{highest:.3f}), goal {GOAL}")
    if options.json is not None:
        figures = {"steps_per_second": rates, "sweep over bare": asdict(relative)}
        save(options.json, "overhead", vars(options), figures)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--variant", default="rainbow")
    parser.add_argument("--steps", type=int, default=8_000, help="agent steps of each trial (default: 8000)")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    least = 2 * Settings.model_fields["learning_starts"].default
    if options.steps < least:
        parser.error(f"--steps {options.steps}: at least {least}, half of which pass before learning starts")
    return options


@contextmanager
def bare(store: Path, options: argparse.Namespace) -> Iterator[list[subprocess.Popen[Any]]]:
    """Two processes of `tensorrl train`, each with its folder in the store."""
    given = ["--game", options.game, "--variant", options.variant, "--steps", options.steps, "--threads", 1]
    with _started(store, [["train", *given, "--seed", seed, "--out", store / f"seed{seed}"] for seed in SEEDS]) as both:
        yield both


@contextmanager
def sweep(store: Path, options: argparse.Namespace) -> Iterator[list[subprocess.Popen[Any]]]:
    """A `tensorrl sweep` of the same two trials."""
    file = store.with_name(f"{store.name}.yaml")
    fields = {"name": "overhead", "games": [options.game], "variants": [options.variant], "seeds": list(SEEDS)}
    file.write_text(json.dumps(fields | {"steps": options.steps, "max_concurrent": len(SEEDS)}))
    try:
        with _started(store, [["sweep", file, "--out", store]]) as one:
            yield one
    finally:
        file.unlink()


@contextmanager
def _started(store: Path, commands: Sequence[Sequence[object]]) -> Iterator[list[subprocess.Popen[Any]]]:
    kept = {name: value for name, value in environment(1).items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with (store.with_name(f"{store.name}.log")).open("wb") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "tensorrl", *map(str, command)],
                cwd=store, env=kept, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )
            for command in commands
        ]  # fmt: skip
        try:
            yield started
        finally:
            for process in started:
                end(process)
    Path(log.name).unlink()


def measure(start: Any, store: Path, options: argparse.Namespace) -> float:
    """Agent steps a second of both trials together while both learn.

    Raises:
        Failed: a process ended, or nothing came for long.
    """
    first = Settings.model_fields["learning_starts"].default
    seen: dict[Path, list[tuple[float, int]]] = {}
    began = time.perf_counter()
    with start(store, options) as processes:
        while not any(points and points[-1][1] >= _EVALUATION * options.steps for points in seen.values()):
            _look(store, seen)
            if any(process.poll() is not None for process in processes):
                raise Failed((store.with_name(f"{store.name}.log")).read_text(errors="replace")[-1_000:])
            if time.perf_counter() - began > _PATIENCE:
                raise Failed(f"nothing after {_PATIENCE:.0f} s")
            time.sleep(_LOOK_SECONDS)
    return together(list(seen.values()), first)


def together(trials: Sequence[Sequence[tuple[float, int]]], first: int) -> float:
    """Steps a second of trials together, over the time in which all of them learn.

    Args:
        trials: of each, when a report was seen (seconds) and its agent steps.
        first: agent steps at which learning starts.

    Raises:
        Failed: the trials did not run at once for two reports each.
    """
    if len(trials) != len(SEEDS):
        raise Failed(f"{len(trials)} trials ran at once instead of {len(SEEDS)}")
    learning = [[point for point in points if point[1] >= first] for points in trials]
    since = max((points[0][0] for points in learning if points), default=0.0)
    rate = 0.0
    for points in learning:
        window = [point for point in points if point[0] >= since]
        if len(window) < 2:
            raise Failed("the trials did not learn at once for two reports each: give more --steps")
        (start, before), (stop, after) = window[0], window[-1]
        rate += (after - before) / (stop - start)
    return rate


def _look(store: Path, seen: dict[Path, list[tuple[float, int]]]) -> None:
    for path in store.glob("*/progress.jsonl"):
        points = seen.setdefault(path, [])
        lines = path.read_bytes().split(b"\n")[:-1]
        now = time.perf_counter()
        points += [(now, json.loads(line)["agent_steps"]) for line in lines[len(points) :]]


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"overhead: {failure}")
