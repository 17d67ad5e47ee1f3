"""A replay's state taken over by one of another capacity or n."""

import pytest
import torch

from tensorrl.learning.replay import Replay


def played(replay, steps, end=None):
    replay.begin_game(torch.full((2,), 0, dtype=torch.uint8))
    for step in range(1, steps + 1):
        over = step == end
        replay.add(0, float(step), torch.full((2,), step, dtype=torch.uint8), terminal=over, over=over)
    return replay


def taken(source, target):
    target.set_state(source.get_state())
    target.restore_frames(0, source.read_frames(0, source.writes))
    return target


def test_a_larger_replay_goes_on_from_a_smaller_ones_state():
    """A longer trial reserves more slots: what was learned from is the same."""
    small, large = (Replay(capacity, (2,), n_step=3) for capacity in (40, 90))
    played(small, 12)
    taken(small, large)
    for one in (small, large):
        one.add(0, 13.0, torch.full((2,), 13, dtype=torch.uint8), terminal=False, over=False)
    batches = [one.sample(8, 0.5, torch.Generator().manual_seed(1)) for one in (small, large)]
    for name in ("slots", "stacks", "returns", "discounts", "next_stacks", "weights"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name)), name


def test_a_replay_that_has_come_round_fits_no_other_size():
    small = played(Replay(40, (2,), n_step=3), 60)
    with pytest.raises(ValueError, match="does not fit 90 slots"):
        Replay(90, (2,), n_step=3).set_state(small.get_state())


def test_returns_that_are_overdue_by_a_smaller_n_are_those_a_smaller_n_gives():
    """Of 10 steps, n = 5 knows 6 returns; with n = 2 the next three are known at once, and those after as they come."""
    one, other = Replay(60, (2,), n_step=5, discount=0.5), Replay(60, (2,), n_step=2, discount=0.5)
    played(one, 10)
    played(other, 10)
    taken(one, changed := Replay(60, (2,), n_step=2, discount=0.5))
    for replay in (other, changed):
        replay.add(0, 11.0, torch.full((2,), 11, dtype=torch.uint8), terminal=True, over=True)
    overdue = slice(3 + 6, 3 + 11)
    for name in ("returns", "discounts", "bootstraps"):
        assert torch.equal(getattr(changed, name)[overdue], getattr(other, name)[overdue]), name
    assert changed.count == other.count
