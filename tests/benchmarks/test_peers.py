"""Peers from checkouts are driven as their own loops drive them; small stand-ins take their place here."""

from __future__ import annotations

import sys
import textwrap
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import worker
from benchmarks.peers.cleanrl import CleanRL
from benchmarks.peers.kaixhin import LEAST_WARM_UP, TARGET_INTERVAL, Kaixhin
from tensorrl.errors import InputError

KAIXHIN = {
    "agent": """
        import torch
        CALLS = []
        class Agent:
            def __init__(self, options, env):
                self.actions = env.action_space()
                self.online_net = torch.nn.Linear(3, 2)
                self.optimiser = torch.optim.SGD(self.online_net.parameters(), lr=0.1)
            def train(self): CALLS.append("train")
            def reset_noise(self): CALLS.append("noise")
            def act(self, state):
                CALLS.append("act")
                assert state.shape == (4, 84, 84) and state.dtype == torch.float32
                return 0
            def learn(self, memory):
                CALLS.append("learn")
                self.optimiser.step()
            def update_target_net(self): CALLS.append("target")
    """,
    "memory": """
        from agent import CALLS
        class ReplayMemory:
            def __init__(self, options, capacity):
                self.priority_weight = options.priority_weight
                self.betas = []
            def append(self, state, action, reward, done):
                CALLS.append("append")
                self.betas.append(self.priority_weight)
                assert -1 <= reward <= 1
    """,
    "model": "",
}


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def test_kaixhins_loop_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KAIXHIN:
        monkeypatch.delitem(sys.modules, name, raising=False)
    peer = Kaixhin(_write(tmp_path, KAIXHIN), "pong", warm_up=10, seed=0)
    try:
        calls = sys.modules["agent"].CALLS
        assert calls == ["train"]
        peer.advance(LEAST_WARM_UP - 1)
        assert peer.counts() == (LEAST_WARM_UP - 1, 0)
        peer.advance(3)
        assert peer.counts() == (LEAST_WARM_UP + 2, 3)
        assert calls[-8:] == ["noise", "act", "append", "learn"] * 2
        assert "target" not in calls
        peer.advance(TARGET_INTERVAL - LEAST_WARM_UP - 2)
        assert calls[-2:] == ["learn", "target"]
        betas = peer._memory.betas
        assert betas[LEAST_WARM_UP - 1] == 0.4
        assert all(later > before for before, later in pairwise(betas[LEAST_WARM_UP:]))
        assert peer.coefficients == 8
    finally:
        peer.close()
        for name in KAIXHIN:
            sys.modules.pop(name, None)


CLEANRL = {
    "cleanrl/rainbow_atari": """
        from dataclasses import dataclass
        import gymnasium as gym
        import torch
        import tyro
        from torch.utils.tensorboard import SummaryWriter
        from cleanrl_utils.atari_wrappers import (
            ClipRewardEnv, EpisodicLifeEnv, FireResetEnv, MaxAndSkipEnv, NoopResetEnv
        )
        @dataclass
        class Args:
            seed: int = 1
            cuda: bool = True
            env_id: str = ""
            total_timesteps: int = 0
            learning_starts: int = 80000
            train_frequency: int = 4
            n_step: int = 3
            buffer_size: int = 1
            learning_rate: float = 0.1
            target_network_frequency: int = 8000
        class Replay:
            def add(self, obs, actions, rewards, next_obs, done):
                assert obs.shape == (4, 84, 84) and rewards.shape == ()
        if __name__ == "__main__":
            args = tyro.cli(Args)
            writer = SummaryWriter("runs/x")
            writer.add_text("a", "b")
            envs = gym.vector.SyncVectorEnv([lambda: 1 / 0])
            network = torch.nn.Linear(4, 3)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            rb = Replay()
            obs, _ = envs.reset(seed=args.seed)
            for global_step in range(args.total_timesteps):
                actions = torch.zeros(1, dtype=torch.int64).numpy()
                next_obs, rewards, terminations, truncations, infos = envs.step(actions)
                real_next_obs = next_obs.copy()
                rb.add(obs, actions, rewards, real_next_obs, terminations)
                obs = next_obs
                if global_step > args.learning_starts and global_step % args.train_frequency == 0:
                    optimizer.step()
    """
}


def test_cleanrls_script_runs_no_further_than_it_is_let(tmp_path: Path) -> None:
    real = torch.optim.SGD.step
    peer = CleanRL(_write(tmp_path, CLEANRL), "pong", warm_up=10, seed=0)
    try:
        assert peer.counts() == (0, 0)
        # The script counts steps from 0 and updates after the game's answer: step 11 is the first with an update.
        peer.advance(10)
        assert peer.counts() == (10, 0)
        peer.advance(20)
        assert peer.counts() == (30, 20)
        assert peer.coefficients == 15
    finally:
        peer.close()
    assert not [thread for thread in threading.enumerate() if thread is peer._thread]
    assert torch.optim.SGD.step is real


def test_a_script_that_fails_says_so(tmp_path: Path) -> None:
    broken = CLEANRL["cleanrl/rainbow_atari"].replace(" obs = next_obs\n", " raise KeyError('gone')\n")
    peer = CleanRL(_write(tmp_path, {"cleanrl/rainbow_atari": broken}), "pong", warm_up=10, seed=0)
    try:
        with pytest.raises(RuntimeError, match="gone"):
            peer.advance(5)
    finally:
        peer.close()


@pytest.mark.parametrize(("name", "file"), [("kaixhin", "memory.py"), ("cleanrl", "rainbow_atari.py")])
def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(InputError, match=rf"--{name} .*lacks .*{file}"):
        worker.build(name, "pong", 1_600, 0, tmp_path)
    with pytest.raises(InputError, match=f"--{name} PATH"):
        worker.build(name, "pong", 1_600, 0)
