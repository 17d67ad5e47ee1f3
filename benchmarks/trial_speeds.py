"""Speed and memory of each variant, as `tensorrl sweep --check` reckons with them: writes `trial_speeds.csv`.

    python -m benchmarks.trial_speeds                 # every variant on one CPU core
    python -m benchmarks.trial_speeds --device cuda   # the same on a GPU; rows of the other device stay

Each variant runs in a process of its own: past a short warm-up, then three times 120 agent steps with an update each.
On the CPU a step's processor time counts, so that a machine which does other things too gives the rate of a free core.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import tensorrl
from tensorrl.trial.variants import VARIANTS

TABLE = Path(tensorrl.__file__).parent / "data" / "trial_speeds.csv"
FIELDS = ("device", "variant", "steps_per_second", "memory_mib", "gpu_memory_mib", "source")
STEPS = 100_000
WARM_UP, WINDOW, WINDOWS = 300, 120, 3
MIB = 2**20


def measure(variant: str, device: str, game: str) -> dict[str, float]:
    """Runs one variant in this process."""
    import torch

    from tensorrl import system
    from tensorrl.trial.run import build_training, make_spec

    system.use_threads(1)
    system.keep_freed_memory()
    overrides = {"learning_starts": WARM_UP, "epsilon_start": 0.01, "epsilon_end": 0.01, "update_interval": 1}
    spec = make_spec(game=game, variant=variant, steps=STEPS, overrides=overrides, device=device)
    training = build_training(spec, torch.device(device))
    clock = time.process_time if device == "cpu" else time.perf_counter
    training.run(WARM_UP + WINDOW // 2)
    rates = []
    for _ in range(WINDOWS):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = clock()
        training.run(WINDOW)
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(WINDOW / (clock() - begin))
    # Replay takes memory as it is written: so far a frame for each step.
    frame = training.replay.frames[0]
    replay = training.steps * frame.numel() * frame.element_size() if device == "cpu" else 0
    free, total = torch.cuda.mem_get_info() if device == "cuda" else (0, 0)
    return {
        "steps_per_second": statistics.median(rates),
        "memory_mib": (system.peak_memory_bytes() - replay) / MIB,
        "gpu_memory_mib": (total - free) / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.device, given.game)))
        return
    from tensorrl import system

    rows = {}
    if given.out.exists():
        with given.out.open(newline="", encoding="utf-8") as file:
            rows = {(row["device"], row["variant"]): row for row in csv.DictReader(file)}
    about = system.machine()
    machine = f"{about.get('gpu', about['cpu'])}, PyTorch {system.versions()['torch']}"
    for variant in given.variants:
        command = [sys.executable, "-m", "benchmarks.trial_speeds", "--one", variant, "--device", given.device]
        done = subprocess.run([*command, "--game", given.game], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows[given.device, variant] = {
            "device": given.device,
            "variant": variant,
            **{name: f"{value:.1f}" for name, value in found.items()},
            "source": f"{WINDOWS} x {WINDOW} agent steps on {given.game}, one thread, {machine}",
        }
        print(rows[given.device, variant], flush=True)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


if __name__ == "__main__":
    main()
