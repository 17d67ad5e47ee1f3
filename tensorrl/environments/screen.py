"""A game on the screen as people see it: its own colours, its own size."""

from __future__ import annotations

import ale_py
import numpy as np
import numpy.typing as npt
from ale_py import roms

from tensorrl.environments.atari import ACTION_REPEAT, make_vector_env

Screen = npt.NDArray[np.uint8]
"""(height, width, 3) RGB; 210 by 160 for nearly every game."""

_BRIGHTNESS = np.array([299, 587, 114], dtype=np.int32)


def screen_size(game: str) -> tuple[int, int]:
    """Height and width of a game's screen, in pixels."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    rom = roms.get_rom_path(game)
    assert rom is not None, game
    ale.loadROM(rom)
    height, width = ale.getScreenDims()
    return int(height), int(width)


class ColorGame:
    """Plays one game of `make_vector_env` once more, from its seed and its actions, and keeps the screen.

    Like the frame that an agent is given, the screen shows the last two of the emulator's four screens a step, of each
    pixel the brighter one: much on an Atari is drawn on every second screen only. No colour is mixed.

    Args:
        game: ALE's name.
        seed: that the game was reset with.
    """

    def __init__(self, game: str, seed: int) -> None:
        height, width = screen_size(game)
        self._env = make_vector_env(
            game,
            1,
            threads=1,
            img_height=height,
            img_width=width,
            grayscale=False,
            frameskip=1,
            maxpool=False,
            life_loss_info=False,
        )
        self.actions = [action.name for action in self._env.ale.get_action_set()]
        """Names of the actions, in their order: NOOP, FIRE, UP, …"""
        self.score = 0.0
        """Sum of true rewards so far."""
        self.over = False
        """The game ended or was cut off at its frame limit."""
        self.screen: Screen = self._env.reset(seed=np.array([seed]))[0][0, 0].copy()

    def act(self, action: int) -> None:
        """Plays one agent step. A game that is over stays as it is."""
        before = self.screen
        for _ in range(ACTION_REPEAT):
            if self.over:
                break
            before = self.screen
            self._env.send(np.array([action], dtype=np.int64))
            frames, rewards, terminated, truncated, _ = self._env.recv()
            self.screen = frames[0, 0].copy()
            self.score += float(rewards[0])
            self.over = bool(terminated[0] or truncated[0])
        self.screen = brighter(before, self.screen)

    def close(self) -> None:
        """Ends ALE's thread."""
        self._env.close()


def brighter(one: Screen, other: Screen) -> Screen:
    """Of two screens the brighter colour of each pixel, by luma (ITU-R BT.601); `other`'s where they are even."""
    first = (one @ _BRIGHTNESS > other @ _BRIGHTNESS)[..., None]
    return np.where(first, one, other)
