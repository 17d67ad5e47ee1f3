"""Contestants in processes of their own, measured in turn.

A contestant is built once, in a fresh process with its number of threads set before anything is imported. It warms up,
then waits; the contest asks one after the other for a window of agent steps, round after round (A B C A B C), so that
whatever else the machine does falls on all alike. A waiting contestant blocks on its input and takes no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

ROOT = Path(__file__).parent.parent
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Contestant(Protocol):
    """What takes part: something that does agent steps, each with one update of a batch of 32 once it has warmed up."""

    @property
    def coefficients(self) -> int:
        """Learned coefficients; known once it has made an update."""

    def advance(self, steps: int) -> None:
        """Does at least `steps` agent steps."""

    def counts(self) -> tuple[int, int]:
        """Agent steps and updates since it was built."""

    def close(self) -> None:
        """Ends what it started."""


class ContestantFailed(Exception):
    """A contestant's process ended, or answered with an error; the message says which and why."""


@dataclass(frozen=True)
class Window:
    """What one window of steps took.

    Attributes:
        steps: agent steps done.
        updates: updates done.
        seconds: wall-clock time.
        cpu_seconds: processor time of the contestant's process, all its threads.
        peak_bytes: its largest resident set so far.
        foreign_cores: cores that everything else on the machine kept busy meanwhile; None where that is not known.
    """

    steps: int
    updates: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    foreign_cores: float | None = None

    @property
    def steps_per_second(self) -> float:
        """Agent steps a second."""
        return self.steps / self.seconds

    @property
    def updates_per_second(self) -> float:
        """Updates a second."""
        return self.updates / self.seconds


class Entrant:
    """A contestant's process, from outside; a context manager that ends it.

    Args:
        name: which contestant, as `benchmarks.worker` knows it.
        threads: of its CPU operators.
        game: what it plays.
        warm_up: agent steps before its first update.
        seed: of everything it draws.
        checkout: a peer's source, where the contestant needs one.
    """

    def __init__(
        self, name: str, *, threads: int, game: str, warm_up: int, seed: int = 0, checkout: Path | None = None
    ) -> None:
        self.name, self.threads = name, threads
        command = [sys.executable, "-m", "benchmarks.worker", name]
        for option, value in (("threads", threads), ("game", game), ("warm-up", warm_up), ("seed", seed)):
            command += [f"--{option}", str(value)]
        if checkout is not None:
            command += ["--checkout", str(checkout)]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        try:
            ready = self._answer()
        except ContestantFailed:
            self.close()
            raise
        self.coefficients: int = ready["coefficients"]
        self.torch_threads: int = ready["torch_threads"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(patience=30.0 if kind is None else 0.0)

    def window(self, steps: int) -> Window:
        """Has it do `steps` agent steps and returns what they took.

        Raises:
            ContestantFailed: it could not.
        """
        self.begin_window(steps)
        return self.end_window()

    def begin_window(self, steps: int) -> None:
        """Asks for a window without waiting for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._answer()

    def end_window(self) -> Window:
        """Waits for the window asked for."""
        return Window(**self._answer())

    def close(self, patience: float = 30.0) -> None:
        """Ends the process: asks, and kills it after `patience` seconds."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = [text for text in self._log.read().splitlines() if text.strip()]
            raise ContestantFailed(f"{self.name}: {said[-1] if said else f'exit status {self._process.returncode}'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(f"{self.name}: {answer['error']}")
        return answer


def environment(threads: int) -> dict[str, str]:
    """The environment of a process whose CPU operators take `threads` threads and which sees no GPU."""
    changes = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return {
        **os.environ,
        **changes,
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Processor time that the whole machine has spent, in core seconds; None where the system does not say."""
    try:
        fields = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spread:
    """A figure over rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sums values up.

        Raises:
            ValueError: there are none.
        """
        if not values:
            raise ValueError("no values")
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.lowest:.1f}-{self.highest:.1f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The figure of one contestant over another's, round by round, so that what slows a round slows both."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.thread_time}


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of a clock; "cpu" is the calling thread's own time, for machines that do other work besides."""
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: time of one thread, where others use the machine too",
    )


def save(path: Path, benchmark: str, options: Mapping[str, Any], figures: Any) -> None:
    """Writes figures with what they depend on: machine, load, versions, commit and options."""
    from importlib import metadata

    from tensorrl import system

    versions = system.versions()
    for package in ("stable-baselines3", "tensorly-torch", "curvlinops-for-pytorch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    document = {
        "benchmark": benchmark,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": system.machine(),
        "load_average": list(os.getloadavg()),
        "versions": versions,
        "commit": system.commit(),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def as_plain(window: Window) -> dict[str, Any]:
    """A window as JSON holds it."""
    return asdict(window)
