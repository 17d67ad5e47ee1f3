import numpy as np
import pytest

from tensorrl.environments.atari import AtariGame, game_seed
from tensorrl.environments.evaluation import play_episodes


def play(game, actions):
    steps = []
    for action in actions:
        game.send(int(action))
        steps.append(game.receive())
        if steps[-1].over:
            steps.append(game.begin_game())
    return steps


def same(first, second):
    def flat(step):
        return step if isinstance(step, np.ndarray) else step.frame

    return len(first) == len(second) and all(
        np.array_equal(flat(a), flat(b)) and (isinstance(a, np.ndarray) or a[1:] == b[1:])
        for a, b in zip(first, second, strict=True)
    )


def test_a_game_restored_in_its_middle_goes_on_to_the_same_frames():
    rng = np.random.default_rng(0)
    first, second = AtariGame("road_runner", 5), AtariGame("road_runner", 5)
    first.begin_game()
    play(first, rng.integers(18, size=700))
    assert first.games > 1
    second.set_state(first.get_state())
    assert (second.steps, second.games, second.score, second.length) == (
        first.steps, first.games, first.score, first.length,
    )  # fmt: skip
    actions = rng.integers(18, size=300)
    assert same(play(first, actions), play(second, actions))


def test_lives_after_the_first_are_seen():
    game = AtariGame("breakout", 0)
    game.begin_game()
    lost, over, rng = 0, False, np.random.default_rng(0)
    while not over:
        game.send(int(rng.integers(4)))
        step = game.receive()
        lost, over = lost + step.terminal, step.over
    assert lost == 5  # the fifth lost life ends the game


def test_another_seed_is_another_game():
    frames = []
    for seed in (0, 1):
        game = AtariGame("pong", seed)
        game.begin_game()
        frames.append([step.frame for step in play(game, [2] * 40)])
    assert not all(np.array_equal(a, b) for a, b in zip(*frames, strict=True))


def test_state_of_another_game_is_refused():
    game = AtariGame("pong", 0)
    game.begin_game()
    with pytest.raises(ValueError, match="pong"):
        AtariGame("breakout", 0).set_state(game.get_state())


def wave(frames, begins):
    """A deterministic policy of the frame alone."""
    return (frames.reshape(len(frames), -1).sum(1) % 6).astype(np.int64)


class EachFrame:
    """A policy of the newest frames alone: actions (seats,) of frames (seats, 84, 84) and which of them begin games."""

    batch = 16

    def __init__(self, choose):
        self._choose, self._seen = choose, {}

    def see(self, seat, frame, *, begins):
        self._seen[seat] = frame, begins

    def choose(self, seats, rows):
        frames, begins = zip(*(self._seen[seat] for seat in seats), strict=True)
        return self._choose(np.stack(frames), np.array(begins))


def test_evaluation_plays_all_lives_and_counts_true_rewards():
    def fire_and_sway(frames, begins):
        fire_and_sway.steps += 1
        return np.full(len(frames), [1, 2, 2, 3, 3][fire_and_sway.steps % 5], dtype=np.int64)

    fire_and_sway.steps = 0
    episodes = play_episodes("breakout", EachFrame(fire_and_sway), episodes=2, seed=0, epsilon=0.0)
    game, total, over, k = AtariGame("breakout", 0), 0.0, False, 0
    game._env.reset(seed=np.array([game_seed(0, 0)]))
    while not over:
        k += 1
        game.send([1, 2, 2, 3, 3][k % 5])
        step = game.receive()
        total, over = total + step.reward, step.over
    assert episodes[0] == (total, k)


def test_a_new_game_is_announced_to_the_policy():
    begun = []

    def policy(frames, begins):
        begun.append(begins.copy())
        return wave(frames, begins)

    play_episodes("pong", EachFrame(policy), episodes=2, seed=3, at_once=1, epsilon=1.0)
    assert begun[0].all()
    assert sum(b.any() for b in begun) == 2
