"""The policy of evaluation, and the games it plays: the same ones however many are played at once."""

import numpy as np
import pytest
import torch

from tensorrl.environments.atari import action_count, game_seed, make_vector_env
from tensorrl.environments.evaluation import Episode, EvaluationGames
from tensorrl.trial.evaluation import Evaluator, StackedPolicy, evaluate
from tensorrl.trial.settings import network_spec
from tensorrl.trial.training import build_network
from tensorrl.trial.variants import resolve
from tests.learning.operator_recording import OperatorRecorder, name_of
from tests.learning.test_recording import is_repeatable


def untrained(variant="trl-10x", actions=4, seed=0):
    return build_network(network_spec(resolve(variant), actions), seed).eval()


@torch.no_grad()
def in_step(network, game, *, episodes, seed, epsilon):
    """Evaluation at its plainest: games side by side, a pass over all their stacks at each step, all to the end.

    Every 16th game has the same place.
    """
    count = min(16, episodes)
    env = make_vector_env(game, count, threads=1)
    places, results = list(range(count)), {}
    explorers = [np.random.default_rng((seed, k)) for k in places]
    scores, steps, begins = np.zeros(count), np.zeros(count, dtype=int), np.ones(count, dtype=bool)
    seen = env.reset(seed=np.array([game_seed(seed, k) for k in places]))[0]
    stacks = torch.zeros(count, 4, *network.torso.stored_shape, dtype=network.torso.stored_dtype)
    while len(results) < episodes:
        stored = network.torso.encode(torch.from_numpy(seen[:, 0].copy()))
        stacks = torch.cat((stacks[:, 1:], stored[:, None]), 1)
        stacks[torch.from_numpy(begins), :-1] = 0
        actions = network.q_values(network(stacks)).argmax(1).numpy()
        for place, explorer in enumerate(explorers):
            if explorer.random() < epsilon:
                actions[place] = explorer.integers(action_count(env))
        seen, rewards, terminated, truncated, info = env.step(actions)
        scores, steps = scores + rewards, steps + 1
        begins = truncated | (terminated & (info["lives"] == 0))
        for place in np.flatnonzero(begins).tolist():
            if places[place] < episodes:
                results[places[place]] = Episode(float(scores[place]), int(steps[place]))
            places[place] += count
            explorers[place] = np.random.default_rng((seed, places[place]))
            scores[place] = steps[place] = 0
        if begins.any():
            seeds = np.array([game_seed(seed, places[place]) for place in np.flatnonzero(begins)])
            seen = env.reset(seed=seeds, options={"reset_mask": begins})[0]
    env.close()
    return [results[k] for k in range(episodes)]


def same_games(game, variant, episodes, ways):
    network = untrained(variant, {"breakout": 4, "assault": 7}[game])
    how = {"episodes": episodes, "seed": 5, "epsilon": 0.3}
    expected = in_step(network, game, **how)
    assert len(set(expected)) > 1
    evaluator = Evaluator(network, game)
    for at_once, threads in ways:
        assert evaluator.play(at_once=at_once, threads=threads, **how) == expected, (at_once, threads)
    evaluator.close()


def test_games_are_those_of_all_stacks_in_one_pass_however_many_are_played_at_once():
    same_games("breakout", "trl-10x", 3, [(None, 1), (2, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rainbow", "denoised", "trl-5x", "scattering", "pong-dqn"])
def test_more_games_than_a_pass_has_rows_are_those_of_all_stacks_in_one_pass(variant):
    same_games("breakout", variant, 21, [(None, 1), (1, 1), (5, 2), (None, 2), (21, 16)])


@pytest.mark.parametrize("variant", ["rainbow", "trl-5x", "scattering", "pong-dqn"])
def test_a_row_s_values_depend_neither_on_its_seat_nor_on_other_rows(variant):
    network = untrained(variant, 6)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (16, 84, 84), dtype=np.uint8)
    given = np.zeros((2, 16, 6), np.float32)
    for part, sizes in enumerate(([16], [5, 6, 13, 15])):
        policy = StackedPolicy(network, 40)
        for some in np.split(rng.permutation(16), sizes):
            seats = rng.choice(40, len(some), replace=False)
            for seat, row in zip(seats.tolist(), some.tolist(), strict=True):
                assert policy.see(seat, frames[row], begins=True) is None
            if len(some):
                policy.choose(seats.tolist(), some.tolist())
                given[part, some] = policy.q_values[seats]
    assert np.array_equal(*given)
    assert len(np.unique(given[0], axis=0)) == 16


def test_a_recorded_pass_plays_the_same_games_by_repeatable_operators():
    network = untrained()
    how = {"episodes": 2, "seed": 3, "epsilon": 0.3}
    recorder = OperatorRecorder()
    evaluator = Evaluator(network, "breakout", recorder)
    assert evaluator.play(**how) == evaluate(network, "breakout", **how)
    evaluator.close()
    calls = recorder.tapes["look"].calls
    assert sorted({name_of(function) for function, args, _, _ in calls if not is_repeatable(function, args)}) == []


def test_the_network_is_asked_only_where_a_frame_has_changed():
    network = untrained(actions=6)
    asked = []
    network.register_forward_hook(lambda *_: asked.append(1))
    policy = StackedPolicy(network, 2)
    rng = np.random.default_rng(0)
    still, other = rng.integers(0, 256, (2, 84, 84), dtype=np.uint8)
    frames = [still] * 6 + [other] + [still] * 6
    fresh, given = [], []
    for step, frame in enumerate(frames):
        before = len(asked)
        action = policy.see(1, frame.copy(), begins=step == 0)
        given.append(policy.choose([1], [0])[0] if action is None else action)
        fresh.append(len(asked) > before)
        stack = np.stack([frames[k] if k >= 0 else np.zeros_like(frame) for k in range(step - 3, step + 1)])
        with torch.no_grad():
            stored = network.torso.encode(torch.from_numpy(stack))[None].expand(16, -1, -1, -1)
            assert given[-1] == int(network.q_values(network(stored))[0].argmax())
    # A still frame fills the stack with itself in four steps; only then is the stack the one before.
    assert fresh == [True] * 4 + [False] * 2 + [True] * 5 + [False] * 2
    assert policy.see(1, still, begins=True) is None  # a new game's first stack is not full of it


class Still:
    """Asks for a pass at every step of the games in `moving`, and at none of the others'."""

    batch = 16

    def __init__(self, moving):
        self.moving, self.passes, self.rows = moving, [], []

    def see(self, seat, frame, *, begins):
        return None if begins or seat in self.moving else 0

    def choose(self, seats, rows):
        self.passes.append(sorted(seats))
        self.rows.append(rows)
        return np.zeros(len(seats), dtype=np.int64)


def test_a_pass_that_is_not_full_waits_for_others_but_not_for_long():
    policy, over = Still({0, 1}), []
    games = EvaluationGames("assault")
    played = games.play(policy, episodes=4, seed=0, epsilon=0.0, on_episode=over.append)
    games.close()
    assert over == [1, 2, 3, 4]
    assert policy.passes[0] == [0, 1, 2, 3]
    pairs = sum(set(seats) == {0, 1} for seats in policy.passes[1:])
    # While others play, the two wait for each other, and each pass lets the others make a few steps.
    assert pairs > 0.8 * min(played[0].steps, played[1].steps)


def test_every_game_keeps_its_row_and_no_pass_has_two_games_of_one():
    policy = Still({0, 1, 2})
    policy.batch = 2
    games = EvaluationGames("breakout")
    played = games.play(policy, episodes=7, seed=0, epsilon=1.0, at_once=3)
    games.close()
    assert all(len(set(rows)) == len(rows) for rows in policy.rows)
    # Of seven games four have row 0, and three row 1, which are as many passes as those games have steps.
    asked = [sum(row in rows for rows in policy.rows) for row in (0, 1)]
    assert asked == [sum(game.steps for game in played[row::2]) for row in (0, 1)]


def test_games_after_a_failure_are_those_of_a_fresh_start():
    class Fails(Still):
        def choose(self, seats, rows):
            if len(self.passes) == 3:
                raise KeyboardInterrupt
            return super().choose(seats, rows)

    games, how = EvaluationGames("breakout"), {"episodes": 2, "seed": 1, "epsilon": 1.0}
    with pytest.raises(KeyboardInterrupt):
        games.play(Fails({0, 1}), **how)
    again = games.play(Still({0, 1}), **how)
    games.close()
    fresh = EvaluationGames("breakout")
    assert again == fresh.play(Still(set()), **how)
    fresh.close()
