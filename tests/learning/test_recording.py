"""The recordings of a GPU, held where there is none: see `operator_recording`."""

import pytest
import torch

from tensorrl.learning.recording import WARM_UPS
from tensorrl.trial.run import TrialSpec, build_training
from tests.learning.operator_recording import HostSync, OperatorRecorder, Operators, Tape, name_of

EVERY_KIND = ["rainbow", "trl-5x", "kfac-trl-10x", "scattering", "pong-dqn"]


def build(variant, recorder=None, **overrides):
    spec = TrialSpec(
        game="pong",
        variant=variant,
        seed=3,
        steps=400,
        overrides={
            "learning_starts": 40,
            "final_episodes": 1,
            "target_interval": 20,
            "update_interval": 1,
            **overrides,
        },
    )
    return build_training(spec, torch.device("cpu"), recorder)


def state_of(training):
    agent, replay = training.agent, training.replay
    tensors = {
        **{f"network.{name}": value for name, value in agent.network.state_dict().items()},
        **{f"target.{name}": value for name, value in agent.target.state_dict().items()},
        **{f"average.{name}": value for name, value in agent.acting.state_dict().items()},
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


# Ways to hold learning back, off by default; resets come between recorded updates.
HELD_BACK = {"weight_decay": 0.01, "decoupled_weight_decay": True, "reset_interval": 15, "average_decay": 0.9}
# K-FAC's own step, where the variants take the length of Adam's.
PLAIN_KFAC = {"kfac_graft": False, "kfac_relative_damping": False}


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        *((variant, {}) for variant in EVERY_KIND),
        ("kfac-trl-10x", PLAIN_KFAC),
        ("rainbow", HELD_BACK),
        ("kfac-trl-10x", {**HELD_BACK, "kfac_relative_damping": False, "kfac_eigenbasis": True}),
    ],
)
def test_recorded_steps_end_at_the_bits_of_steps_that_are_not_recorded(variant, settings):
    recorder = OperatorRecorder()
    recorded = build(variant, recorder, **settings)
    plain = build(variant, OperatorRecorder(replays=False), **settings)
    for training in (recorded, plain):
        training.run(80)
        training.close()
    assert {"look_at_sample", "learn", "_write", "_update_priorities"} <= set(recorder.tapes)
    assert recorded.agent.updates == plain.agent.updates == 40
    mine, theirs = state_of(recorded), state_of(plain)
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []


# What `torch.use_deterministic_algorithms` of PyTorch 2.13 lists for CUDA, by operator, and when it counts.
NOT_REPEATABLE = {
    "index_put": "always", "index_put_": "always", "_index_put_impl_": "always", "put_": "always",
    "index_add": "always", "index_add_": "always", "index_copy": "always", "index_copy_": "always",
    "scatter_add": "always", "scatter_add_": "always", "scatter": "of a tensor", "scatter_": "of a tensor",
    "scatter_reduce": "sum mean prod", "scatter_reduce_": "sum mean prod", "cumsum": "floats",
    "histc": "always", "bincount": "always", "median": "always", "nll_loss_forward": "always",
    "index_select_backward": "always", "gather_backward": "always", "embedding_dense_backward": "always",
}  # fmt: skip


def is_repeatable(function, args):
    when = NOT_REPEATABLE.get(name_of(function))
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if when == "floats":
        return not tensors[0].is_floating_point()
    if when == "of a tensor":
        return len(tensors) < 3
    if when and " " in when:
        return not any(arg in when.split() for arg in args if isinstance(arg, str))
    return when is None


@pytest.mark.parametrize("variant", ["rainbow", "kfac-trl-10x"])
def test_recorded_steps_use_no_operator_that_pytorch_calls_not_deterministic_on_cuda(variant):
    recorder = OperatorRecorder()
    training = build(variant, recorder)
    training.run(60)
    training.close()
    calls = [call for tape in recorder.tapes.values() for call in tape.calls]
    assert len(calls) > 200
    assert sorted({name_of(function) for function, args, _, _ in calls if not is_repeatable(function, args)}) == []


@pytest.mark.parametrize("settings", [{}, PLAIN_KFAC], ids=["grafted", "plain"])
def test_a_recorded_step_of_kfac_exchanges_only_tensors_without_gaps_with_the_parameters(settings):
    """PyTorch's CUDA kernels take many tensors at once only where each is dense and lies as its partner does."""
    recorder = OperatorRecorder()
    training = build("kfac-trl-10x", recorder, **settings)
    training.run(60)
    training.close()
    calls = [call for call in recorder.tapes["learn"].calls if name_of(call[0]).startswith("_foreach")]
    lists = [[arg for arg in args if isinstance(arg, list | tuple)] for _, args, _, _ in calls]
    tensors = [tensor for each in lists for arg in each for tensor in arg if isinstance(tensor, torch.Tensor)]
    assert len(tensors) >= 100
    assert all(1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) == t.numel() for t in tensors)
    pairs = [pair for each in lists if len(each) > 1 for pair in zip(*each, strict=True)]
    assert all(a.stride() == b.stride() for a, b in pairs)


def test_the_list_of_operators_sees_a_breach():
    with Operators() as seen:
        torch.zeros(4)[torch.tensor([1, 1])] = torch.ones(2)
        torch.ones(4).cumsum(0)
        torch.ones(4, dtype=torch.int64).cumsum(0)
        torch.zeros(4).scatter_reduce_(0, torch.tensor([1]), torch.ones(1), "amax")
    assert [name_of(f) for f, args, _ in seen.seen if not is_repeatable(f, args)] == ["index_put_", "cumsum"]


def test_a_value_asked_for_inside_a_recording_raises():
    recorder = OperatorRecorder()
    total = torch.zeros(())
    asks = recorder.record(lambda: float(total.add_(1)))
    for _ in range(WARM_UPS):
        asks()
    with pytest.raises(HostSync, match="_local_scalar_dense"):
        asks()


def test_few_operators_are_left_outside_of_recordings():
    training = build("trl-5x", OperatorRecorder(), target_interval=2_000)
    training.run(60)
    with Operators() as outside:
        tape_free(training, 20)
    training.close()
    assert sum(outside.names.values()) / 20 <= 6


def tape_free(training, steps):
    """Runs steps whose replays are not seen by a mode that counts: a graph's launch is no operator."""
    replay = Tape.replay
    try:
        Tape.replay = lambda self: _unseen(lambda: replay(self))
        training.run(steps)
    finally:
        Tape.replay = replay


def _unseen(function):
    with torch.utils._python_dispatch._disable_current_modes():
        function()


def test_a_state_of_another_kind_of_device_goes_on_with_draws_of_its_own():
    first, second, third = (build("rainbow", learning_starts=20) for _ in range(3))
    first.run(40)
    state = first.get_state()
    # As long as a GPU's: seed and offset.
    state["agent"]["generator"] = torch.arange(16, dtype=torch.uint8)
    for other in (second, third):
        other.set_state(state)
        assert other.agent.reseeded
    draws = [torch.rand(8, generator=other.agent.generator) for other in (second, third)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(8, generator=torch.Generator().manual_seed(3)))
    second.set_state(first.get_state())
    assert not second.agent.reseeded
    for training in (first, second, third):
        training.close()


def test_a_target_that_holds_its_weights_follows_the_network():
    training = build("trl-5x", OperatorRecorder(), learning_starts=20, target_interval=10)
    agent, factorised = training.agent, build("trl-5x").agent.target
    training.run(40)
    training.close()
    assert agent.updates == 20
    stacks = training.replay.latest_stack()
    factorised.load_state_dict(agent.target.state_dict())
    with torch.no_grad():
        held, plain, learned = agent.target(stacks), factorised(stacks), agent.network(stacks)
    torch.testing.assert_close(held, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(held, learned, rtol=1e-4, atol=1e-5)
