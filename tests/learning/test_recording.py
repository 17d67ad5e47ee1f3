"""The recordings of a GPU, held where there is none: see `operator_recording`."""

import pytest
import torch

from tensorrl.trial.run import TrialSpec, build_training
from tests.learning.operator_recording import OperatorRecorder

EVERY_KIND = ["rainbow", "trl-5x", "kfac-trl-10x", "scattering", "pong-dqn"]


def build(variant, recorder=None, **overrides):
    spec = TrialSpec(
        game="pong",
        variant=variant,
        seed=3,
        steps=400,
        overrides={"learning_starts": 40, "final_episodes": 1, "target_interval": 20, **overrides},
    )
    return build_training(spec, torch.device("cpu"), recorder)


def state_of(training):
    agent, replay = training.agent, training.replay
    tensors = {
        **{f"network.{name}": value for name, value in agent.network.state_dict().items()},
        **{f"target.{name}": value for name, value in agent.target.state_dict().items()},
        "priorities": replay.distribution.priorities,
        "sums": replay.distribution.sums,
        "largest priority": replay.max_priority,
        "frames": replay.frames,
        "actions": replay.actions,
        "returns": replay.returns,
        "discounts": replay.discounts,
        "bootstraps": replay.bootstraps,
        "loss": agent.loss_sum,
        "generator": agent.generator.get_state(),
    }
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("variant", EVERY_KIND)
def test_recorded_steps_end_at_the_bits_of_steps_that_are_not_recorded(variant):
    recorder = OperatorRecorder()
    recorded, plain = build(variant, recorder), build(variant, OperatorRecorder(replays=False))
    for training in (recorded, plain):
        training.run(80)
        training.game.close()
    assert {"look_at_sample", "learn", "_write", "_update_priorities"} <= set(recorder.tapes)
    assert recorded.agent.updates == plain.agent.updates == 40
    mine, theirs = state_of(recorded), state_of(plain)
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
