"""Estimates a trial's remaining time from the remaining agent steps and evaluation games, the final ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorrl.trial.spec import FULL_STEPS

GAME_SECONDS = 1.5
"""Seconds a game of an evaluation, until one was measured. From whole trials of 100k steps on RoadRunner and Assault
(docs/results.md): 43 to 239 s for the last evaluation of 100 games."""
POINTS = (0.8, 0.9, 1.0)
"""When a trial is evaluated, as a share of its agent steps."""
POINT_GAMES = 3
FINAL_GAMES = 100


def final_games(steps: int, final_episodes: int = FINAL_GAMES) -> int:
    """Games of the evaluation after the last agent step, in proportion to a trial's length."""
    return max(1, round(final_episodes * min(1.0, steps / FULL_STEPS)))


def evaluation_games_left(agent_steps: int, steps: int, final_episodes: int = FINAL_GAMES) -> int:
    """Returns the number of evaluation games that a trial still has to play.

    Args:
        agent_steps: those done.
        steps: of the whole trial.
        final_episodes: the setting of that name.
    """
    points = {max(1, round(share * steps)) for share in POINTS}
    return POINT_GAMES * sum(point > agent_steps for point in points) + final_games(steps, final_episodes)


class TimeLeft:
    """The estimate for one trial, from its reports and a clock.

    Args:
        steps: agent steps of the whole trial.
        final_episodes: the setting of that name.
    """

    def __init__(self, steps: int, final_episodes: int = FINAL_GAMES) -> None:
        self._steps, self._final = steps, final_episodes
        self._game_seconds = GAME_SECONDS
        self._done = 0
        self._speed: float | None = None
        self._last: tuple[float, float] | None = None
        self._played: tuple[int, float] | None = None
        self.seconds: float | None = None
        """Seconds left; None until the first update of the network tells how fast training is."""

    def update(self, report: Mapping[str, Any], now: float) -> None:
        """Takes a line of the trial's progress.

        Args:
            report: the line.
            now: seconds of a clock that never goes back.
        """
        self._done = report["agent_steps"]
        trained = float(report.get("training_seconds", 0.0))
        if report.get("updates") and report.get("steps_per_second"):
            self._speed = report["steps_per_second"]
        if report.get("evaluation_episodes") and self._last is not None:
            # What passed and was not training was the evaluation.
            played = now - self._last[0] - (trained - self._last[1])
            self._game_seconds = max(played, 0.0) / report["evaluation_episodes"]
        self._last = (now, trained)
        games = evaluation_games_left(self._done, self._steps, self._final)
        left = self._steps - self._done
        if self._speed or not left:
            self.seconds = (left / self._speed if self._speed else 0.0) + games * self._game_seconds

    def played(self, games: int, total: int, now: float) -> None:
        """Takes the number of finished games of the final evaluation."""
        if self._played is None:
            self._played = (games, now)
        before, since = self._played
        each = (now - since) / (games - before) if games > before else self._game_seconds
        self.seconds = (total - games) * each
