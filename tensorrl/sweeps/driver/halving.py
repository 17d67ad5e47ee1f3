"""A sweep's scheduler: asynchronous successive halving (ASHA) by Tune, separately for each game's cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorrl.sweeps.grid.spec import Scheduler

ACTOR = "tensorrl-halting"
"""The name of the Ray actor that tells trials whether they are stopped."""
NAMESPACE = "tensorrl"


def make_scheduler(chosen: Scheduler, steps: int, game_of: Callable[[Any], str], halt: Callable[[Any], None]) -> Any:
    """Makes the Tune scheduler for a sweep's cells.

    Scores of different games cannot be compared, so each game has its own ASHA. A trial that ASHA would stop is told so
    by `halt` and stops by itself: it writes a checkpoint at that same report, and closes its record.

    Args:
        chosen: the sweep's scheduler.
        steps: agent steps of its trials.
        game_of: returns a Tune trial's game.
        halt: tells a trial to stop.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

    class Halving(FIFOScheduler):  # type: ignore[misc]
        """Starts trials first in, first out, and passes each report to its game's ASHA."""

        def __init__(self) -> None:
            super().__init__()
            self.games: dict[str, Any] = {}
            self.halted: set[str] = set()

        def of(self, trial: Any) -> Any:
            game = game_of(trial)
            if game not in self.games:
                self.games[game] = AsyncHyperBandScheduler(
                    time_attr="agent_steps",
                    metric=chosen.metric,
                    mode="max",
                    max_t=steps,
                    grace_period=chosen.grace_period or max(1, steps // 10),
                    reduction_factor=chosen.reduction,
                )
            return self.games[game]

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            self.of(trial).on_trial_add(tune_controller, trial)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            figure = result.get(chosen.metric)
            comparable = isinstance(figure, int | float) and not math.isnan(figure) and "outcome" not in result
            if comparable and trial.trial_id not in self.halted and result["agent_steps"] < steps:
                decision = self.of(trial).on_trial_result(tune_controller, trial, result)
                if decision == TrialScheduler.STOP:
                    self.halted.add(trial.trial_id)
                    halt(trial)
            return str(TrialScheduler.CONTINUE)

    return Halving()


class Halts:
    """The names of the cells that were told to stop. It runs as a Ray actor, so any machine can ask it."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def add(self, name: str) -> None:
        """Tells a cell to stop."""
        self._named.add(name)

    def asked(self, name: str) -> bool:
        """Returns whether a cell was told to stop."""
        return name in self._named
