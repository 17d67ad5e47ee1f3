"""What people see while trials run, and the table at their end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tensorrl.tables import print_table

if TYPE_CHECKING:
    from tensorrl.sweeps import CellStatus


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
                "human-normalised": f"{r['human_normalized']:.3f}",
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
    """Trials finished and agent steps done of a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self._task: Any = None
        self._said: dict[str, str] = {}

    def update(self, rows: Sequence[CellStatus]) -> None:
        """Takes the status of every trial."""
        total, done = sum(row.steps for row in rows), sum(row.agent_steps for row in rows)
        counts = {state: sum(row.state == state for row in rows) for state in ("finished", "running", "failed")}
        speed = sum(row.figures.get("steps_per_second", 0.0) for row in rows if row.state == "running")
        news = ", ".join(f"{number} {state}" for state, number in counts.items() if number) + f", {speed:.0f} steps/s"
        if self._live:
            if self._task is None:
                self._task = self._progress.add_task("agent steps", total=total, news=news)
            self._progress.update(self._task, completed=done, news=news)
            return
        for row in rows:
            if self._said.get(row.folder.name) != row.state and row.state != "waiting":
                self._said[row.folder.name] = row.state
                self._say(f"{row.folder.name}: {row.state} ({done} of {total} agent steps, {news})")
