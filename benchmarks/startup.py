"""Start-up: the command's help, and a trial's first step beside stock RLlib's, in turn.

    python -m benchmarks.startup [--rounds 5] [--json FILE]

Timed from the start of a fresh interpreter: `tensorrl --help` to its end; `tensorrl train` until its report of the
first agent step is on disk, with everything a trial sets up (MLflow's record, the emulator, replay); stock RLlib until
its algorithm is built (it has played nothing yet). Both start as a user starts them, with nothing running beforehand.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT, Spread, environment, ratio, save

STEPS = 20
"""Agent steps of the trial: so few that it reports after every one."""
PATIENCE = 600.0
PACKAGES = ("torch", "ray", "ray.rllib", "mlflow")


class NeverStarted(Exception):
    """A command ended, or took too long, before it had got to what is timed."""


def main() -> None:
    options = parse(sys.argv[1:])
    subjects: dict[str, Callable[[], float]] = {
        "tensorrl --help": help_seconds,
        "tensorrl train, to the first step": first_step_seconds,
    }
    if not options.no_rllib:
        subjects["stock RLlib, to a built algorithm"] = rllib_seconds
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(options.rounds + 1):
        for name, measure in subjects.items():
            elapsed = measure()
            if number > 0:  # The first round fills the disk's cache.
                seconds[name].append(elapsed)
    figures: dict[str, Any] = {name: asdict(Spread.of(values)) for name, values in seconds.items()}
    for name, values in seconds.items():
        spread = Spread.of(values)
        print(f"{name:36} {spread.median:7.2f} s ({spread.lowest:.2f}-{spread.highest:.2f})")
    if not options.no_rllib:
        names = list(subjects)
        relative = ratio(seconds[names[1]], seconds[names[2]])
        figures["first step over built algorithm"] = asdict(relative)
        print(f"first step over built algorithm      {relative.median:7.2f}")
    loaded = packages_loaded_by_help()
    figures["loaded by --help"] = loaded
    print(f"of {', '.join(PACKAGES)}, --help loads: {', '.join(loaded) or 'none'}")
    if options.json is not None:
        save(options.json, "startup", vars(options), figures)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="starts of each, after one that is not counted (default: 5)")
    parser.add_argument("--no-rllib", action="store_true", help="ours alone")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def help_seconds() -> float:
    """Seconds of `tensorrl --help`."""
    start = time.perf_counter()
    subprocess.run(_tensorrl("--help"), env=_environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def packages_loaded_by_help() -> list[str]:
    """Which of `PACKAGES` the help loads, though it needs none."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(*[p for p in {PACKAGES!r} if p in sys.modules], sep=',', file=sys.stderr))\n"
        "sys.argv = ['tensorrl', '--help']\n"
        "from tensorrl.cli.app import main\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True
    )
    return [name for name in ran.stderr.strip().split(",") if name]


def first_step_seconds() -> float:
    """Seconds until `tensorrl train` has its first agent step on disk.

    Raises:
        NeverStarted: it ended before, or took longer than `PATIENCE`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        progress = Path(folder) / "run" / "progress.jsonl"
        command = _tensorrl("train", "--game", "pong", "--steps", str(STEPS), "--out", str(progress.parent))
        return _seconds_until(command, Path(folder), lambda _: progress.exists() and progress.stat().st_size > 0)


def rllib_seconds() -> float:
    """Seconds until stock RLlib has built its algorithm.

    Raises:
        NeverStarted: it ended before, or took longer than `PATIENCE`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "benchmarks.peers.rllib"]
        return _seconds_until(command, ROOT, lambda said: b"built\n" in said.read_bytes(), Path(folder))


def _seconds_until(
    command: Sequence[str], cwd: Path, reached: Callable[[Path], bool], logs: Path | None = None
) -> float:
    """Starts a command, waits until `reached` (given the file its stdout goes to), and ends it."""
    said = (logs or cwd) / "said"
    with said.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=_environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not reached(said):
                if process.poll() is not None and not reached(said):
                    raise NeverStarted(f"{' '.join(command)}: {said.read_text(errors='replace')[-500:]}")
                if time.perf_counter() - start > PATIENCE:
                    raise NeverStarted(f"{' '.join(command)}: nothing after {PATIENCE:.0f} s")
                time.sleep(0.005)
            return time.perf_counter() - start
        finally:
            end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a process with all that it started in its session, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                continue


def _tensorrl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tensorrl", *arguments]


def _environment() -> dict[str, str]:
    # A tracking server of the user's must not be written to, nor waited for.
    kept = {name: value for name, value in environment(os.cpu_count() or 1).items() if name != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


if __name__ == "__main__":
    try:
        main()
    except NeverStarted as failure:
        sys.exit(f"startup: {failure}")
