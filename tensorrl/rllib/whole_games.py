"""The games that `sample` plays: whole ones, one after the other, as Gymnasium's vector environment of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from tensorrl.environments.atari import AtariGame, Frame, game_seed

STACK = 4
"""Frames of an observation, as every network here sees them."""


def observation_space() -> gym.spaces.Box:
    """Stacks of frames, (4, 84, 84) uint8, the newest last."""
    return gym.spaces.Box(0, 255, (STACK, 84, 84), np.uint8)


def push(stack: npt.NDArray[np.uint8], frame: Frame) -> npt.NDArray[np.uint8]:
    """The stack (4, 84, 84) that follows when `frame` (84, 84) comes."""
    return np.concatenate((stack[1:], frame[None]))


def first_stack(frame: Frame) -> npt.NDArray[np.uint8]:
    """A game's first stack (4, 84, 84): blank frames before its first one."""
    stack = np.zeros((STACK, 84, 84), np.uint8)
    stack[-1] = frame
    return stack


class WholeGames(gym.vector.VectorEnv):  # type: ignore[type-arg]
    """One game of Atari at a time: true rewards, all lives, up to 108,000 frames.

    Game k is seeded from the seed and k alone, so `reset` begins the next game whatever seed it is given. The step
    after a game's end begins the next one and ignores its action, as Gymnasium's mode `NEXT_STEP` says.

    Args:
        game: ALE's name.
        seed: of all games.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, game: str, seed: int) -> None:
        self._game = AtariGame(game, seed)
        self.num_envs = 1
        self.single_observation_space = observation_space()
        self.single_action_space = gym.spaces.Discrete(self._game.actions)
        self.observation_space = batch_space(self.single_observation_space, 1)
        self.action_space = batch_space(self.single_action_space, 1)
        self.action_space.seed(game_seed(seed, 0))
        self._stack = np.zeros((STACK, 84, 84), np.uint8)
        self._over = True

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[npt.NDArray[np.uint8], Any]:
        """Begins the next game; returns observations (1, 4, 84, 84) uint8 and infos."""
        self._stack = first_stack(self._game.begin_game())
        self._over = False
        return self._stack[None], [{}]

    def step(self, actions: Any) -> tuple[npt.NDArray[np.uint8], Any, Any, Any, Any]:
        """Plays one agent step, or begins the next game where the last one ended.

        Returns:
            Observations (1, 4, 84, 84) uint8, rewards (1,) float64, terminated (1,) and truncated (1,) bool, infos.
        """
        if self._over:
            observations, infos = self.reset()
            nothing = np.zeros(1, bool)
            return observations, np.zeros(1), nothing, nothing, infos
        self._game.send(int(np.asarray(actions).reshape(-1)[0]))
        step = self._game.receive()
        self._stack, self._over = push(self._stack, step.frame), step.over
        terminated, truncated = step.over and step.terminal, step.over and not step.terminal
        return self._stack[None], np.array([step.reward]), np.array([terminated]), np.array([truncated]), [{}]

    def close_extras(self, **_: Any) -> None:
        """Ends ALE's thread."""
        self._game.close()
