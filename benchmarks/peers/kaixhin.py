"""Kaixhin's Rainbow (github.com/Kaixhin/Rainbow), from a checkout that the user has: its agent, network and replay.

Its `main.py` and `env.py` need atari_py, which new Pythons cannot install; the loop of `main.py` is followed here with
the settings its README gives for the data-efficient agent, on our emulator.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.games import TensorGame
from benchmarks.peers.updates import UpdateCounter
from tensorrl.errors import InputError

STEPS = 100_000
TARGET_INTERVAL = 2_000
LEAST_WARM_UP = 1_600
"""Its replay redraws until none of a batch's 32 strata yields one of the newest 20 transitions. With fewer than about
700 stored, the last stratum holds nothing else, and it would redraw for ever."""
_FILES = ("agent", "memory", "model")


class Kaixhin:
    """Kaixhin's data-efficient Rainbow as a contestant.

    Args:
        checkout: the repository's folder.
        game: what it plays.
        warm_up: agent steps before the first update; `LEAST_WARM_UP` at least.
        seed: of everything.

    Raises:
        InputError: the folder is no checkout of it.
    """

    def __init__(self, checkout: Path, game: str, warm_up: int, seed: int) -> None:
        missing = [f"{name}.py" for name in _FILES if not (checkout / f"{name}.py").is_file()]
        if missing:
            raise InputError(f"--kaixhin {checkout}: no checkout of Kaixhin's Rainbow, lacks {', '.join(missing)}")
        sys.path.insert(0, str(checkout))
        try:
            agent_module, memory_module = importlib.import_module("agent"), importlib.import_module("memory")
        finally:
            sys.path.remove(str(checkout))
        warm_up = max(warm_up, LEAST_WARM_UP)
        np.random.seed(seed)  # noqa: NPY002  (what its replay draws from)
        torch.manual_seed(seed)
        self._counter = UpdateCounter()
        self._game = TensorGame(game, seed)
        options = _options(warm_up)
        self._agent = agent_module.Agent(options, self._game)
        self._agent.train()
        self._memory = memory_module.ReplayMemory(options, options.memory_capacity)
        self._warm_up = warm_up
        self._beta_increase = (1 - options.priority_weight) / (STEPS - warm_up)
        self._steps = 0
        self._state = self._game.reset()
        self.coefficients = sum(p.numel() for p in self._agent.online_net.parameters())

    def advance(self, steps: int) -> None:
        agent, memory = self._agent, self._memory
        for _ in range(steps):
            self._steps += 1
            agent.reset_noise()
            action = agent.act(self._state)
            following, reward, done = self._game.step(action)
            memory.append(self._state, action, max(min(reward, 1), -1), done)
            if self._steps >= self._warm_up:
                memory.priority_weight = min(memory.priority_weight + self._beta_increase, 1)
                agent.learn(memory)
                if self._steps % TARGET_INTERVAL == 0:
                    agent.update_target_net()
            self._state = self._game.reset() if done else following

    def counts(self) -> tuple[int, int]:
        return self._steps, self._counter.updates

    def close(self) -> None:
        self._counter.close()
        self._game.close()


def _options(warm_up: int) -> Namespace:
    """Its command line for the data-efficient agent."""
    return Namespace(
        device=torch.device("cpu"),
        model=None,
        architecture="data-efficient",
        hidden_size=256,
        history_length=4,
        noisy_std=0.1,
        atoms=51,
        V_min=-10,
        V_max=10,
        memory_capacity=100_000,
        multi_step=20,
        discount=0.99,
        priority_exponent=0.5,
        priority_weight=0.4,
        batch_size=32,
        learning_rate=1e-4,
        adam_eps=1.5e-4,
        norm_clip=10,
        learn_start=warm_up,
    )
