"""The training game as RLlib's callbacks see it: its games as episodes, built only where a callback wants them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from tensorrl.environments.atari import AtariGame, Frame, Step
from tensorrl.rllib.whole_games import first_stack, push

OnEvent = Callable[[str, SingleAgentEpisode, list[SingleAgentEpisode]], None]
"""Callback's name, the episode, and the episode's parts that were cut off before."""


class WatchedGame(AtariGame):
    """The training game; it reports what is played to a watch and measures the seconds of each game.

    Args:
        game: ALE's name.
        seed: the trial's.
        watch: gets the reports; None if there are no callbacks.
    """

    def __init__(self, game: str, seed: int, watch: EpisodeWatch | None) -> None:
        self._watch = watch
        self._action = 0
        self._began = time.perf_counter()
        self.durations: list[float] = []
        """Seconds of the games finished since `take_durations`."""
        super().__init__(game, seed)

    def _reset(self) -> Frame:
        if self._watch is not None:
            self._watch.create()
        frame = super()._reset()
        self._began = time.perf_counter()
        if self._watch is not None:
            self._watch.start(frame)
        return frame

    def send(self, action: int) -> None:
        """As `AtariGame.send`."""
        self._action = action
        super().send(action)

    def receive(self) -> Step:
        """As `AtariGame.receive`; tells the watch."""
        step = super().receive()
        if step.over:
            self.durations.append(time.perf_counter() - self._began)
        if self._watch is not None:
            self._watch.step(self._action, step)
        return step

    def set_state(self, state: dict[str, Any]) -> None:
        """As `AtariGame.set_state`; callbacks are not called for steps that are played again."""
        if self._watch is None:
            super().set_state(state)
            return
        self._watch.quiet = True
        try:
            super().set_state(state)
        finally:
            self._watch.quiet = False

    def take_durations(self) -> list[float]:
        """Seconds of the games finished since the last call."""
        found, self.durations = self.durations, []
        return found


class EpisodeWatch:
    """Builds episodes of the training game and calls the callbacks.

    Observations are stacks (4, 84, 84) uint8, rewards the game's own. An episode is cut at the end of every `train()`,
    as RLlib's own runner cuts it at the end of a `sample()`.

    Args:
        tell: called for every event.
        actions: size of the game's action set.
    """

    def __init__(self, tell: OnEvent, spaces: tuple[Any, Any]) -> None:
        self._tell, self._spaces = tell, spaces
        self.quiet = False
        self._episode: SingleAgentEpisode | None = None
        self._parts: list[SingleAgentEpisode] = []
        self._done: list[SingleAgentEpisode] = []
        self._stack = np.zeros((4, 84, 84), np.uint8)

    def _event(self, name: str) -> None:
        assert self._episode is not None
        if not self.quiet:
            self._tell(name, self._episode, self._parts)

    def create(self) -> None:
        """A game is about to begin."""
        self._episode = SingleAgentEpisode(observation_space=self._spaces[0], action_space=self._spaces[1])
        self._parts = []
        self._event("on_episode_created")

    def start(self, frame: Frame) -> None:
        """It begins with `frame` (84, 84)."""
        assert self._episode is not None
        self._stack = first_stack(frame)
        self._episode.add_env_reset(self._stack, infos={})
        self._event("on_episode_start")

    def step(self, action: int, step: Step) -> None:
        """An agent step was played."""
        assert self._episode is not None
        self._stack = push(self._stack, step.frame)
        self._episode.add_env_step(
            self._stack,
            action,
            step.reward,
            infos={},
            terminated=step.over and step.terminal,
            truncated=step.over and not step.terminal,
        )
        self._event("on_episode_step")
        if step.over:
            self._event("on_episode_end")
            if not self.quiet:
                self._done.append(self._episode.to_numpy())

    def take_samples(self) -> list[SingleAgentEpisode]:
        """What was played since the last call: games that ended, and the part of the one that goes on."""
        samples, self._done = self._done, []
        episode = self._episode
        if episode is not None and episode.is_reset and not episode.is_done and len(episode):
            self._episode = episode.cut(len_lookback_buffer=1)
            self._parts = [*self._parts, episode]
            samples.append(episode.to_numpy())
        return samples
