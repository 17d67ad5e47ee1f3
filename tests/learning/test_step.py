import copy

import pytest
import torch

from tensorrl.learning.recording import Recorded, Recorder
from tensorrl.optimizers.adam import FusedAdam
from tensorrl.trial.run import TrialSpec, build_training
from tests.learning.operator_recording import OperatorRecorder
from tests.learning.test_agent import make, make_batch

VARIANTS = ["rainbow", "trl-5x", "kfac-trl-10x"]


def training(variant, device="cpu", steps=400):
    spec = TrialSpec(
        game="pong",
        variant=variant,
        seed=3,
        steps=steps,
        overrides={"learning_starts": 100, "final_episodes": 1, "target_interval": 50, "update_interval": 1},
    )
    return build_training(spec, torch.device(device))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_does_what_sampling_acting_and_updating_do_one_after_the_other(variant):
    ours, plain = training(variant), training(variant)
    ours.run(160)
    agent, replay = plain.agent, plain.replay
    plain.run(0)
    for _ in range(160):
        explored = agent.explore(plain.epsilon)
        agent.begin_step()
        batch = replay.sample(32, plain.beta, agent.generator) if plain.steps >= 100 else None
        action = int(agent.choose(replay.latest_stack())) if explored is None else explored
        plain.game.send(action)
        if batch is not None:
            replay.update_priorities(batch.slots, agent.update(batch))
        outcome = plain.game.receive()
        reward = float((outcome.reward > 0) - (outcome.reward < 0))
        replay.add(action, reward, outcome.frame, terminal=outcome.terminal, over=outcome.over)
        plain.steps += 1
    assert ours.agent.updates == agent.updates == 60
    assert torch.equal(ours.replay.actions, replay.actions)
    for mine, theirs in zip(ours.agent.network.parameters(), agent.network.parameters(), strict=True):
        # One pass for acting and learning multiplies a row more, which may round differently.
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5)


def test_learning_before_anything_can_be_sampled_is_refused():
    trial = training("denoised")
    with pytest.raises(ValueError, match="no transition"):
        trial.agent.look(trial.replay, 32, 0.4)


@pytest.mark.gpu
def test_a_recording_does_its_work_once_a_call():
    total = torch.zeros((), device="cuda")
    recorded = Recorder(torch.device("cuda")).record(lambda: total.add_(1))
    for _ in range(10):
        recorded()
    assert recorded.is_recorded
    assert total.item() == 10


def updates_agree(variant, device, recorder):
    """Updates from the same weights, batches and noise do the same on a CPU and as a recorder's device does them."""
    here = make(variant)
    network = copy.deepcopy(here.network).to(device)
    there = type(here)(
        network,
        copy.deepcopy(here.target).to(device),
        FusedAdam(network.parameters(), lr=1e-3, eps=1.5e-4, capturable=device == "cuda"),
        recorder=recorder,
    )
    # A GPU's own generator draws other numbers. What is drawn here stays outside recordings: every batch is another.
    here.generator, there.generator = (torch.Generator().manual_seed(0) for _ in range(2))
    for seed in range(5):
        # From the same weights each time, or what is rounded differently grows from update to update.
        network.load_state_dict(here.network.state_dict())
        batch = make_batch(here, seed=seed)
        mine = here.update(batch)
        theirs = there.update(type(batch)(*(part if part is None else part.to(device) for part in batch)))
        torch.testing.assert_close(theirs.cpu(), mine, rtol=1e-3, atol=1e-4)
        for a, b in zip(here.network.parameters(), there.network.parameters(), strict=True):
            # A unit whose input is rounded to the other side of 0 changes a row of weights.
            apart = (b.detach().cpu() - a.detach()).abs() > 1e-4 + 1e-2 * a.detach().abs()
            assert apart.float().mean() < 0.01


UPDATED = ["rainbow", "denoised", "trl-5x", "trl-10x", "pong-dqn"]


@pytest.mark.gpu
@pytest.mark.parametrize("variant", UPDATED)
def test_an_update_on_a_gpu_has_the_losses_and_weights_of_one_on_a_cpu(variant):
    updates_agree(variant, "cuda", None)


@pytest.mark.parametrize("variant", UPDATED)
def test_an_update_by_a_gpu_s_operators_has_the_losses_and_weights_of_one_by_a_cpu_s(variant):
    updates_agree(variant, "cpu", OperatorRecorder(replays=False))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", [*VARIANTS, "scattering"])
def test_recorded_steps_train_as_unrecorded_ones_do(variant, monkeypatch):
    recorded, plain = training(variant, "cuda"), training(variant, "cuda")
    recorded.run(300)
    with monkeypatch.context() as patch:
        patch.setattr(Recorded, "__call__", lambda self, *args: self.function(*args))
        plain.run(300)
    assert recorded.agent._recorded_learn.is_recorded
    assert recorded.agent.updates == plain.agent.updates == 200
    mine, theirs = recorded.agent.take_mean_loss(), plain.agent.take_mean_loss()
    assert mine == pytest.approx(theirs, rel=0.1)
