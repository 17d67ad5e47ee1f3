"""Evaluation on full games: several at once, true rewards, each episode seeded on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorrl.environments.atari import Frames, action_count, game_seed, make_vector_env

Observe = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.bool_]], npt.NDArray[np.int64]]
"""Frames (envs, 84, 84) uint8 and which of them begin a game (envs,) → greedy actions (envs,)."""


class Episode(NamedTuple):
    """One full game."""

    score: float
    """Sum of true rewards."""
    steps: int
    """Length in agent steps."""


def play_episodes(
    game: str,
    policy: Observe,
    *,
    episodes: int,
    seed: int,
    epsilon: float = 0.001,
    envs: int = 16,
    threads: int = 1,
    on_action: Callable[[int], None] | None = None,
    on_episode: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Plays full games with an ε-greedy policy and returns them in the order of their seeds.

    Every episode is finished, so short games are not over-represented. Episode k draws its no-ops and its random
    actions from (seed, k), whatever the number of environments.

    Args:
        game: ALE's name.
        policy: chooses greedy actions; keeps its own stacks of frames.
        episodes: how many games.
        seed: of the whole evaluation.
        epsilon: probability of a random action.
        envs: games at once, at most.
        threads: of ALE.
        on_action: called with every action of the first episode while ALE plays it, as for a film.
        on_episode: called with how many episodes are over, whenever one more is.
    """
    envs = min(envs, episodes)
    env = make_vector_env(game, envs, threads=min(threads, envs))
    count = action_count(env)
    results: list[Episode | None] = [None] * episodes
    playing = list(range(envs))
    queue: Iterator[int] = iter(range(envs, episodes))
    explorers = [np.random.default_rng((seed, k)) for k in playing]
    scores, steps = np.zeros(envs), np.zeros(envs, dtype=np.int64)
    observed: Frames = env.reset(seed=np.array([game_seed(seed, k) for k in playing]))[0]
    frames = observed[:, 0].copy()
    begins = np.ones(envs, dtype=bool)
    try:
        while any(k >= 0 for k in playing):
            actions = policy(frames, begins)
            for slot, explorer in enumerate(explorers):
                if explorer.random() < epsilon:
                    actions[slot] = explorer.integers(count)
            env.send(actions)
            if on_action is not None and playing[0] == 0:
                on_action(int(actions[0]))
            observed, rewards, terminated, truncated, info = env.recv()
            frames = observed[:, 0].copy()
            scores += rewards
            steps += 1
            begins = truncated | (terminated & (info["lives"] == 0))
            if begins.any():
                for slot in np.flatnonzero(begins).tolist():
                    if playing[slot] >= 0:
                        results[playing[slot]] = Episode(float(scores[slot]), int(steps[slot]))
                        if on_episode is not None:
                            on_episode(episodes - results.count(None))
                    playing[slot] = next(queue, -1)
                    explorers[slot] = np.random.default_rng((seed, playing[slot] % 2**31))
                    scores[slot], steps[slot] = 0.0, 0
                # A slot without further episodes plays on unrecorded until the others are done.
                seeds = np.array([game_seed(seed, playing[slot] % 2**31) for slot in np.flatnonzero(begins)])
                observed = env.reset(seed=seeds, options={"reset_mask": begins})[0]
                frames[begins] = observed[begins, 0]
    finally:
        env.close()
    return [episode for episode in results if episode is not None]
