"""What people see while trials run, and the table at their end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tensorrl.cli.tables import print_table

if TYPE_CHECKING:
    from tensorrl.sweeps import CellStatus, SweepStatus

_QUIET_SECONDS = 60.0
"""Where there is no terminal, a sweep's progress is said at least so often."""


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of finished trials."""
    print_table(
        [
            {
                "game": r["game"],
                "variant": r["variant"],
                "seed": r["seed"],
                "coefficients": f"{r['coefficients']:,}",
                "ratio": f"{r['compression_ratio']:.2f}",
                "score": f"{r['score']:.1f}",
                "human-normalised": "" if r["human_normalized"] is None else f"{r['human_normalized']:.3f}",
                "steps/s": f"{r['steps_per_second']:.0f}" if r.get("steps_per_second") else "",
            }
            for r in results
        ]
    )


class _Display:
    """A progress bar on a terminal; a line for each piece of news elsewhere. Always on stderr."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _say(self, text: str) -> None:
        if self._live:
            self._progress.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


class TrainingDisplay(_Display):
    """Steps, steps/s, last return and time left of one trial.

    Args:
        steps: agent steps of the trial.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._task = self._progress.add_task("agent steps", total=steps, news="")
        self._last_return: float | None = None

    def update(self, report: Mapping[str, Any]) -> None:
        """Takes a report of `run_trial`."""
        if "message" in report:
            self._say(str(report["message"]))
            return
        self._last_return = report.get("episode_return", self._last_return)
        news = f"{report['steps_per_second']:.0f} steps/s"
        if self._last_return is not None:
            news += f", return {self._last_return:.1f}"
        if "evaluation_return" in report:
            news += f", evaluation {report['evaluation_return']:.1f}"
        if self._live:
            self._progress.update(self._task, completed=report["agent_steps"], news=news)
        else:
            left = (self._steps - report["agent_steps"]) / max(report["steps_per_second"], 1e-9)
            self._say(f"{report['agent_steps']:>7} of {self._steps} agent steps, {news}, {left:.0f} s left")


class SweepDisplay(_Display):
    """Cells and agent steps done of a sweep, its speed, and the time left.

    Args:
        store: where its cells lie, said first.
    """

    def __init__(self, store: Path) -> None:
        super().__init__()
        self._store: Path | None = store
        self._task: Any = None
        self._said: dict[str, str] = {}
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Takes a line for the user."""
        self._say(text)

    def update(self, rows: Sequence[CellStatus]) -> None:
        """Takes the status of every cell."""
        if self._store is not None:
            self._say(f"store: {self._store}")
            self._store = None
        total, done = sum(row.steps for row in rows), sum(row.agent_steps for row in rows)
        news = progress_news(rows)
        if self._live:
            if self._task is None:
                self._task = self._progress.add_task("agent steps", total=total, news=news)
            self._progress.update(self._task, completed=done, total=total, news=news)
            return
        first = not self._said
        for row in rows:
            before, self._said[row.folder.name] = self._said.get(row.folder.name), row.state
            # What was finished before the sweep began is no news.
            if row.state not in ("waiting", "unfinished", before) and not (first and row.state == "finished"):
                self._say(f"{row.folder.name}: {row.state} ({done} of {total} agent steps, {news})")
                self._spoke = time.monotonic()
        if time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._say(f"{done} of {total} agent steps, {news}")
            self._spoke = time.monotonic()


def progress_news(rows: Sequence[CellStatus]) -> str:
    """Returns how a sweep stands in a few words: cells by state, agent steps a second, time left."""
    from tensorrl.sweeps.store.status import seconds_left, steps_per_second

    counts = {state: sum(row.state == state for row in rows) for state in ("running", "stopped", "failed", "damaged")}
    finished = sum(row.state == "finished" for row in rows)
    parts = [f"{finished} of {len(rows)} cells finished", *(f"{n} {state}" for state, n in counts.items() if n)]
    left = seconds_left(rows)
    if left is not None:
        parts += [f"{steps_per_second(rows):.0f} steps/s", f"{duration(left)} left"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Returns a length of time in words: "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


class StatusDisplay:
    """How a sweep stands, over itself on a terminal and line after line elsewhere."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, status: SweepStatus) -> None:
        """Takes the sweep's status."""
        shown = Group(*_status_lines(status))
        console = Console(highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.print(shown)
            return
        if self._live is None:
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)


def _status_lines(status: SweepStatus) -> list[str]:
    drivers = {
        "running": f"run by {status.where}",
        "waiting": f"waited for by {status.where}",
        "stopped": "was stopped; the same command goes on",
        "ended": "its driver ended",
        "gone": f"its driver is gone ({status.where}); the same command goes on",
        "none": "not run in this store yet",
    }
    done, total = sum(row.agent_steps for row in status.rows), sum(row.steps for row in status.rows)
    lines = [
        f"{status.name}: {drivers[status.driver]}",
        f"{progress_news(status.rows)}, {done:,} of {total:,} agent steps",
    ]
    for row in status.rows:
        if row.state == "running":
            speed = row.steps_per_second
            lines.append(
                f"  running {row.folder.name}: {row.agent_steps:,} of {row.steps:,} agent steps"
                + (f", {speed:.0f} steps/s" if speed else "")
                + (f", failed {row.failures} times before" if row.failures else "")
            )
    lines += [
        f"  {row.state} {row.folder.name}: {' | '.join(row.error) or 'no message'}"
        for row in status.rows
        if row.state in ("failed", "damaged")
    ]
    return [escape(line) for line in lines]


def print_estimate(found: Mapping[str, Any]) -> None:
    """Prints what `tensorrl sweep --check` found."""
    gib = 2**30
    print(
        f"{found['name']}: {found['cells']} cells, {found['finished']} finished in {found['store']}, "
        f"{found['left']} left ({found['steps_left']:,} agent steps)"
    )
    print_table(
        [
            {
                "variant": row["variant"],
                "cells left": row["cells_left"],
                "steps/s": "" if row["steps_per_second"] is None else f"{row['steps_per_second']:.0f}",
                "time": "" if row["seconds"] is None else duration(row["seconds"]),
                "speed from": row["source"],
            }
            for row in found["variants"]
        ]
    )
    for row in found["machines"]:
        gpus = f", {row['gpus']:g} GPUs: {row['trials_per_gpu']} trials on each" if row["gpus"] else ""
        print(
            f"{row['machine']}: {row['cpus']:g} cores, {row['memory'] / gib:.1f} GiB{gpus}: "
            f"{row['trials_at_once']} trials at once"
        )
    print(
        f"each trial: {found['memory_per_trial'] / gib:.2f} GiB of memory"
        + (f", {found['gpu_memory_per_trial'] / gib:.2f} GiB of a GPU's" if found["gpu_memory_per_trial"] else "")
        + f"; all: {found['disk'] / gib:.2f} GiB of disk"
    )
    if found["hours"] is None:
        print("time: cannot be estimated" + ("" if found["at_once"] else " (no machine that runs trials is there yet)"))
    else:
        print(f"time: about {duration(found['hours'] * 3600)} with {found['at_once']} at once")
