"""The benchmarks measure what they say: the arithmetic is counted right, contestants do one update a step, in turn."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor, overhead, replay, throughput, worker
from benchmarks.arithmetic import (
    BATCH,
    cheapest_products,
    layer_network,
    multiply_adds_of_update,
    products_of_update,
)
from benchmarks.contest import Entrant, Spread, Window, busy_seconds, ratio
from benchmarks.ours import Trial
from benchmarks.peers.cleanrl import CleanRL
from benchmarks.peers.games import StackedGame, TensorGame
from benchmarks.peers.kaixhin import LEAST_WARM_UP, TARGET_INTERVAL, Kaixhin
from tensorrl import games, variants
from tensorrl.environments.atari import AtariGame
from tensorrl.errors import InputError
from tensorrl.networks.spec import NetworkSpec
from tensorrl.settings import network_spec

ACTIONS = 6


def _spec(variant: str) -> NetworkSpec:
    return network_spec(variants.resolve(variant), ACTIONS)


# Arithmetic


class PlainDense(nn.Module):
    """A dense dueling network in PyTorch's own layers, on the pixels that matter."""

    def __init__(self, convolutions: nn.Sequential, features: int, hidden: int, atoms: int) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.streams = nn.ModuleList(
            nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
            for outputs in (atoms, ACTIONS * atoms)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.convolutions(pixels).flatten(1)
        return torch.cat([stream(features) for stream in self.streams], 1)


@pytest.mark.parametrize(
    ("variant", "side", "plain"),
    [
        (
            "denoised",
            75,
            PlainDense(nn.Sequential(nn.Conv2d(4, 32, 5, 5), nn.Conv2d(32, 64, 5, 5)), 576, 256, 51),
        ),
        (
            "pong-dqn",
            84,
            PlainDense(
                nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)), 3136, 512, 1
            ),
        ),
    ],
)
def test_multiply_adds_of_a_dense_update_are_those_pytorch_counts(variant: str, side: int, plain: PlainDense) -> None:
    pixels = torch.zeros(8, 4, side, side)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            plain(pixels)
            plain(pixels)
        plain(pixels).sum().backward()
    assert multiply_adds_of_update(_spec(variant), batch=8) == counter.get_total_flops() // 2


def test_noise_adds_no_matrix_products() -> None:
    assert products_of_update(_spec("rainbow")) == products_of_update(_spec("denoised"))


@given(
    factorization=st.sampled_from(["tucker", "tt", "cp"]),
    in_shape=st.lists(st.integers(2, 12), min_size=1, max_size=3),
    out_shape=st.lists(st.integers(2, 12), min_size=1, max_size=2),
    rank=st.integers(1, 5),
)
def test_a_factorised_layers_count_is_never_above_an_order_found_by_opt_einsum(
    factorization: str, in_shape: list[int], out_shape: list[int], rank: int
) -> None:
    modes = len(in_shape) + len(out_shape)
    ranks = {"tucker": (rank,) * modes, "tt": (rank,) * (modes - 1), "cp": (rank,)}[factorization]
    operands, output, sizes = layer_network(in_shape, out_shape, factorization, ranks)
    sizes[BATCH] = 32
    shapes = [tuple(sizes[label] for label in operand) for operand in operands]
    path, _ = opt_einsum.contract_path(f"{','.join(operands)}->{output}", *shapes, shapes=True, optimize="optimal")
    found = sum(product.multiply_adds for product in cheapest_products("", operands, output, sizes))
    # Not always equal: opt_einsum does not know that an update repeats what holds the batch more often.
    assert found <= sum(_price_of_path(list(operands), output, sizes, path))


def _price_of_path(
    operands: list[str], output: str, sizes: dict[str, int], path: list[tuple[int, ...]]
) -> Iterator[int]:
    """Multiply-adds over an update of each step of a path: all labels of the pair, as often as it is done."""
    for step in path:
        pair = [operands.pop(position) for position in sorted(step, reverse=True)]
        labels = set("".join(pair))
        yield math.prod(sizes[label] for label in labels) * (3 + 2 if BATCH in labels else 2 + 2)
        operands.append("".join(sorted(labels & set("".join(operands) + output))))


def test_a_full_tucker_layer_is_cheapest_as_its_dense_weight_or_cheaper() -> None:
    """At full rank the weight can be built first: then one product of dense size, and what building costs."""
    operands, output, sizes = layer_network((8, 3, 3), (16,), "tucker", (8, 3, 3, 16))
    sizes[BATCH] = 10_000
    products = cheapest_products("", operands, output, sizes)
    (largest,) = [product for product in products if product.forward == 3]
    assert (largest.rows, largest.inner, largest.columns) in {(10_000, 72, 16), (16, 72, 10_000)}


def test_the_products_timed_alone_are_all_of_an_updates_arithmetic() -> None:
    products = products_of_update(_spec("trl-5x"), batch=4)
    with floor.count_flops() as counter:
        floor.seconds_of_products(products, lambda: 0.0)
    # Once to warm up, once timed.
    assert counter.get_total_flops() == 2 * 2 * multiply_adds_of_update(_spec("trl-5x"), batch=4)


def test_an_update_executes_no_less_than_its_floor_and_little_more() -> None:
    trial = Trial("trl-10x", "pong", warm_up=40, seed=0)
    try:
        trial.advance(41)
        executed = floor.executed_multiply_adds(trial.training)
        step, phases = floor.phases_of_step(trial.training, 3)
    finally:
        trial.close()
    least = multiply_adds_of_update(trial.training.agent.network.spec)
    assert least <= executed <= 1.1 * least
    assert sum(phases.values()) == pytest.approx(step)
    assert phases["update"] > 0
    assert "apply_update" not in vars(trial.training.agent)  # the timers are gone


def test_operators_are_told_apart_by_name() -> None:
    expected = {
        "aten::mm": "matrix products",
        "mkldnn::_linear_pointwise": "matrix products",
        "aten::mul_": "elementwise and sums",
        "aten::_fused_adam_": "optimizer and clipping",
        "aten::_foreach_norm": "optimizer and clipping",
        "aten::to": "copies, conversions, gathers",
        "aten::t": "allocations and views",
        "aten::_log_softmax_backward_data": "softmax",
        "autograd::engine::evaluate_function: MmBackward0": "autograd's engine",
        "Optimizer.step#Adam.step": "Python between operators",
    }
    assert {name: floor.kind_of(name) for name in expected} == expected


# Statistics and the machine


def test_ratios_are_taken_round_by_round() -> None:
    # Both are ten times slower in the second round: the ratio does not move.
    assert ratio([8.0, 0.8, 8.0], [2.0, 0.2, 2.0]) == pytest.approx(Spread(4.0, 4.0, 4.0))
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_busy_time_leaves_idle_and_waiting_out(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    #            user nice system idle iowait irq softirq steal guest
    stat.write_text("cpu  100 20 30 9000 500 1 2 47 100 0\ncpu0 1 2 3\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(stat) == pytest.approx((100 + 20 + 30 + 1 + 2 + 47) / ticks)
    assert busy_seconds(tmp_path / "absent") is None


# The emulator that all share


def test_every_contestant_sees_the_same_frames() -> None:
    plain, stacked = AtariGame("pong", 3), StackedGame("pong", 3)
    last, scaled = StackedGame("pong", 3, channels_last=True), StackedGame("pong", 3, scaled=True)
    tensors = TensorGame("pong", 3)
    try:
        first = plain.begin_game()
        seen = [stacked.reset()[0], last.reset()[0], scaled.reset()[0], tensors.reset()]
        assert [tuple(s.shape) for s in seen] == [(4, 84, 84), (84, 84, 4), (4, 84, 84), (4, 84, 84)]
        frames = [first.copy()]
        for action in (2, 3, 0, 2, 5):
            plain.send(action)
            frames.append(plain.receive().frame.copy())
            seen = [stacked.step(action)[0], last.step(action)[0], scaled.step(action)[0], tensors.step(action)[0]]
        for back in range(4):
            frame = torch.from_numpy(frames[-1 - back]).float()
            assert torch.equal(torch.as_tensor(seen[0][3 - back]).float(), frame)
            assert torch.equal(torch.as_tensor(seen[1][..., 3 - back].copy()).float(), frame)
            assert torch.equal(torch.as_tensor(seen[2][3 - back]), frame / 128 - 1)
            assert torch.equal(torch.as_tensor(seen[3][3 - back]), frame / 255)
    finally:
        for game in (plain, stacked, last, scaled, tensors):
            game.close()


# Peers from checkouts, whose place small stand-ins take

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


# Processes of their own


def test_a_contest_goes_on_without_who_fails_and_saves_windows_of_one_update_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures" / "throughput.json"
    arguments = "--quick --threads 1 --only trl-10x kaixhin --warm-up 60 --window 7 --rounds 3 --no-pair --json"
    monkeypatch.setattr("sys.argv", ["throughput", *arguments.split(), str(file)])
    with pytest.raises(SystemExit) as left:
        throughput.main()
    assert left.value.code == 1
    shown = capsys.readouterr().out
    assert "failed: kaixhin: InputError: contestant kaixhin: give a checkout of it, --kaixhin PATH" in shown
    saved = json.loads(file.read_text())
    assert {"machine", "versions", "commit", "load_average", "options"} <= saved.keys()
    (row,) = saved["figures"]["contestants"]
    assert (
        row["coefficients"] == network_spec(variants.resolve("trl-10x"), games.get("pong").actions).total_coefficients()
    )
    assert [(window["steps"], window["updates"]) for window in row["windows"]] == [(7, 7)] * 3
    rates = sorted(window["steps"] / window["seconds"] for window in row["windows"])
    assert row["steps_per_second"] == pytest.approx({"median": rates[1], "lowest": rates[0], "highest": rates[2]})
    assert all(window["peak_bytes"] > 50 * 2**20 for window in row["windows"])


class FakeEntrant:
    """Answers each window with the next of the seconds it was given."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = iter(seconds)
        self._asked = 0

    def __enter__(self) -> FakeEntrant:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin_window(self, steps: int) -> None:
        self._asked = steps

    def end_window(self) -> Window:
        return Window(self._asked, self._asked, next(self._seconds), cpu_seconds=1.0, peak_bytes=1)

    def window(self, steps: int) -> Window:
        self.begin_window(steps)
        return self.end_window()


def test_two_trials_count_no_faster_than_the_slower_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = {(1, 0): [1.0, 2.0], (1, 1): [2.0, 4.0], (2, 0): [1.0, 2.0]}
    monkeypatch.setattr(
        throughput.Plan, "enter", lambda self, name, threads, seed=0: FakeEntrant(entrants[threads, seed])
    )
    found = throughput.two_trials("rainbow", throughput.Plan("pong", 10, window=100, rounds=2, checkouts={}))
    assert found["together_steps_per_second"] == {"median": 75.0, "lowest": 50.0, "highest": 100.0}
    assert found["alone_steps_per_second"] == {"median": 75.0, "lowest": 50.0, "highest": 100.0}
    assert found["ratio"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}


def test_everyone_built_takes_part_unless_some_are_named() -> None:
    everyone = throughput.contestants(None, {"kaixhin": Path("x")})
    assert {"rainbow", "denoised", "trl-5x", "trl-10x", "rainbow@rllib", "rllib", "sb3", "kaixhin"} <= set(everyone)
    assert "cleanrl" not in everyone
    assert all(name in everyone for name in throughput.OURS)
    assert throughput.contestants(["rllib", "rainbow", "rllib"], {}) == ["rllib", "rainbow"]


# Replay


def test_a_filled_replay_has_done_as_many_steps_as_asked_and_holds_no_more_than_fit() -> None:
    small, wrapped = replay.fill(150, 400), replay.fill(1_500, 400)
    # 20 steps wait for their return; every game writes its first frame, its last transition none.
    assert small.count == 150 - 19
    assert 350 < wrapped.count <= 400
    each = [replay.Filled(150, small), replay.Filled(1_500, wrapped)]
    clock = iter(range(10**6))
    replay.measure(each, rounds=2, calls=3, clock=lambda: next(clock) * 1e-6)
    # A clock that ticks a microsecond a reading: draw, sample and priorities are one interval each.
    assert each[1].both == pytest.approx([2.0, 2.0])
    assert replay.figures_of(each[1], each[0])["to_first"]["median"] == pytest.approx(1.0)


def test_one_threads_clock_is_refused_for_two() -> None:
    with pytest.raises(InputError, match=r"--clock cpu with --threads \[2\]"):
        floor.parse(["--clock", "cpu", "--threads", "2"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rllib", "rainbow@rllib"])
def test_inside_rllib_there_is_one_update_a_step_too(name: str) -> None:
    with Entrant(name, threads=1, game="pong", warm_up=200) as entrant:
        window = entrant.window(200)
        assert window.steps == 200
        assert window.updates == 200
        assert entrant.torch_threads == 1


@pytest.mark.slow
def test_the_gpu_benchmark_measures_trials_side_by_side_on_a_cpu_too(tmp_path: Path) -> None:
    from benchmarks import gpu

    gpu.main(["--device", "cpu", "--at-once", "1", "2", "--steps", "20", "--json", str(tmp_path / "gpu.json")])
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert [row["trials"] for row in figures["at_once"]] == [1, 2]
    assert all(row["steps_per_second"] > 0 for row in figures["at_once"])


# What Tune and MLflow cost


def test_two_trials_are_timed_only_while_both_learn() -> None:
    early = [(0.0, 1_000), (10.0, 2_000), (20.0, 3_000), (30.0, 4_000)]
    late = [(15.0, 1_000), (20.0, 2_000), (25.0, 2_500), (30.0, 3_000)]
    # Both learn from 1,600 steps on, the later one's first report of it being at 20 s.
    assert overhead.together([early, late], 1_600) == pytest.approx(1_000 / 10 + 1_000 / 10)


def test_trials_that_never_learned_at_once_are_no_figure() -> None:
    early, late = [(0.0, 2_000), (5.0, 3_000)], [(6.0, 2_000), (9.0, 3_000)]
    with pytest.raises(overhead.Failed, match="at once"):
        overhead.together([early, late], 1_600)
    with pytest.raises(overhead.Failed, match="1 trials ran at once instead of 2"):
        overhead.together([early], 1_600)
