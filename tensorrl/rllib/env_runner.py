"""The env runner: one real game for training, or whole games on demand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)

from tensorrl.environments.atari import AtariGame
from tensorrl.rllib.module import RainbowModule


class AtariEnvRunner(EnvRunner, Checkpointable):  # type: ignore[misc]
    """Plays Atari through ALE's vector environment.

    The training loop drives `game` itself, so that the emulator runs while the network is updated. `sample` gives
    RLlib's users whole games as episodes with true rewards, from a game of their own.

    Attributes:
        game: the training game.
        module: what acts.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.game: AtariGame
        self.module: RainbowModule
        self._sampled: AtariGame | None = None
        self._episodes: list[SingleAgentEpisode] = []
        self.make_env()
        self.make_module()

    def make_env(self) -> None:
        """Creates the training game from the config's game and seed."""
        self.game = self.env = AtariGame(self.config.game, self.config.seed + 2**31 * (self.worker_index or 0))

    def make_module(self) -> None:
        """Creates an RLModule of the runner's own; the algorithm replaces it by the learner's."""
        specs = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = specs.build()[DEFAULT_MODULE_ID]

    def get_spaces(self) -> dict[str, tuple[gym.Space[Any], gym.Space[Any]]]:
        """Observations (4, 84, 84) uint8 and the game's minimal action set."""
        spaces: tuple[gym.Space[Any], gym.Space[Any]] = (
            gym.spaces.Box(0, 255, (4, 84, 84), np.uint8),
            gym.spaces.Discrete(self.game.actions),
        )
        return {INPUT_ENV_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        **_: Any,
    ) -> list[SingleAgentEpisode]:
        """Plays whole games until there are `num_episodes` of them, or `num_timesteps` agent steps (default: 1 game).

        Observations are stacks (4, 84, 84) uint8, rewards are the game's own.
        """
        explore = self.config.explore if explore is None else explore
        wanted_games = num_episodes or (10**9 if num_timesteps else 1)
        episodes: list[SingleAgentEpisode] = []
        while len(episodes) < wanted_games and sum(map(len, episodes)) < (num_timesteps or 10**9):
            episodes.append(self._play(explore, random_actions))
        self._episodes += episodes
        return episodes

    def _play(self, explore: bool, random_actions: bool) -> SingleAgentEpisode:
        if self._sampled is None:
            self._sampled = AtariGame(self.config.game, self.config.seed + 2**33 + (self.worker_index or 0))
        game, space = self._sampled, self.get_spaces()[DEFAULT_MODULE_ID]
        rng = np.random.default_rng((self.config.seed, game.games))
        stack = np.zeros((4, 84, 84), np.uint8)
        stack[-1] = game.begin_game()
        episode = SingleAgentEpisode(observation_space=space[0], action_space=space[1])
        episode.add_env_reset(stack)
        over = False
        while not over:
            action = int(rng.integers(game.actions)) if random_actions else self._act(stack, explore)
            game.send(action)
            step = game.receive()
            stack = np.concatenate((stack[1:], step.frame[None]))
            over = step.over
            episode.add_env_step(
                stack,
                action,
                step.reward,
                terminated=over and step.terminal,
                truncated=over and not step.terminal,
            )
            self.num_env_steps_sampled_lifetime += 1
        return episode

    def _act(self, stack: np.ndarray[Any, np.dtype[np.uint8]], explore: bool) -> int:
        batch = {Columns.OBS: torch.from_numpy(stack)[None]}
        with torch.no_grad():
            if explore:
                out = self.module.forward_exploration(batch, t=self.num_env_steps_sampled_lifetime)
            else:
                out = self.module.forward_inference(batch)
        return int(out[Columns.ACTIONS][0])

    def get_metrics(self) -> Any:
        """Returns and lengths of the games `sample` finished since the last call."""
        for episode in self._episodes:
            self.log_game(episode.get_return(), len(episode))
        self._episodes = []
        return self.metrics.reduce()

    def log_game(self, score: float, length: int) -> None:
        """Logs a finished game under RLlib's names."""
        window = self.config.metrics_num_episodes_for_smoothing
        self.metrics.log_value(EPISODE_RETURN_MEAN, score, window=window)
        self.metrics.log_value(EPISODE_LEN_MEAN, length, window=window)
        self.metrics.log_value(NUM_EPISODES, 1, reduce="sum")

    def log_steps(self, steps: int) -> None:
        """Logs agent steps under RLlib's names."""
        self.num_env_steps_sampled_lifetime += steps
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum")

    def get_state(self, components: Any = None, *, not_components: Any = None, **_: Any) -> dict[str, Any]:
        """Counters, and the module's state where it is asked for."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component("rl_module", components, not_components):
            state["rl_module"] = self.module.get_state(inference_only=True)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes counters and, where there is one, a module's state."""
        if "rl_module" in state:
            modules = state["rl_module"]
            self.module.set_state(modules.get(DEFAULT_MODULE_ID, modules))
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """What to build this runner from again."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    def assert_healthy(self) -> None:
        """Checks that the runner has its game and its module."""
        assert self.game is not None
        assert self.module is not None

    def stop(self) -> None:
        """Ends ALE's threads."""
        for game in (self.game, self._sampled):
            if game is not None:
                game.close()
