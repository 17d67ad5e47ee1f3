"""CleanRL's `rainbow_atari.py` (github.com/vwxyzjn/cleanrl), run as it stands from a checkout that the user has.

The script is one program from top to bottom, so it runs in a thread that our game holds back between windows. Around
it, not in it, stand in: its command line, its logs, and the vector environment. One line of it is changed: newer
versions of NumPy refuse the vectors of one that it stores. Its network is Nature's, with 6.9 million coefficients.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import torch

from benchmarks.peers.games import StackedGame, VectorGame
from benchmarks.peers.updates import UpdateCounter
from tensorrl.errors import InputError

SCRIPT = Path("cleanrl") / "rainbow_atari.py"
STEPS = 100_000
_STORED = "rb.add(obs, actions, rewards, real_next_obs, terminations)"
_STORED_ONE = "rb.add(obs[0], actions[0], rewards[0], real_next_obs[0], terminations[0])"


class Stopped(BaseException):
    """Unwinds the script when its contestant is closed."""


class Silent:
    """A log that keeps nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def add_text(self, *_: Any) -> None:
        """Forgets."""

    def add_scalar(self, *_: Any) -> None:
        """Forgets."""

    def close(self) -> None:
        """Ends nothing."""


class Gate:
    """Lets a thread through as many times as it is told to, and says when it wants more."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._allowed = 0
        self._waiting = False
        self._closed = False
        self._error: BaseException | None = None
        self.passed = 0

    def allow(self, times: int) -> None:
        """Lets the other thread through `times` times and waits until it wants more.

        Raises:
            RuntimeError: the other thread has ended.
        """
        with self._condition:
            self._allowed += times
            self._waiting = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._error is not None or (self._waiting and self._allowed == 0))
            if self._error is not None:
                raise RuntimeError(f"the script ended: {self._error!r}") from self._error

    def enter(self) -> None:
        """Waits for its turn; called by the other thread.

        Raises:
            Stopped: there will be no more.
        """
        with self._condition:
            while self._allowed == 0 and not self._closed:
                self._waiting = True
                self._condition.notify_all()
                self._condition.wait()
            if self._closed:
                raise Stopped
            self._allowed -= 1
            self.passed += 1

    def end(self, error: BaseException) -> None:
        """Says that the other thread has ended, and why."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

    def close(self) -> None:
        """Lets the other thread end."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class CleanRL:
    """CleanRL's Rainbow as a contestant.

    Args:
        checkout: the repository's folder.
        game: what it plays.
        warm_up: agent steps before the first update.
        seed: of everything.

    Raises:
        InputError: the folder is no checkout of it.
    """

    def __init__(self, checkout: Path, game: str, warm_up: int, seed: int) -> None:
        path = checkout / SCRIPT
        if not path.is_file():
            raise InputError(f"--cleanrl {checkout}: no checkout of CleanRL, lacks {SCRIPT}")
        source = path.read_text(encoding="utf-8").replace(_STORED, _STORED_ONE)
        # It learns from the step after `learning_starts`.
        arguments = {
            "seed": seed,
            "cuda": False,
            "env_id": game,
            "total_timesteps": STEPS,
            "learning_starts": warm_up - 1,
            "train_frequency": 1,
            "n_step": 20,
            "buffer_size": 100_000,
            "learning_rate": 1e-4,
            "target_network_frequency": 2_000,
        }
        self._gate, self._counter = Gate(), UpdateCounter()
        envs = VectorGame(StackedGame(game, seed), self._gate.enter)
        self._code = compile(source, str(path), "exec")
        self._thread = threading.Thread(target=self._run, args=(arguments, envs), daemon=True)
        # The caller's number of threads is the process's, but OpenMP asks each thread that starts work for its own.
        self._torch_threads = torch.get_num_threads()
        self._thread.start()
        self._gate.allow(0)

    @property
    def coefficients(self) -> int:
        """Those its optimizer moves; known after its first update."""
        return self._counter.coefficients

    def advance(self, steps: int) -> None:
        self._gate.allow(steps)

    def counts(self) -> tuple[int, int]:
        return self._gate.passed, self._counter.updates

    def close(self) -> None:
        self._gate.close()
        self._thread.join(timeout=10)
        self._counter.close()

    def _run(self, arguments: dict[str, Any], envs: VectorGame) -> None:
        torch.set_num_threads(self._torch_threads)
        with (
            mock.patch.dict(sys.modules, _stand_ins(arguments)),
            mock.patch.object(gym.vector, "SyncVectorEnv", return_value=envs),
        ):
            try:
                exec(self._code, {"__name__": "__main__", "__file__": str(SCRIPT)})
                self._gate.end(RuntimeError("it did all its steps"))
            except BaseException as error:
                self._gate.end(error)


def _stand_ins(arguments: dict[str, Any]) -> dict[str, types.ModuleType]:
    """What takes the place of the modules that the script imports and that a measurement has no use for."""

    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(members)
        return made

    def parse(make: Callable[..., Any]) -> Any:
        return make(**arguments)

    wrappers = ("ClipRewardEnv", "EpisodicLifeEnv", "FireResetEnv", "MaxAndSkipEnv", "NoopResetEnv")
    return {
        "tyro": module("tyro", cli=parse),
        "torch.utils.tensorboard": module("torch.utils.tensorboard", SummaryWriter=Silent),
        "cleanrl_utils": module("cleanrl_utils"),
        "cleanrl_utils.atari_wrappers": module("cleanrl_utils.atari_wrappers", **dict.fromkeys(wrappers, gym.Wrapper)),
    }
