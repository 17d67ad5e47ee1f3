import copy

import pytest
import torch
from torch.nn import functional as F

from tensorrl.learning.agent import Agent, make_target
from tensorrl.learning.replay import Batch
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.optimizers.adam import FusedAdam
from tensorrl.optimizers.kfac import KFAC
from tensorrl.trial.settings import network_spec
from tensorrl.trial.variants import resolve


def make(variant, kfac=None, **kwargs):
    torch.manual_seed(0)
    network = QNetwork(network_spec(resolve(variant), 6))
    optimizer = FusedAdam(network.parameters(), lr=1e-3, eps=1.5e-4)
    if kfac:
        optimizer = KFAC(network, lr=1e-2, curvature_interval=2, inverse_interval=3, likelihood=kfac)
    return Agent(network, make_target(network), optimizer, seed=0, **kwargs)


def make_batch(agent, batch=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch * 8, 84, 84), dtype=torch.uint8, generator=generator)
    stored = agent.network.torso.encode(frames).view(2, batch, 4, *agent.network.torso.stored_shape)
    return Batch(
        slots=torch.arange(batch),
        stacks=stored[0],
        actions=torch.randint(0, 6, (batch,), generator=generator),
        returns=torch.randn(batch, generator=generator),
        discounts=torch.where(torch.rand(batch, generator=generator) < 0.2, 0.0, 0.8),
        next_stacks=stored[1],
        weights=torch.rand(batch, generator=generator) + 0.1,
    )


@pytest.mark.parametrize("variant", ["rainbow", "denoised", "trl-5x", "pong-dqn", "pong-dqn-trl-5"])
def test_parameters_of_torso_streams_and_heads_all_move(variant):
    agent = make(variant)
    before = copy.deepcopy(dict(agent.network.named_parameters()))
    for _ in range(2):
        agent.begin_step()
        agent.update(make_batch(agent))
    for name, parameter in agent.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for name, parameter in agent.target.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_one_update_equals_adam_on_the_loss_written_out():
    agent = make("denoised", gradient_norm=0.05)
    batch = make_batch(agent)
    network, target = copy.deepcopy(agent.network), copy.deepcopy(agent.target)
    with torch.no_grad():
        best = network.q_values(network(batch.next_stacks)).argmax(1)
        probabilities = target(batch.next_stacks).softmax(2)[torch.arange(32), best]
        aims = torch.zeros(32, 51)
        for row in range(32):
            for j in range(51):
                b = (min(max(batch.returns[row] + batch.discounts[row] * (-10 + 0.4 * j), -10.0), 10.0) + 10) / 0.4
                lower = min(int(b), 49)
                aims[row, lower] += probabilities[row, j] * (lower + 1 - b)
                aims[row, lower + 1] += probabilities[row, j] * (b - lower)
    logits = network(batch.stacks)[torch.arange(32), batch.actions]
    losses = F.cross_entropy(logits, aims, reduction="none")
    (losses * batch.weights).mean().backward()
    total = torch.sqrt(sum(p.grad.square().sum() for p in network.parameters()))
    assert total > 0.05
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1.5e-4)
    for parameter in network.parameters():
        parameter.grad *= 0.05 / total
    optimizer.step()
    torch.testing.assert_close(agent.update(batch), losses.detach(), rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(agent.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5)


def test_target_follows_after_its_interval():
    agent = make("denoised", target_interval=3)
    for update in range(1, 7):
        agent.update(make_batch(agent, seed=update))
        same = all(
            torch.equal(a, b) for a, b in zip(agent.network.parameters(), agent.target.parameters(), strict=True)
        )
        assert same == (update % 3 == 0)


def test_plain_values_learn_the_double_q_target():
    agent = make("pong-dqn")
    batch = make_batch(agent)
    with torch.no_grad():
        best = agent.network(batch.next_stacks).argmax(1)
        aim = batch.returns + batch.discounts * agent.target(batch.next_stacks)[torch.arange(32), best]
        value = agent.network(batch.stacks)[torch.arange(32), batch.actions]
    torch.testing.assert_close(agent.update(batch), (value - aim).abs(), rtol=1e-4, atol=1e-4)


def test_epsilon_one_explores_uniformly_and_zero_is_greedy():
    agent = make("denoised")
    stack = make_batch(agent).stacks[:1]
    greedy = int(agent.network.q_values(agent.network(stack)).argmax())
    assert agent.explore(0.0) is None
    assert int(agent.choose(stack)) == greedy
    counts = torch.bincount(torch.tensor([agent.explore(1.0) for _ in range(600)]), minlength=6)
    assert counts.min() > 60


@pytest.mark.parametrize(
    ("variant", "kfac"),
    [("rainbow", None), ("trl-5x", None), ("denoised", "categorical"), ("trl-10x", "categorical"),
     ("pong-dqn-trl-5", "gaussian")],
)  # fmt: skip
def test_state_round_trip_goes_on_to_the_same_bits(variant, kfac):
    first, second = make(variant, kfac), make(variant, kfac)
    for step in range(3):
        first.begin_step()
        first.update(make_batch(first, seed=step))
    second.set_state(copy.deepcopy(first.get_state()))
    for agent in (first, second):
        agent.begin_step()
        agent.update(make_batch(agent, seed=9))
    for mine, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert first.explorer.random() == second.explorer.random()
