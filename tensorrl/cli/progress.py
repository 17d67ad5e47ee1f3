"""What people see while trials run: a bar on a terminal, lines elsewhere, always with the time that is left."""

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
"""Where there is no terminal, progress is said at least so often."""


def duration(seconds: float) -> str:
    """Returns a length of time in words: "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def time_left(seconds: float | None) -> str:
    """Returns the one estimate of a long work: "about 12 min left"."""
    return "time left: not known yet" if seconds is None else f"about {duration(seconds)} left"


class _Display:
    """A progress bar on a terminal; a line for each piece of news elsewhere. Always on stderr.

    Nothing is drawn before there is something to tell: an error that comes first stands alone.
    """

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._live = console.is_terminal
        self._started = False
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            # On a narrow terminal the news is cut first.
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
        """Draws a bar, a new one where there is none yet."""
        if not self._started:
            self._progress.start()
            self._started = True
        if task is None:
            task = self._progress.add_task(what, total=total, news=news, left=left)
        self._progress.update(task, completed=done, total=total, news=news, left=left)
        return task


class TrainingDisplay(_Display):
    """Steps, steps/s, last return and time left of one trial.

    Args:
        steps: agent steps of the trial.
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
                # One estimate: the bar below has it now.
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
    """Games played of an evaluation, and the time left.

    Args:
        games: to play.
    """

    def __init__(self, games: int) -> None:
        super().__init__()
        self._games, self._began = games, time.monotonic()
        self._task: TaskID | None = None
        self._spoke = self._began

    def update(self, games: int) -> None:
        """Takes how many games are over."""
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
    """Cells and agent steps done of a sweep, its speed, and the time left.

    Args:
        store: where its cells lie, said first.
    """

    def __init__(self, store: Path) -> None:
        super().__init__()
        self._store: Path | None = store
        self._task: TaskID | None = None
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
        if self._live:
            left = time_left(seconds_left(rows))
            self._task = self._draw(self._task, "sweep", done=done, total=total, news=_short_news(rows), left=left)
            return
        news = progress_news(rows)
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
