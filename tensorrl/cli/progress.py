"""Progress displays for running trials: a bar on a terminal, lines elsewhere, always with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from tensorrl.sweeps.store.status import seconds_left, steps_per_second
from tensorrl.trial.time_left import TimeLeft

if TYPE_CHECKING:
    from tensorrl.trial.cell import CellStatus

_QUIET_SECONDS = 60.0
"""The longest time between two progress lines where there is no terminal, in seconds."""


def duration(seconds: float) -> str:
    """Returns a duration as text: "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def time_left(seconds: float | None) -> str:
    """Returns the estimate of the remaining time as text: "about 12 min left"."""
    return "time left: not known yet" if seconds is None else f"about {duration(seconds)} left"


class _Display:
    """A progress bar on a terminal; one line per change elsewhere. Always on stderr.

    The bar only appears with the first update, so an early error is printed without a bar.
    """

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._live = console.is_terminal
        self._started = False
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            # On a narrow terminal this column is cut first.
            TextColumn("{task.fields[news]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._progress.stop()

    def _say(self, text: str) -> None:
        if self._live:
            self._progress.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _draw(self, task: TaskID | None, what: str, *, done: int, total: int, news: str, left: str) -> TaskID:
        """Updates a bar, or adds it if it does not exist yet."""
        if not self._started:
            self._progress.start()
            self._started = True
        if task is None:
            task = self._progress.add_task(what, total=total, news=news, left=left)
        self._progress.update(task, completed=done, total=total, news=news, left=left)
        return task


class TrainingDisplay(_Display):
    """Shows the steps, steps/s, last return and time left of one trial.

    Args:
        steps: the trial's length in agent steps.
        final_episodes: the setting of that name.
    """

    def __init__(self, steps: int, final_episodes: int) -> None:
        super().__init__()
        self._steps = steps
        self._estimate = TimeLeft(steps, final_episodes)
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._last_return: float | None = None
        self._spoke = time.monotonic()

    def update(self, report: Mapping[str, Any]) -> None:
        """Takes a report of `run_trial`."""
        now = time.monotonic()
        if "message" in report:
            self._say(str(report["message"]))
        elif "final_games" in report:
            self._evaluated(report["final_games"], report["of"], now)
        else:
            self._trained(report, now)

    def _trained(self, report: Mapping[str, Any], now: float) -> None:
        self._estimate.update(report, now)
        self._last_return = report.get("episode_return", self._last_return)
        news = f"{report['steps_per_second']:.0f} steps/s"
        if self._last_return is not None:
            news += f", return {self._last_return:.1f}"
        if "evaluation_return" in report:
            news += f", evaluation {report['evaluation_return']:.1f}"
        done, left = report["agent_steps"], time_left(self._estimate.seconds)
        if self._live:
            counted = f"{done:,}/{self._steps:,}"
            self._training = self._draw(
                self._training, "training", done=done, total=self._steps, news=f"{counted}  {news}", left=left
            )
        else:
            self._say(f"{done:>7} of {self._steps} agent steps, {news}, {left}")

    def _evaluated(self, games: int, total: int, now: float) -> None:
        self._estimate.played(games, total, now)
        left = time_left(self._estimate.seconds)
        if self._live:
            if self._training is not None:
                # Only one estimate is shown; from now on the bar below shows it.
                self._progress.update(self._training, left="")
            self._evaluation = self._draw(
                self._evaluation, "evaluating", done=games, total=total, news=f"{games}/{total} games", left=left
            )
        elif games == 0:
            self._say(f"playing {total} games to evaluate the final network, {left}")
        elif now - self._spoke > _QUIET_SECONDS:
            self._say(f"{games} of {total} games, {left}")
            self._spoke = now


class GamesDisplay(_Display):
    """Shows how many games of an evaluation are played, and the time left.

    Args:
        games: number of games to play.
    """

    def __init__(self, games: int) -> None:
        super().__init__()
        self._games, self._began = games, time.monotonic()
        self._task: TaskID | None = None
        self._spoke = self._began

    def update(self, games: int) -> None:
        """Takes the number of games that have ended."""
        now = time.monotonic()
        seconds = (now - self._began) / games * (self._games - games) if games else None
        if self._live:
            news = f"{games}/{self._games} games"
            self._task = self._draw(
                self._task, "evaluating", done=games, total=self._games, news=news, left=time_left(seconds)
            )
        elif now - self._spoke > _QUIET_SECONDS:
            self._say(f"{games} of {self._games} games, {time_left(seconds)}")
            self._spoke = now


class SweepDisplay(_Display):
    """Shows a sweep's finished cells and agent steps, its speed, and the time left.

    Args:
        store: the folder of its cells, printed first.
    """

    def __init__(self, store: Path) -> None:
        super().__init__()
        self._store: Path | None = store
        self._task: TaskID | None = None
        self._said: dict[str, str] = {}
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line for the user."""
        self._say(text)

    def update(self, rows: Sequence[CellStatus]) -> None:
        """Takes the status of every cell."""
        if self._store is not None:
            self._say(f"store: {self._store}")
            self._store = None
        total, done = sum(row.steps for row in rows), sum(row.agent_steps for row in rows)
        if self._live:
            left = time_left(seconds_left(rows))
            self._task = self._draw(self._task, "sweep", done=done, total=total, news=_short_news(rows), left=left)
            return
        news = progress_news(rows)
        first = not self._said
        for row in rows:
            before, self._said[row.folder.name] = self._said.get(row.folder.name), row.state
            # Cells that were finished before the sweep began are not reported.
            if row.state not in ("waiting", "unfinished", before) and not (first and row.state == "finished"):
                self._say(f"{row.folder.name}: {row.state} ({done} of {total} agent steps, {news})")
                self._spoke = time.monotonic()
        if time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._say(f"{done} of {total} agent steps, {news}")
            self._spoke = time.monotonic()


def progress_news(rows: Sequence[CellStatus]) -> str:
    """Returns a sweep's status in a few words: cells by state, agent steps per second, time left."""
    finished = sum(row.state == "finished" for row in rows)
    parts = [f"{finished} of {len(rows)} cells finished", *_counts(rows)]
    if any(row.state == "running" for row in rows):
        parts += [f"{steps_per_second(rows):.0f} steps/s", time_left(seconds_left(rows))]
    return ", ".join(parts)


def _short_news(rows: Sequence[CellStatus]) -> str:
    finished = sum(row.state == "finished" for row in rows)
    return ", ".join([f"{finished}/{len(rows)} cells", *_counts(rows), f"{steps_per_second(rows):.0f} steps/s"])


def _counts(rows: Sequence[CellStatus]) -> list[str]:
    counts = {state: sum(row.state == state for row in rows) for state in ("running", "stopped", "failed", "damaged")}
    return [f"{number} {state}" for state, number in counts.items() if number]
