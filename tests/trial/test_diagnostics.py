"""Figures of a report against brute force over a short real trial."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tensorrl.learning.replay import Replay
from tensorrl.trial import diagnostics
from tensorrl.trial.run import build_training
from tensorrl.trial.spec import make_spec
from tensorrl.trial.training import Training, parameters_sha256

STEPS = 270


def _training(variant: str = "denoised", **settings: Any) -> Training:
    overrides = {"hidden": 16, "learning_starts": 120, "epsilon_decay": 1000, "target_interval": 50, **settings}
    spec = make_spec(game="breakout", variant=variant, seed=5, steps=1000, overrides=overrides)
    return build_training(spec, torch.device("cpu"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Training, set[int]]]:
    """A trial in progress, and the slots that its updates sampled."""
    sampled: set[int] = set()
    original = Replay.update_priorities

    def spy(self: Replay, slots: torch.Tensor, losses: torch.Tensor) -> None:
        sampled.update(slots.tolist())
        original(self, slots, losses)

    monkeypatch.setattr(Replay, "update_priorities", spy)
    training = _training()
    training.run(STEPS)
    yield training, sampled
    training.close()


def _cross_entropy(training: Training, slot: int) -> float:
    """The loss of one transition, term by term."""
    agent, replay = training.agent, training.replay
    support = agent.network.support
    stack = replay._gather(torch.tensor([slot]))
    ahead = replay._gather(replay.bootstraps[slot][None])
    with torch.no_grad():
        best = int((agent.network(ahead).softmax(2) @ support).argmax())
        probabilities = agent.target(ahead)[0, best].softmax(0)
        logs = agent.network(stack)[0, int(replay.actions[slot])].log_softmax(0)
    loss, top = 0.0, len(support) - 1
    for j, probability in enumerate(probabilities.tolist()):
        aim = float(replay.returns[slot]) + float(replay.discounts[slot]) * float(support[j])
        place = (min(max(aim, -10.0), 10.0) + 10) / 20 * top
        lower = min(int(place), top - 1)
        loss -= probability * ((lower + 1 - place) * float(logs[lower]) + (place - lower) * float(logs[lower + 1]))
    return loss


def test_held_out_loss_is_that_of_every_transition_no_update_has_sampled(trained: tuple[Training, set[int]]) -> None:
    training, sampled = trained
    replay = training.replay
    valid = (replay.distribution.priorities.view(-1) > 0).nonzero()[:, 0].tolist()
    held_out = [slot for slot in valid if slot not in sampled]
    fitted = [slot for slot in valid if slot in sampled]
    assert 5 < len(held_out) < diagnostics.COUNT < len(fitted)
    found = diagnostics.figures(training.agent, replay)
    mean = sum(_cross_entropy(training, slot) for slot in held_out) / len(held_out)
    assert found["loss_held_out"] == pytest.approx(mean, rel=1e-4)
    beside = [min((s for s in fitted if s > slot), default=fitted[-1]) for slot in held_out]
    mean = sum(_cross_entropy(training, slot) for slot in beside) / len(beside)
    assert found["loss_beside_held_out"] == pytest.approx(mean, rel=1e-4)
    places = torch.linspace(0, len(fitted) - 1, diagnostics.COUNT).round().long().tolist()
    mean = sum(_cross_entropy(training, fitted[place]) for place in places) / len(places)
    assert found["loss_unweighted"] == pytest.approx(mean, rel=1e-4)


def test_returns_that_followed_are_the_discounted_rewards_to_the_end_of_the_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story: list[tuple[int, float, bool]] = []
    original = Replay.add

    def spy(self: Replay, action: int, reward: float, frame: torch.Tensor, *, terminal: bool, over: bool) -> None:
        story.append((int(self.newest), reward, terminal))
        original(self, action, reward, frame, terminal=terminal, over=over)

    monkeypatch.setattr(Replay, "add", spy)
    training = _training(learning_starts=10_000)
    training.run(400)
    slots, followed = diagnostics.returns_that_followed(training.replay)
    training.close()
    last = max(k for k, (_, _, terminal) in enumerate(story) if terminal)
    expected, value = {}, 0.0
    for slot, reward, terminal in reversed(story[: last + 1]):
        value = reward + (0.0 if terminal else 0.99 * value)
        expected[slot] = value
    assert sum(terminal for _, _, terminal in story) >= 3
    assert any(value > 0 for value in expected.values())
    assert slots.tolist() == sorted(expected)
    torch.testing.assert_close(followed, torch.tensor([expected[slot] for slot in slots.tolist()]))


def test_dead_units_are_those_that_no_state_turns_on(trained: tuple[Training, set[int]]) -> None:
    training, _ = trained
    before = diagnostics.figures(training.agent, training.replay)["dead_units"]
    with torch.no_grad():
        training.agent.network.value_hidden.bias[:4] = -1e6
    after = diagnostics.figures(training.agent, training.replay)["dead_units"]
    assert 4 / 32 <= after <= before + 4 / 32


@pytest.mark.parametrize("variant", ["rainbow", "kfac-trl-5x", "pong-dqn"])
def test_looking_changes_nothing_and_is_there_after_a_resume(variant: str) -> None:
    settings = {"learning_starts": 200, "hidden": 256 if variant == "kfac-trl-5x" else 16}
    trainings = [_training(variant, **settings) for _ in range(2)]
    for training in trainings:
        training.run(205)
    looked = diagnostics.figures(trainings[0].agent, trainings[0].replay)
    assert {"loss_unweighted", "loss_held_out", "loss_beside_held_out", "dead_units"} <= looked.keys()
    # NoisyNet need not have pressed FIRE.
    assert variant == "rainbow" or {"q_chosen", "return_followed"} <= looked.keys()
    assert ("kfac_directions" in looked) == variant.startswith("kfac")
    resumed = _training(variant, **settings)
    resumed.set_state(copy.deepcopy(trainings[1].get_state()))
    resumed.replay.restore_frames(0, trainings[1].replay.read_frames(0, trainings[1].replay.writes))
    for training in (*trainings, resumed):
        training.run(8)
    digests = {parameters_sha256(training.agent.network) for training in (*trainings, resumed)}
    assert len(digests) == 1
    results = [diagnostics.figures(training.agent, training.replay) for training in (*trainings, resumed)]
    assert results[0] == results[1] == results[2]
    for training in (*trainings, resumed):
        training.close()
