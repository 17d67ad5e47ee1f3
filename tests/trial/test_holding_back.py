"""Settings that hold learning back, as trials have them with either optimizer: weight decay, resets, averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tensorrl.errors import InputError
from tensorrl.learning.resets import LAYERS
from tensorrl.trial import checkpoints
from tensorrl.trial.playback import load_network
from tensorrl.trial.run import build_training
from tensorrl.trial.settings import network_spec
from tensorrl.trial.spec import make_spec
from tensorrl.trial.training import Training, build_agent
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
    [
        ({"decoupled_weight_decay": True}, "decoupled_weight_decay=true needs weight_decay above 0"),
        ({"reset_layers": "streams"}, "reset_layers=streams needs reset_interval"),
        ({"kfac_damping": 0.1}, "kfac_damping=0.1 needs optimizer=kfac"),
    ],
)
def test_settings_that_mean_nothing_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network_spec(resolve("trl-5x", changes), 6)


def test_a_variant_with_k_fac_takes_another_optimizer() -> None:
    settings = resolve(
        "kfac-trl-5x", {"optimizer": "adam", "learning_rate": 1e-4, "update_interval": 1, "target_interval": 2_000}
    )
    assert settings == resolve("trl-5x")
    network_spec(settings, 6)


def _state(training: Training) -> dict[str, torch.Tensor]:
    agent = training.agent
    parts = {"network": agent.network, "target": agent.target, "average": agent.acting}
    return {f"{part}.{name}": p.detach().clone() for part, net in parts.items() for name, p in net.named_parameters()}


@pytest.mark.parametrize("variant", ["rainbow", "kfac-trl-10x"])
def test_resets_draw_the_last_layers_anew_and_a_trial_resumes_across_one_to_the_same_bits(
    variant: str, tmp_path: Path
) -> None:
    overrides = {"learning_starts": 30, "reset_interval": 8, "reset_layers": "streams", "average_decay": 0.9}
    overrides |= {"update_interval": 1} if variant.startswith("kfac") else {}
    spec = make_spec(game="pong", variant=variant, seed=5, steps=60, overrides=overrides)
    whole, resumed = build_training(spec, CPU), build_training(spec, CPU)
    whole.run(36)
    assert whole.agent.updates == 6
    checkpoints.save(whole, tmp_path)
    whole.run(1)
    before = _state(whole)
    whole.run(1)
    after, streams = _state(whole), LAYERS["streams"]
    for name, value in after.items():
        part, layer = name.split(".")[:2]
        if layer in streams:
            assert torch.equal(value, after[name.replace(part, "network", 1)])
        else:
            assert torch.equal(value, before[name]) == (part == "target")
        # One update moves a coefficient by a thousandth, a new draw by as much as it is large.
        if layer in streams and not name.endswith("sigma"):
            assert float((value - before[name]).norm()) > 0.5 * float(value.norm())
    whole.run(14)
    checkpoints.restore(resumed, checkpoints.checkpoints(tmp_path)[-1])
    resumed.run(16)
    assert whole.agent.updates == resumed.agent.updates == 22
    one, two = _state(whole), _state(resumed)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    for training in (whole, resumed):
        training.close()


class _Seen(Exception):
    pass


def _stop(action: int, values: Any) -> None:
    raise _Seen(str(action))


def test_an_average_of_the_network_acts_and_is_played_while_the_network_learns_as_without_one(tmp_path: Path) -> None:
    spec = make_spec(game="pong", variant="trl-5x", seed=5, steps=60, overrides={"average_decay": 0.75})
    training = build_training(spec, CPU)
    agent, plain = training.agent, build_agent(resolve("trl-5x"), 6, 5, CPU)
    wanted = [p.detach().double().clone() for p in agent.network.parameters()]
    training.run(40)
    for seed in range(4):
        batch = training.replay.transitions(torch.arange(8) + 3 * seed)
        for one in (agent, plain):
            one.update(batch)
        for average, p in zip(wanted, agent.network.parameters(), strict=True):
            average.mul_(0.75).add_(p.detach(), alpha=0.25)
    for p, q, average, value in zip(
        agent.network.parameters(), plain.network.parameters(), agent.acting.parameters(), wanted, strict=True
    ):
        assert torch.equal(p, q)
        torch.testing.assert_close(average.double(), value, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        # Two networks that choose differently: the average's choice is what is played, here and from a checkpoint.
        agent.acting.advantage_output.bias.zero_()[2, -1] += 100
        agent.network.advantage_output.bias.zero_()[4, -1] += 100
    newest = training.replay.latest_stack()
    lookahead = agent.look_at(
        training.replay.transitions(torch.arange(8))._replace(ahead=newest.expand(9, *newest.shape[1:]))
    )
    assert int(lookahead.action) == agent.act(training.replay, 0.0) == 2
    assert lookahead.choices.tolist() == [4] * 8
    with pytest.raises(_Seen, match=r"^2$"):
        training.evaluate(1, seed=0, watch=_stop)
    saved = checkpoints.save(training, tmp_path / "run", {"network": agent.network.spec.model_dump(mode="json")})
    checkpoints.export_network(saved, tmp_path / "exported")
    for path in (saved, tmp_path / "exported"):
        assert all(map(torch.equal, load_network(path)[0].parameters(), agent.acting.parameters()))
    training.close()
