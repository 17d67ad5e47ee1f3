"""One emulator for every contestant, so that nobody is slowed by slower preprocessing than ours.

Each adapter presents `AtariGame` the way its peer expects a game: same frames, rewards clipped to their sign, 4 frames
stacked. Stacks are put together frame by frame, as the peers' own wrappers do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorrl.environments.atari import AtariGame, Step

STACK = 4
SIDE = 84


class StackedGame(gym.Env[npt.NDArray[Any], Any]):
    """A Gymnasium environment with stacks of frames.

    Args:
        game: ALE's name.
        seed: of the game.
        channels_last: stacks (84, 84, 4) instead of (4, 84, 84).
        scaled: float32 in [-1, 1), as RLlib's `NormalizedImageEnv` gives them, instead of uint8.
    """

    def __init__(self, game: str, seed: int = 0, *, channels_last: bool = False, scaled: bool = False) -> None:
        self._game = AtariGame(game, seed)
        self._axis, self._scaled = (-1 if channels_last else 0), scaled
        shape = (SIDE, SIDE, STACK) if channels_last else (STACK, SIDE, SIDE)
        self.observation_space = (
            gym.spaces.Box(-1.0, 1.0, shape, np.float32) if scaled else gym.spaces.Box(0, 255, shape, np.uint8)
        )
        self.action_space = gym.spaces.Discrete(self._game.actions)
        self._blank = np.zeros((SIDE, SIDE), np.uint8)
        self._frames: deque[npt.NDArray[Any]] = deque(maxlen=STACK)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Begins a game; the frames before its first are blank. Its seed is the constructor's."""
        super().reset(seed=seed)
        for _ in range(STACK - 1):
            self._frames.append(self._shown(self._blank))
        self._frames.append(self._shown(self._game.begin_game()))
        return self._stack(), {}

    def step(self, action: Any) -> tuple[npt.NDArray[Any], float, bool, bool, dict[str, Any]]:
        """One agent step."""
        step = play(self._game, int(action))
        self._frames.append(self._shown(step.frame))
        over = step.over and step.terminal
        return self._stack(), float(np.sign(step.reward)), over, step.over and not over, {}

    def close(self) -> None:
        """Ends ALE's thread."""
        self._game.close()

    def _shown(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        # A copy either way: the emulator may reuse its buffer.
        return frame.astype(np.float32) / np.float32(128) - np.float32(1) if self._scaled else frame.copy()

    def _stack(self) -> npt.NDArray[Any]:
        return np.stack(tuple(self._frames), axis=self._axis)


class TensorGame:
    """Kaixhin's `Env`: stacks of float32 tensors (4, 84, 84) in [0, 1], a lost life ends an episode."""

    def __init__(self, game: str, seed: int = 0) -> None:
        self._game = AtariGame(game, seed)
        self._frames: deque[Tensor] = deque(maxlen=STACK)
        self._over = True

    def action_space(self) -> int:
        """Number of actions."""
        return self._game.actions

    def reset(self) -> Tensor:
        """Begins a game, or goes on with it after a lost life."""
        if self._over:
            for _ in range(STACK - 1):
                self._frames.append(torch.zeros(SIDE, SIDE))
            self._frames.append(self._shown(self._game.begin_game()))
            self._over = False
        return torch.stack(tuple(self._frames))

    def step(self, action: int) -> tuple[Tensor, float, bool]:
        """One agent step: state, reward, whether the episode ended."""
        step = play(self._game, action)
        self._frames.append(self._shown(step.frame))
        self._over = step.over
        return torch.stack(tuple(self._frames)), step.reward, step.terminal or step.over

    def close(self) -> None:
        """Ends ALE's thread."""
        self._game.close()

    @staticmethod
    def _shown(frame: npt.NDArray[np.uint8]) -> Tensor:
        return torch.tensor(frame, dtype=torch.float32).div_(255)


class VectorGame:
    """A vector of one environment that starts anew by itself in the step that ends a game, as Gymnasium 0.29 did.

    Args:
        game: a Gymnasium environment.
        before_step: called before every step.
    """

    def __init__(self, game: StackedGame, before_step: Callable[[], None]) -> None:
        self._game, self._before_step = game, before_step
        self.single_observation_space = game.observation_space
        self.single_action_space = game.action_space
        self.num_envs = 1

    def reset(self, **_: Any) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Observations (1, …) and no information."""
        return self._game.reset()[0][None], {}

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """One agent step: observations, rewards, terminations, truncations, each (1, …), and information."""
        self._before_step()
        seen, reward, terminated, truncated, _ = self._game.step(actions[0])
        told: dict[str, Any] = {}
        if terminated or truncated:
            told = {"final_observation": [seen], "final_info": [None]}
            seen = self._game.reset()[0]
        return seen[None], np.array([reward]), np.array([terminated]), np.array([truncated]), told

    def close(self) -> None:
        """Ends ALE's thread."""
        self._game.close()


def play(game: AtariGame, action: int) -> Step:
    """One agent step, waited for: only our own loop hides it behind an update."""
    game.send(action)
    return game.receive()
