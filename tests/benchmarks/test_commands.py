"""The benchmarks measure what they say: the arithmetic is counted right, contestants do one update a step, in turn."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import adam, floor, overhead, replay, throughput
from benchmarks.contest import Entrant, Spread, Window, busy_seconds, ratio
from benchmarks.peers.games import StackedGame, TensorGame
from tensorrl import games
from tensorrl.environments.atari import AtariGame
from tensorrl.errors import InputError
from tensorrl.trial import variants
from tensorrl.trial.run import run_trial
from tensorrl.trial.settings import network_spec
from tensorrl.trial.spec import make_spec


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


def test_a_run_goes_on_with_pytorchs_adam_and_with_ours_to_the_same_parameters(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("trl-10x", "kfac-trl-10x")]
    for run in runs:
        short = {"hidden": 16, "learning_starts": 30, "final_episodes": 1}
        spec = make_spec(game="pong", variant=run.name, seed=1, steps=60, overrides=short)
        run_trial(spec.model_copy(update={"threads": 1, "device": "cpu"}), run)
    clock = iter(range(10**6))
    found = adam.compare(runs[0], rounds=2, steps=4, clock=lambda: next(clock) * 1e-3)
    assert found["same_parameters"]
    assert found["subnormal"] == 0.0
    # A clock that ticks a millisecond a reading: each of the four steps is one interval.
    assert [side["median"] for side in found["adam_ms"]] == pytest.approx([1.0, 1.0])
    with pytest.raises(InputError, match="learns by K-FAC"):
        adam.compare(runs[1], rounds=1, steps=1, clock=lambda: 0.0)


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
