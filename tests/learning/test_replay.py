import numpy as np
import pytest
import torch
from scipy import stats

from tensorrl.learning.distribution import SumBlocks, WholeSumBlocks
from tensorrl.learning.replay import Replay

N, GAMMA, STACK = 5, 0.9, 4


class Story:
    """A random stream of games, with a lost life, a game over or a cut-off now and then, and all that was seen."""

    def __init__(self, replay, steps, seed=0, end=0.1):
        rng = np.random.default_rng(seed)
        self.observations, self.steps, self.ends, clock = [], [], [], 0
        history = []

        def see(first):
            nonlocal clock, history
            clock += 1
            frame = torch.full(replay.frame_shape, clock % 251 + 1, dtype=torch.uint8)
            history = [*([] if first else history), frame][-STACK:]
            self.observations.append([torch.zeros_like(frame)] * (STACK - len(history)) + history)
            return frame

        replay.begin_game(see(first=True))
        for _ in range(steps):
            kind = rng.choice(["on", "life", "over", "cut"], p=[1 - end, end / 3, end / 3, end / 3])
            reward, action = float(rng.integers(-1, 2)), int(rng.integers(6))
            before = self.observations[-1]
            frame = see(first=False)
            replay.add(action, reward, frame, terminal=kind in ("life", "over"), over=kind in ("over", "cut"))
            self.steps.append((before, action, reward, kind, self.observations[-1]))
            if kind in ("over", "cut"):
                replay.begin_game(see(first=True))

    def transitions(self):
        """Every transition whose n-step return is known, by a loop: (stack, action, return, discount, next stack)."""
        found = []
        for start in range(len(self.steps)):
            value, power = 0.0, 1.0
            for length in range(1, N + 1):
                if start + length > len(self.steps):
                    break
                _, _, reward, kind, after = self.steps[start + length - 1]
                value += power * reward
                power *= GAMMA
                if kind in ("life", "over"):
                    found.append((start, value, 0.0, None))
                    break
                if kind == "cut" or length == N:
                    found.append((start, value, power, after))
                    break
        return [(*self.steps[start][:2], value, power, after) for start, value, power, after in found]


def make(capacity=400, **kwargs):
    return Replay(capacity, (2, 3), stack=STACK, n_step=N, discount=GAMMA, **kwargs)


def everything(replay):
    slots = torch.nonzero(replay.distribution.priorities.view(-1)).squeeze(1)
    stacks = replay._gather(slots)
    after = replay._gather(replay.bootstraps[slots])
    return slots, stacks, after


@pytest.mark.parametrize("seed", range(5))
def test_every_step_before_an_end_can_be_sampled_with_its_brute_force_return(seed):
    replay = make()
    story = Story(replay, 250, seed)
    expected = story.transitions()
    slots, stacks, after = everything(replay)
    assert len(slots) == replay.count == len(expected)
    assert sum(kind != "on" for *_, kind, _ in story.steps) > 10
    for row, (before, action, value, power, target) in enumerate(expected):
        slot = slots[row]
        assert int(replay.actions[slot]) == action
        assert float(replay.returns[slot]) == pytest.approx(value, abs=1e-6)
        assert float(replay.discounts[slot]) == pytest.approx(power, abs=1e-6)
        assert torch.equal(stacks[row], torch.stack(before))
        if target is not None:
            assert torch.equal(after[row], torch.stack(target))


def test_last_steps_before_an_end_are_drawn():
    replay = make()
    frame = torch.ones(2, 3, dtype=torch.uint8)
    replay.begin_game(frame)
    for step in range(30):
        replay.add(0, 1.0, frame, terminal=step == 29, over=step == 29)
    drawn = replay.sample(512, 1.0, torch.Generator().manual_seed(0))
    lengths = {round(float(r), 4) for r in drawn.returns}
    truncated = {round(sum(GAMMA**k for k in range(m)), 4) for m in range(1, N + 1)}
    assert truncated <= lengths


def test_a_full_ring_forgets_the_oldest_and_mixes_no_frames():
    replay = make(capacity=64)
    story = Story(replay, 500, seed=3)
    slots, stacks, after = everything(replay)
    assert len(slots) == replay.count
    assert 40 <= replay.count <= 64
    known = {}
    for before, action, value, power, target in story.transitions():
        key = (torch.stack(before).numpy().tobytes(), action)
        known.setdefault(key, []).append((value, power, None if target is None else torch.stack(target)))
    for row, slot in enumerate(slots):
        key = (stacks[row].numpy().tobytes(), int(replay.actions[slot]))
        matches = [
            (value, power, target)
            for value, power, target in known[key]
            if float(replay.returns[slot]) == pytest.approx(value, abs=1e-6)
            and (target is None or torch.equal(after[row], target))
        ]
        assert matches


def test_sampling_frequencies_follow_priorities():
    distribution = SumBlocks(1_000)
    rng = np.random.default_rng(0)
    priorities = rng.gamma(0.5, size=1_000)
    priorities[rng.random(1_000) < 0.2] = 0.0
    distribution.set(torch.arange(1_000), torch.from_numpy(priorities))
    generator, counts = torch.Generator().manual_seed(1), np.zeros(1_000)
    for _ in range(3_000):
        slots, drawn = distribution.sample(torch.rand(32, dtype=torch.float64, generator=generator))
        np.add.at(counts, slots.numpy(), 1)
        np.testing.assert_array_equal(drawn.numpy(), priorities[slots.numpy()])
    assert counts[priorities == 0].sum() == 0
    expected = counts.sum() * priorities / priorities.sum()
    large = expected > 5
    # Stratified draws vary less than independent ones, so only an excess of chi-square speaks against them.
    statistic = ((counts[large] - expected[large]) ** 2 / expected[large]).sum()
    assert stats.chi2.sf(statistic, df=large.sum() - 1) > 1e-3
    assert abs(counts[~large].sum() - expected[~large].sum()) < 6 * np.sqrt(expected[~large].sum() + 1)


def test_draws_never_fall_on_an_empty_slot_at_the_edges_of_the_strata():
    distribution = SumBlocks(600)
    distribution.set(torch.tensor([3, 63, 64, 599]), torch.tensor([1e-8, 1.0, 1e3, 1e-8], dtype=torch.float64))
    for uniform in (0.0, 1 - 2**-53):
        slots, _ = distribution.sample(torch.full((1_000,), uniform, dtype=torch.float64))
        assert set(slots.tolist()) <= {3, 63, 64, 599}


def test_importance_weights_follow_the_formula():
    replay = make()
    Story(replay, 200, seed=1)
    generator = torch.Generator().manual_seed(0)
    batch = replay.sample(32, 0.4, generator)
    replay.update_priorities(batch.slots, torch.rand(32) + 0.1)
    batch = replay.sample(32, 0.7, generator)
    flat = replay.distribution.priorities.view(-1)
    raw = (replay.count * flat[batch.slots] / flat.sum()) ** -0.7
    torch.testing.assert_close(batch.weights, (raw / raw.max()).float())


def test_new_transitions_get_the_largest_priority_seen():
    replay = make()
    Story(replay, 50, seed=2)
    replay.update_priorities(torch.tensor([0]), torch.tensor([16.0]))
    assert float(replay.max_priority) == 4.0
    replay.update_priorities(torch.tensor([0]), torch.tensor([1.0]))
    assert float(replay.max_priority) == 4.0
    frame = torch.zeros(2, 3, dtype=torch.uint8)
    slot = replay._slot
    replay.add(0, 0.0, frame, terminal=True, over=False)
    assert float(replay.distribution.priorities.view(-1)[slot]) == 4.0


def test_state_round_trip_goes_on_as_if_nothing_had_happened():
    first, second = make(capacity=64), make(capacity=64)
    Story(first, 300, seed=4)
    second.set_state(first.get_state())
    second.frames.copy_(first.frames)
    frame = torch.full((2, 3), 9, dtype=torch.uint8)
    for replay in (first, second):
        for step in range(20):
            replay.add(step % 3, 1.0, frame, terminal=step == 11, over=False)
    draws = [replay.sample(32, 0.5, torch.Generator().manual_seed(7)) for replay in (first, second)]
    for mine, other in zip(*draws, strict=True):
        assert torch.equal(mine, other)


def test_sampling_an_empty_replay_is_refused():
    with pytest.raises(ValueError, match="no transition"):
        make().sample(32, 0.4, torch.Generator())


@pytest.mark.parametrize("duplicate", [1.0, 3.0])
def test_whole_number_masses_draw_the_slots_that_float_ones_draw(duplicate):
    generator = torch.Generator().manual_seed(1)
    floats, wholes = SumBlocks(1_000), WholeSumBlocks(1_000)
    slots = torch.arange(3, 1_000, 7)
    priorities = torch.rand(len(slots), dtype=torch.float64, generator=generator) + 0.1
    for blocks in (floats, wholes):
        blocks.set(slots, priorities)
    # Of two values for one slot the larger stays.
    wholes.set(torch.tensor([3, 3]), torch.tensor([duplicate, 2.0], dtype=torch.float64))
    floats.set(torch.tensor([3]), max(duplicate, 2.0))
    for _ in range(200):
        uniforms = torch.rand(32, dtype=torch.float64, generator=generator)
        expected, drawn = floats.sample(uniforms), wholes.sample(uniforms)
        assert torch.equal(expected[0], drawn[0])
        assert torch.equal(expected[1], drawn[1])
