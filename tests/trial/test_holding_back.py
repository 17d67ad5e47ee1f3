"""Settings that hold learning back, as trials have them: weight decay, for either optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tensorrl.errors import InputError
from tensorrl.trial.settings import network_spec
from tensorrl.trial.training import build_agent
from tensorrl.trial.variants import resolve

CPU = torch.device("cpu")
DECOUPLED = {"weight_decay": 0.5, "decoupled_weight_decay": True}


@pytest.mark.parametrize("variant", ["trl-5x", "kfac-trl-5x"])
def test_decoupled_weight_decay_of_a_trial_shrinks_all_weights_by_the_rate_times_lambda(variant: str) -> None:
    agents = [
        build_agent(resolve(variant, {"learning_rate": 0.1, **changes}), 6, 0, CPU) for changes in ({}, DECOUPLED)
    ]
    start = {name: p.detach().clone() for name, p in agents[0].network.named_parameters()}
    for agent in agents:
        stacks = torch.rand(4, *agent.network.prepare(_blank(agent)).shape[1:], generator=torch.Generator())
        with agent.optimizer.curvature() as observer:
            outputs = agent.network(stacks)[:, 0]
            observer.observe(outputs)
        outputs.logsumexp(1).mean().backward()
        agent.optimizer.prepare()
        agent.optimizer.apply()
    plain, shrunk = (dict(agent.network.named_parameters()) for agent in agents)
    for name, value in start.items():
        torch.testing.assert_close(shrunk[name].detach() - plain[name].detach(), -0.1 * 0.5 * value, rtol=0, atol=1e-6)


def _blank(agent: Any) -> torch.Tensor:
    torso = agent.network.torso
    return torch.zeros(1, 4, *torso.stored_shape, dtype=torso.stored_dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"decoupled_weight_decay": True}, "decoupled_weight_decay=true needs weight_decay above 0")],
)
def test_settings_that_mean_nothing_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network_spec(resolve("trl-5x", changes), 6)
