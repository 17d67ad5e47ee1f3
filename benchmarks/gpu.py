"""One stage of what `benchmarks/gpu.sh` measures on a GPU; its figures are written as soon as they are there.

    python -m benchmarks.gpu STAGE [VARIANT] --out FOLDER [--mps] [--trials N…] [--small]

machine: versions, the card, whether NVIDIA's MPS is there. tests: those marked `gpu`, by file. trial: one trial, each
part of its steps timed apart. profile: where the device's time goes. together: 1, 4 and 16 trials at once (with
--mps 16). whole: a trial of 100,000 steps, training and evaluation apart. --small: the same on a CPU in a few steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tensorrl import files, system
from tensorrl.errors import InputError
from tensorrl.sweeps.driver import mps
from tensorrl.trial.run import build_training, make_spec, run_trial
from tensorrl.trial.training import Training

GAME = "road_runner"
TESTS = ("tests/learning/test_step.py", "tests/learning/test_recording.py")
WARM_UP = 200
SETTLE = 100
"""Updates before what is measured: recordings are made in them."""
PATIENCE = 60.0
"""Seconds that trials which are ready wait for the others."""
PARTS = (
    ("look", "agent", "look"),
    ("act", "agent", "act"),
    ("send", "game", "send"),
    ("learn", "agent", "update"),
    ("priorities", "replay", "update_priorities"),
    ("receive", "game", "receive"),
    ("add", "replay", "add"),
)


def main(arguments: list[str] | None = None) -> None:
    """Runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "one-of-many"))
    parser.add_argument("variant", nargs="?", default="trl-5x")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--mps", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--trials", type=int, nargs="+", metavar="N", help="of `together`: how many at once")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.device = system.choose_device("cpu" if options.small else "cuda")
    torch.set_num_threads(1)
    system.keep_freed_memory()
    if options.stage == "one-of-many":
        one_of_many(options)
    else:
        STAGES[options.stage](options)


def keep(options: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    """Writes a stage's figures, whole, and prints them."""
    about = {"stage": name, "device": str(options.device), "small": options.small}
    files.write_json(options.out / f"{name}.json", {**about, **figures})
    print(json.dumps({name: figures}), flush=True)


def machine(options: argparse.Namespace) -> None:
    """What this is measured on."""
    smi = shutil.which("nvidia-smi")
    said = subprocess.run([smi], capture_output=True, text=True, timeout=20).stdout if smi else None
    figures = {"machine": system.machine(), "versions": system.versions(), "commit": system.commit()}
    keep(options, "machine", {**figures, "nvidia_smi": said, "mps": shutil.which(mps.CONTROL) is not None})


def tests(options: argparse.Namespace) -> None:
    """The tests marked `gpu`, by file name: other files may want packages that are not here."""
    chosen = ["-k", "before_anything"] if options.small else ["-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-q", *chosen, *TESTS]
    start = time.perf_counter()
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    figures = {"exit_code": ran.returncode, "seconds": time.perf_counter() - start, "output": ran.stdout[-8_000:]}
    keep(options, "tests", figures)
    if ran.returncode:
        sys.exit(f"gpu: tests ended with exit code {ran.returncode}")


def warm_training(options: argparse.Namespace, seed: int) -> Training:
    """A trial whose updates have begun, with the schedules and replay of a whole one."""
    steps = 2_000 if options.small else 100_000
    warm_up = 40 if options.small else WARM_UP
    spec = make_spec(game=GAME, variant=options.variant, seed=seed, steps=steps, overrides={"learning_starts": warm_up})
    training = build_training(spec, options.device)
    training.run(warm_up + (5 if options.small else SETTLE))
    return training


def settled(options: argparse.Namespace) -> None:
    """Waits for the device."""
    if options.device.type == "cuda":
        torch.cuda.synchronize()


def trial(options: argparse.Namespace) -> None:
    """One trial: steps a second, and milliseconds that the host spends in each part of a step."""
    training = warm_training(options, seed=0)
    steps = 20 if options.small else 2_000
    settled(options)
    start = time.perf_counter()
    training.run(steps)
    settled(options)
    rate = steps / (time.perf_counter() - start)
    spent = dict.fromkeys((label for label, _, _ in PARTS), 0.0)

    def timed(label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[label] += time.perf_counter() - begun

        return call

    for label, owner, name in PARTS:
        holder = getattr(training, owner)
        setattr(holder, name, timed(label, getattr(holder, name)))
    training.run(steps)
    training.close()
    parts = {label: 1e3 * seconds / steps for label, seconds in spent.items()}
    keep(options, f"trial-{options.variant}", {"steps_per_second": rate, "host_ms": parts, "memory": memory(options)})


def memory(options: argparse.Namespace) -> dict[str, int] | None:
    """Bytes of the card in use, contexts of all processes included, and of this process's tensors."""
    if options.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    return {"card": total - free, "reserved": torch.cuda.max_memory_reserved()}


def profile_steps(options: argparse.Namespace) -> None:
    """Milliseconds of kernels in a step, by kernel: those on the device alone, so that none counts twice."""
    training = warm_training(options, seed=0)
    steps = 5 if options.small else 100
    cuda = options.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        training.run(steps)
        settled(options)
    training.close()
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    spent: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == kind:
            own = event.device_time_total if cuda else event.self_cpu_time_total
            spent[event.name] = spent.get(event.name, 0.0) + own / steps / 1e3
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    keep(options, "profile", {"device_ms": sum(spent.values()), "kernels": dict(ordered[:30])})


def together(options: argparse.Namespace) -> None:
    """Agent steps a second of several trials at once."""
    if options.mps and not options.small and shutil.which(mps.CONTROL) is None:
        keep(options, "together-mps", {"skipped": f"{mps.CONTROL} is not here"})
        return
    counts = options.trials or ((1, 2) if options.small else (16,) if options.mps else (1, 4, 16))
    with mps.daemon() if options.mps and not options.small else nullcontext():
        for count in counts:
            name = f"together-{count}{'-mps' if options.mps else ''}"
            keep(options, name, at_once(options, count))


def at_once(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Starts trials that wait for each other, up to a deadline, and adds up what those that live do."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [sys.executable, "-m", "benchmarks.gpu", "one-of-many", options.variant, "--out", folder]
        command += ["--small"] if options.small else []
        children = [subprocess.Popen([*command, "--seed", str(seed)]) for seed in range(count)]
        try:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                alive = sum(child.poll() is None for child in children)
                if len(list(place.glob("ready-*"))) >= alive:
                    break
                time.sleep(0.05)
            files.write_text(place / "go", "")
            deadline = time.monotonic() + PATIENCE
            for child in children:
                # Those that take longer are ended, and the others' figures kept.
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        found = [json.loads(path.read_text()) for path in sorted(place.glob("done-*"))]
    if not found:
        return {"trials": count, "finished": 0}
    seconds = max(row["end"] for row in found) - min(row["start"] for row in found)
    return {
        "trials": count,
        "finished": len(found),
        "steps_per_second": sum(row["steps"] for row in found) / seconds,
        "memory": [row["memory"] for row in found],
        "cores": len(os.sched_getaffinity(0)),
    }


def one_of_many(options: argparse.Namespace) -> None:
    """A trial that gets ready, waits for the word, and says when it began and ended."""
    training = warm_training(options, options.seed)
    settled(options)
    files.write_text(options.out / f"ready-{options.seed}", "")
    deadline = time.monotonic() + 2 * PATIENCE
    while not (options.out / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    most, steps, start = 20 if options.small else 1_500, 0, time.time()
    while steps < most and time.time() - start < PATIENCE / 2:
        training.run(20)
        steps += 20
    settled(options)
    figures = {"start": start, "end": time.time(), "steps": steps, "memory": memory(options)}
    files.write_json(options.out / f"done-{options.seed}", figures)
    training.close()


def whole(options: argparse.Namespace) -> None:
    """A whole trial as `tensorrl train` runs it, without MLflow; the report so far is kept where it does not end."""
    steps = 200 if options.small else 100_000
    threads = 1 if options.small else min(16, len(os.sched_getaffinity(0)))
    few = {"learning_starts": 40, "final_episodes": 1}
    device = options.device.type
    spec = make_spec(
        game=GAME, variant=options.variant, seed=0, steps=steps, overrides=few if options.small else {}, device=device,
        threads=threads,
    )  # fmt: skip
    start = time.perf_counter()

    def report(line: dict[str, Any]) -> None:
        if "agent_steps" in line:
            so_far = {"finished": False, "seconds": time.perf_counter() - start, **line}
            files.write_json(options.out / "whole.json", {"stage": "whole", **so_far}, sync=False)

    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(spec, Path(folder) / "trial", on_report=report)
    seconds = time.perf_counter() - start
    figures = {"steps": steps, "seconds": seconds, "training_seconds": result["training_seconds"]}
    rest = {"evaluation_and_rest_seconds": seconds - result["training_seconds"], "score": result["score"]}
    keep(options, "whole", {"finished": True, **figures, **rest, "final_score": result["final_score"]})


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "machine": machine,
    "tests": tests,
    "trial": trial,
    "profile": profile_steps,
    "together": together,
    "whole": whole,
}

if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"gpu: {error}")
