"""Figures of learning that a report gives besides the loss: over-fitting, the accuracy of Q, dead units.

They are computed only when a report is due, from the agent's mean network (no noise). They use no random generator, so
training gives the same bits with them and without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tensorrl.learning.agent import Agent
from tensorrl.learning.replay import Replay
from tensorrl.networks.qnetwork import QNetwork

COUNT = 128
"""The most transitions over which a figure is averaged."""
WINDOW = 4_096
"""The number of newest slots that are searched for lives with known returns."""


@torch.no_grad()
def figures(agent: Agent, replay: Replay) -> dict[str, float]:
    """Returns the agent's current figures; figures that do not exist yet are left out.

    - `loss_unweighted`: mean loss, without importance weights, on transitions that were sampled, spread over replay.
    - `loss_held_out`: the same on transitions that no update has sampled yet, so that no update has fitted them.
    - `loss_beside_held_out`: on the sampled transition next to each of those. The excess of `loss_held_out` over it is
      over-fitting.
    - `q_chosen`, `return_followed`: mean Q of the actions taken, and of the discounted clipped rewards that followed to
      the end of the life, on the same transitions.
    - `dead_units`: share of the streams' hidden units that are 0 on all of these states.
    - `kfac_…`: see `KFAC.figures`.

    Args:
        agent: the agent, between two updates.
        replay: the replay that it learns from.
    """
    if agent.updates == 0 or replay.count == 0:
        return {}
    training = agent.network.training, agent.target.training
    agent.network.eval(), agent.target.eval()
    try:
        found = _losses(agent, replay) | _returns(agent, replay)
    finally:
        agent.network.train(training[0]), agent.target.train(training[1])
    return found | optimizer_figures(agent)


def optimizer_figures(agent: Agent) -> dict[str, float]:
    """Returns `kfac_…`, the figures of the optimizer's last step; see `KFAC.figures`. Adam has none."""
    return {f"kfac_{name}": value for name, value in agent.optimizer.figures().items()}


def unsampled(replay: Replay) -> tuple[Tensor, Tensor]:
    """Slots of transitions that can be sampled, oldest first, and which of them no update has sampled yet."""
    slots = (replay.distribution.priorities.view(-1)[: replay.capacity] > 0).nonzero()[:, 0]
    slots = slots[((slots - replay.newest - 1) % replay.capacity).argsort()]
    return slots, ~replay.sampled[slots]


def returns_that_followed(replay: Replay) -> tuple[Tensor, Tensor]:
    """Returns the transitions of the newest completed lives, and the returns that followed them.

    Returns:
        Slots (n,), oldest first, and discounted clipped rewards to the end of the life (n,), float32.
    """
    slots = unsampled(replay)[0][-WINDOW:]
    columns = (replay.returns, replay.discounts, replay.bootstraps)
    returns, discounts, bootstraps = (column[slots].tolist() for column in columns)
    known: dict[int, float] = {}
    for slot, value, discount, ahead in reversed(
        list(zip(slots.tolist(), returns, discounts, bootstraps, strict=True))
    ):
        if discount == 0:
            known[slot] = value
        elif ahead in known:
            known[slot] = value + discount * known[ahead]
    found = list(reversed(known))
    return slots.new_tensor(found), torch.tensor([known[slot] for slot in found], device=replay.device)


def spread(slots: Tensor, count: int = COUNT) -> Tensor:
    """Returns at most `count` of the slots, evenly spaced."""
    if len(slots) <= count:
        return slots
    return slots[torch.linspace(0, len(slots) - 1, count, device=slots.device).round().long()]


def _losses(agent: Agent, replay: Replay) -> dict[str, float]:
    slots, fresh = unsampled(replay)
    fitted = (~fresh).nonzero()[:, 0]
    sets = {"loss_unweighted": spread(slots[~fresh])}
    if len(fitted) and bool(fresh.any()):
        held_out = spread(fresh.nonzero()[:, 0])
        beside = torch.searchsorted(fitted, held_out).clamp(max=len(fitted) - 1)
        sets |= {"loss_held_out": slots[held_out], "loss_beside_held_out": slots[fitted[beside]]}
    chosen = torch.cat(list(sets.values()))
    batch = replay.transitions(chosen)
    rows = torch.arange(len(chosen), device=chosen.device)
    predictions, dead = _forward_and_dead(agent.network, batch.stacks)
    ahead = agent.look_at(batch)
    bootstraps = agent.target(ahead.stacks)[rows, ahead.choices]
    head, support = agent.network.head, agent.target.support
    targets = head.targets(bootstraps, batch.returns, batch.discounts, support)
    losses = head.losses(predictions[rows, batch.actions], targets)
    parts = losses.split([len(part) for part in sets.values()])
    means = {name: float(part.mean()) for name, part in zip(sets, parts, strict=True) if len(part)}
    return {**means, "dead_units": dead}


def _returns(agent: Agent, replay: Replay) -> dict[str, float]:
    slots, followed = returns_that_followed(replay)
    if not len(slots):
        return {}
    places = spread(torch.arange(len(slots), device=slots.device))
    batch = replay.transitions(slots[places])
    values = agent.network.q_values(agent.network(batch.stacks))
    chosen = values.gather(1, batch.actions[:, None])
    return {"q_chosen": float(chosen.mean()), "return_followed": float(followed[places].mean())}


def _forward_and_dead(network: QNetwork, stacks: Tensor) -> tuple[Tensor, float]:
    """Outputs for stacks, and the share of hidden units that none of them turns on."""
    alive: list[Tensor] = []
    layers = (network.value_hidden, network.advantage_hidden)
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output: alive.append((output.flatten(1) > 0).any(0)))
        for layer in layers
    ]
    try:
        outputs: Tensor = network(stacks)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, 1 - float(torch.cat(alive).float().mean())
