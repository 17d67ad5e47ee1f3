"""What a change costs a sweep's cell: its start and its steps, beside another checkout's, in turn.

    python -m benchmarks.cell --other CHECKOUT/.venv/bin/tensorrl [--steps 4000] [--rounds 5] [--json FILE]

Each round runs a sweep of one cell by each checkout's `tensorrl sweep`, and interrupts it after `--steps` agent steps.
The cell's process is watched from outside. It reports every 1,000 agent steps, as a cell of 100,000 does. Its start
lasts from its creation to its first report, until which it acts and does not learn. Its rate is that of the reports
after it. Both are counted on the wall clock and in processor time of the process with all its threads; on a machine
that does other work only processor time means something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.contest import ROOT, Spread, environment, ratio, save

LEARNING_STARTS = 1_000
"""Agent steps until the first report, in which the cell does not learn."""
LENGTH = 100_000
"""Agent steps that the cell would take if it was not interrupted; it sets how often the cell reports."""
PATIENCE = 1_800.0
SWEEP = """
name: cell
games: [pong]
variants: [{variant}]
seeds: 1
steps: {steps}
settings: {{learning_starts: {learning_starts}, epsilon_decay: 200}}
evaluation: {{final_episodes: 1, epsilon: 1.0}}
resources: {{gpus: 0, cpus: 1}}
"""


class Failed(Exception):
    """A sweep ended, or took too long, before what is timed was done."""


@dataclass(frozen=True)
class Cell:
    """What one cell took.

    Attributes:
        start: seconds from the creation of its process to its first report.
        start_cpu: processor time until then, in seconds.
        rate: agent steps a second while it learns.
        cpu_rate: agent steps a second of processor time while it learns.
    """

    start: float
    start_cpu: float
    rate: float
    cpu_rate: float


def main() -> None:
    options = parse(sys.argv[1:])
    sides = {"this": [sys.executable, "-m", "tensorrl"], "other": [str(options.other)]}
    found: dict[str, list[Cell]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in sorted(sides, reverse=number % 2 == 1):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                found[side].append(measure(sides[side], Path(folder), options))
            print(f"round {number + 1}, {side}: {found[side][-1]}", file=sys.stderr, flush=True)
    for name in ("start", "start_cpu"):
        this, other = ([getattr(cell, name) for cell in found[side]] for side in ("this", "other"))
        more = statistics.median(mine - theirs for mine, theirs in zip(this, other, strict=True))
        print(f"{name:10} this {Spread.of(this)} s, other {Spread.of(other)} s, median difference {more:+.2f} s")
    for name in ("rate", "cpu_rate"):
        this, other = ([getattr(cell, name) for cell in found[side]] for side in ("this", "other"))
        relative = ratio(this, other)
        print(
            f"{name:10} this {Spread.of(this)} steps/s, other {Spread.of(other)}, "
            f"ratio {relative.median:.3f} ({relative.lowest:.3f}-{relative.highest:.3f})"
        )
    if options.json is not None:
        save(options.json, "cell", vars(options), {side: [asdict(cell) for cell in found[side]] for side in sides})


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, metavar="FILE", help="the other checkout's `tensorrl`")
    parser.add_argument("--variant", default="denoised", help="what the cell trains (default: denoised)")
    parser.add_argument("--steps", type=int, default=4_000, help="agent steps until it is interrupted (default: 4,000)")
    parser.add_argument("--rounds", type=int, default=5, help="cells of each side (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    if not 2 * LEARNING_STARTS <= options.steps < LENGTH:
        parser.error(f"--steps {options.steps}: from {2 * LEARNING_STARTS} to {LENGTH - 1}, so that it learns a while")
    return options


def measure(command: Sequence[str], folder: Path, options: argparse.Namespace) -> Cell:
    """Runs a sweep of one cell and watches its process.

    Raises:
        Failed: it ended before, or took longer than `PATIENCE`.
    """
    file, store, log = folder / "cell.yaml", folder / "store", folder / "log"
    file.write_text(SWEEP.format(variant=options.variant, steps=LENGTH, learning_starts=LEARNING_STARTS))
    kept = {name: value for name, value in environment(1).items() if name != "MLFLOW_TRACKING_URI"}
    # This checkout's code is found in its folder; another's is installed where its command is.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])) if len(command) > 1 else ""
    with log.open("wb") as said:
        driver = subprocess.Popen(
            [*command, "sweep", str(file), "--out", str(store)],
            cwd=folder, env=kept | {"PYTHONPATH": path}, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        return _watch(driver, store, options.steps)
    except Failed as failure:
        raise Failed(f"{' '.join(command)}: {failure}: {log.read_text(errors='replace')[-500:]}") from None
    finally:
        if driver.poll() is None:
            driver.terminate()
            driver.wait()


def _watch(driver: subprocess.Popen[bytes], store: Path, enough: int) -> Cell:
    began, trained = time.monotonic(), None
    seen: list[tuple[int, float, float]] = []
    while driver.poll() is None and (not seen or seen[-1][0] < enough):
        if time.monotonic() - began > PATIENCE:
            raise Failed(f"nothing after {PATIENCE:.0f} s")
        steps = _reported(store)
        if steps > (seen[-1][0] if seen else 0):
            trained = trained or _cell_process(driver)
            try:
                times = trained.cpu_times()
            except psutil.NoSuchProcess:
                break
            seen.append((steps, time.time(), times.user + times.system))
        time.sleep(0.02)
    learning = [point for point in seen if point[0] >= LEARNING_STARTS]
    if not learning or learning[-1][0] < enough:
        raise Failed("it ended early")
    (first, at, cpu), (last, until, cpu_until) = learning[0], learning[-1]
    steps, started, start_cpu = seen[0]
    return Cell(
        start=started - trained.create_time(),
        start_cpu=start_cpu,
        rate=(last - first) / (until - at),
        cpu_rate=(last - first) / (cpu_until - cpu),
    )


def _reported(store: Path) -> int:
    """Agent steps of the cell's last report in training; 0 before its first."""
    for progress in store.glob("*/progress.jsonl"):
        lines = [json.loads(line) for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return max((line["agent_steps"] for line in lines if "evaluation_return" not in line), default=0)
    return 0


def _cell_process(driver: subprocess.Popen[bytes]) -> psutil.Process:
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    raise Failed("its process cannot be found")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"cell: {failure}")
