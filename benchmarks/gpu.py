"""Trials on one GPU: a whole trial's time, several trials at once, and what an update is made of.

    python -m benchmarks.gpu [--variant trl-5x] [--at-once 1 2 4 8 16 24] [--steps 4000] [--whole] [--json FILE]

`--at-once` runs as many processes as named side by side on the device, each a trial past its warm-up that starts its
measured steps together with the others; together they make so many agent steps a second. `--whole` runs
`tensorrl train` for 100,000 steps, evaluation included, by the clock on the wall. On a machine without a GPU
`--device cpu` runs the same code there, to see that it works.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contest import save
from benchmarks.throughput import show
from tensorrl import system
from tensorrl.errors import InputError
from tensorrl.trial.run import build_training, make_spec
from tensorrl.trial.training import Training

WARM_UP = 200
SETTLE = 100
"""Updates before what is measured: recordings are made in them."""
PROFILED = 100
PATIENCE = 600.0


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="trl-5x")
    parser.add_argument("--game", default="road_runner")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24], metavar="N")
    parser.add_argument("--steps", type=int, default=4_000, help="measured agent steps of each trial")
    parser.add_argument("--whole", action="store_true", help="also one whole trial of 100,000 steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    device = system.choose_device(options.device)
    figures: dict[str, Any] = {"variant": options.variant, "game": options.game, "device": str(device)}
    figures["update"] = profile_updates(options.variant, options.game, device)
    figures["at_once"] = [at_once(count, options) for count in options.at_once]
    show(
        [
            {
                "trials at once": str(row["trials"]),
                "steps/s together": f"{row['steps_per_second']:.0f}",
                "steps/s each": f"{row['steps_per_second'] / row['trials']:.0f}",
                "device memory, MiB": f"{row['device_bytes'] / 2**20:.0f}",
            }
            for row in figures["at_once"]
        ]
    )
    if options.whole:
        figures["whole_trial_seconds"] = whole_trial(options.variant, options.game, options.device)
        print(f"one trial of 100,000 steps, evaluation included: {figures['whole_trial_seconds']:.0f} s")
    if options.json:
        save(options.json, "gpu", vars(options), figures)


def warm_training(variant: str, game: str, device: torch.device, seed: int) -> Training:
    """A trial whose updates have begun, with the schedules and replay of a whole one."""
    spec = make_spec(game=game, variant=variant, seed=seed, steps=100_000, overrides={"learning_starts": WARM_UP})
    training = build_training(spec, device)
    training.run(WARM_UP + SETTLE)
    return training


def at_once(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Agent steps a second of `count` trials together, and the device memory they take."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    arguments = (options.variant, options.game, options.device, options.steps, barrier, results)
    processes = [context.Process(target=_one_of_many, args=(seed, *arguments)) for seed in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, end, _ in found) - min(start for start, _, _ in found)
    return {
        "trials": count,
        "steps_per_second": count * options.steps / seconds,
        "device_bytes": sum(memory for _, _, memory in found),
    }


def _one_of_many(seed: int, variant: str, game: str, device: str, steps: int, barrier: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    system.keep_freed_memory()
    training = warm_training(variant, game, torch.device(device), seed)
    barrier.wait(PATIENCE)
    start = time.time()
    training.run(steps)
    memory = 0
    if device == "cuda":
        torch.cuda.synchronize()
        memory = torch.cuda.max_memory_reserved()
    results.put((start, time.time(), memory))
    training.game.close()


def profile_updates(variant: str, game: str, device: torch.device) -> dict[str, float]:
    """Prints where an agent step's time goes, and returns milliseconds of a step, of the host's and the device's."""
    training = warm_training(variant, game, device, seed=0)
    start = time.perf_counter()
    training.run(PROFILED)
    if device.type == "cuda":
        torch.cuda.synchronize()
    step = (time.perf_counter() - start) / PROFILED
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        training.run(PROFILED)
    averages = profiler.key_averages()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(averages.table(sort_by=key, row_limit=25, max_name_column_width=60))
    training.game.close()
    return {
        "step_ms": 1e3 * step,
        "device_ms": sum(event.self_device_time_total for event in averages) / PROFILED / 1e3,
    }


def whole_trial(variant: str, game: str, device: str) -> float:
    """Seconds of `tensorrl train` for 100,000 agent steps, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tensorrl", "train", "--game", game, "--variant", variant, "--seed", "0"]
        start = time.perf_counter()
        subprocess.run([*command, "--device", device, "--out", f"{folder}/trial"], check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"gpu: {error}")
