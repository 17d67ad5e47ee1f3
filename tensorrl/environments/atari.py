"""One game of Atari for training, on ALE's vector environment, whose state is a seed and the actions since."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Discrete

MAX_FRAMES = 108_000
ACTION_REPEAT = 4

Frame = npt.NDArray[np.uint8]
"""(84, 84), grey."""
Frames = npt.NDArray[np.uint8]
"""(envs, 1, 84, 84)."""


def make_vector_env(game: str, count: int, *, threads: int, **view: Any) -> AtariVectorEnv:
    """ALE's vector environment with the settings of data-efficient Rainbow, single frames, true rewards.

    Grey 84×84, action repeat 4 with the maximum of the last two frames, up to 30 no-ops, 108,000 frames a game, no
    sticky actions, minimal action set, no FIRE at reset. `life_loss_info` reports a lost life as terminated and plays
    on; `episodic_life` would start the whole game anew. `view` replaces what is seen and how often (see
    `tensorrl.environments.screen`), never how the game goes.
    """
    seen = {"stack_num": 1, "frameskip": ACTION_REPEAT, "maxpool": True, "life_loss_info": True} | view
    return AtariVectorEnv(
        game,
        count,
        num_threads=threads,
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=0.0,
        full_action_space=False,
        noop_max=30,
        episodic_life=False,
        reward_clipping=False,
        use_fire_reset=False,
        **seen,
    )


def action_count(env: AtariVectorEnv) -> int:
    """Size of the game's minimal action set."""
    space = env.single_action_space
    assert isinstance(space, Discrete)
    return int(space.n)


class Step(NamedTuple):
    """What one agent step gave."""

    frame: Frame
    """(84, 84) uint8, the newest frame."""
    reward: float
    """True reward, not clipped."""
    terminal: bool
    """A life was lost or the game ended."""
    over: bool
    """The game ended or was cut off at its frame limit; `begin_game` must follow."""


class AtariGame:
    """Plays game after game, each from a seed of its own, so that its state stays one game long.

    Seeding every game anew makes the state small: the number of the present game and the actions since it began.
    ALE resets to the same bits from the same seed, whatever was played before (a test checks that).

    Args:
        game: ALE's name, e.g. "pong".
        seed: the trial's seed; game k is seeded from (seed, k).
    """

    def __init__(self, game: str, seed: int) -> None:
        self.game, self.seed = game, seed
        self._env = make_vector_env(game, 1, threads=1)
        self.actions = action_count(self._env)
        self.games = 0
        self.steps = 0
        self._played: list[int] = []
        self.score = 0.0
        self.length = 0

    @property
    def vector_env(self) -> AtariVectorEnv:
        """ALE's environment that the game is played on."""
        return self._env

    def begin_game(self) -> Frame:
        """Starts the next game and returns its first frame, (84, 84) uint8."""
        self.games += 1
        self._played, self.score, self.length = [], 0.0, 0
        return self._reset()

    def _reset(self) -> Frame:
        frames: Frames = self._env.reset(seed=np.array([game_seed(self.seed, self.games)]))[0]
        first: Frame = frames[0, 0]
        return first

    def send(self, action: int) -> None:
        """Starts an agent step; it runs in ALE's own thread until `receive`."""
        self._played.append(action)
        self._env.send(np.array([action], dtype=np.int64))

    def receive(self) -> Step:
        """Waits for the agent step that `send` started."""
        frames, rewards, terminated, truncated, info = self._env.recv()
        reward = float(rewards[0])
        self.steps += 1
        self.score += reward
        self.length += 1
        terminal = bool(terminated[0])
        over = bool(truncated[0]) or (terminal and int(info["lives"][0]) == 0)
        return Step(frames[0, 0], reward, terminal, over)

    def close(self) -> None:
        """Ends ALE's thread."""
        self._env.close()

    def get_state(self) -> dict[str, Any]:
        """The present game's number, the actions since it began, and counters. Only between agent steps."""
        return {
            "game": self.game,
            "seed": self.seed,
            "games": self.games,
            "steps": self.steps,
            "played": np.array(self._played, dtype=np.uint8),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Plays the present game again up to where it was.

        Raises:
            ValueError: the state is that of another game or seed.
        """
        if (state["game"], state["seed"]) != (self.game, self.seed):
            raise ValueError(f"state of {state['game']} seed {state['seed']}, not {self.game} seed {self.seed}")
        self.games = state["games"]
        self._played, self.score, self.length = [], 0.0, 0
        if self.games > 0:
            self._reset()
            for action in state["played"]:
                self.send(int(action))
                self.receive()
        self.steps = state["steps"]


def game_seed(*keys: int) -> int:
    """A 31-bit seed from the keys that name a game, e.g. (trial seed, number of the game)."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0] >> 1)
