"""What goes wrong in training: parameters stay finite, and what was skipped is told."""

from __future__ import annotations

import math

import pytest
import torch
from kfac_steps import parameters_of, step
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.kfac import KFAC


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2),
        nn.ReLU(),
        TensorRegression((4, 2, 2), (6,), rank=(2, 2, 2, 3)),
        nn.ReLU(),
        nn.Linear(6, 3),
    )


def _loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)) % 3)


def _finite(net: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("damping", [0.0, 1e-12, 0.01])
def test_any_batch_size_and_damping_keep_parameters_finite(batch: int, damping: float) -> None:
    net = _net()
    optimizer = KFAC(net, lr=0.1, damping=damping, curvature_interval=2, inverse_interval=2)
    for _ in range(6):
        step(optimizer, net, torch.randn(batch, 1, 4, 4), _loss)
    assert _finite(net)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_zero_gradients_move_nothing(damping: float) -> None:
    net = _net()
    before, optimizer = parameters_of(net), KFAC(net, lr=0.1, damping=damping, fisher="empirical")
    for _ in range(3):
        step(optimizer, net, torch.randn(8, 1, 4, 4), lambda logits: 0 * logits.sum())
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_rank_deficient_inputs_are_survived(damping: float) -> None:
    net = _net()
    optimizer = KFAC(net, lr=0.1, damping=damping)
    for _ in range(12):
        step(optimizer, net, torch.randn(8, 1, 1, 1).expand(8, 1, 4, 4), _loss)
    assert _finite(net)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_dead_units_are_survived_and_stay_put(damping: float) -> None:
    net = _net()
    with torch.no_grad():
        net[2].bias.fill_(-100)
    before, optimizer = parameters_of(net), KFAC(net, lr=0.1, damping=damping)
    for _ in range(3):
        step(optimizer, net, torch.randn(8, 1, 4, 4), _loss)
    assert _finite(net)
    assert torch.equal(net[0].weight, before["0.weight"])
    assert not torch.equal(net[4].bias, before["4.bias"])


@pytest.mark.parametrize("first", [True, False])
def test_nan_in_a_batch_skips_curvature_and_step_and_says_so(first: bool) -> None:
    net = _net()
    optimizer = KFAC(net, lr=0.1, curvature_interval=1)
    good, bad = torch.randn(8, 1, 4, 4), torch.full((8, 1, 4, 4), math.nan)
    if not first:
        step(optimizer, net, good, _loss)
    before = parameters_of(net)
    with pytest.warns(RuntimeWarning) as warned:
        step(optimizer, net, bad, _loss)
    messages = [str(w.message) for w in warned]
    assert any("curvature of 0" in m and "skipped" in m for m in messages)
    assert any("a gradient is not finite, step skipped" in m for m in messages)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    step(optimizer, net, good, _loss)
    assert _finite(net)
    assert not torch.equal(net[4].weight, before["4.weight"])
    assert all(bool(f.isfinite().all()) for pair in optimizer.factors().values() for f in pair)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_gradient_that_is_not_finite_skips_the_step_and_leaves_momentum(value: float) -> None:
    net, twin = _net(), _net()
    x, optimizers = torch.randn(8, 1, 4, 4), [KFAC(model, lr=0.1, curvature_interval=50) for model in (net, twin)]
    for optimizer, model in zip(optimizers, (net, twin), strict=True):
        step(optimizer, model, x, _loss)
    optimizers[0].zero_grad()
    with optimizers[0].curvature():
        _loss(net(x)).backward()
    net[0].weight.grad[0, 0, 0, 0] = value
    with pytest.warns(RuntimeWarning, match="step skipped"):
        optimizers[0].step()
    for optimizer, model in zip(optimizers, (net, twin), strict=True):
        step(optimizer, model, x, _loss)
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), twin.parameters(), strict=True))


def test_without_waiting_for_the_device_a_step_that_is_not_finite_is_skipped_as_well() -> None:
    # What runs on an accelerator, where the scale stays a tensor.
    net, twin = _net(), _net()
    flats = []
    for model in (net, twin):
        optimizer = KFAC(model, lr=0.1)
        step(optimizer, model, torch.ones(8, 1, 4, 4), _loss)
        (flat,) = optimizer._blocks._flats
        flat.collect(0.0)
        flats.append(flat)
    before, momenta = parameters_of(net), flats[0].momenta.clone()
    with torch.no_grad():
        flats[0].steps.fill_(math.nan)
        flats[0].move(torch.tensor(math.nan), 0.1, 0.9)
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
        assert torch.equal(flats[0].momenta, momenta)
        for flat, scale in zip(flats, (torch.tensor(0.5), 0.5), strict=True):
            flat.steps.fill_(0.01)
            flat.move(scale, 0.1, 0.9)
    assert not torch.equal(net[0].weight, before["0.weight"])
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_fallback_s_gradient_that_is_not_finite_skips_the_step_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer, x = KFAC(net, lr=0.1, fallback="adam"), torch.randn(8, 3)
    step(optimizer, net, x, _loss)
    before = parameters_of(net)
    with optimizer.curvature():
        net(x)
    net[1].bias.grad[0] = math.nan
    with pytest.warns(RuntimeWarning, match="step skipped"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_frozen_parameters_stay_and_the_rest_of_their_layer_moves() -> None:
    net = _net()
    frozen = ["0.weight", "2.core", "4.bias"]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before, optimizer = parameters_of(net), KFAC(net, lr=0.1)
    for _ in range(3):
        step(optimizer, net, torch.randn(8, 1, 4, 4), _loss)
    still = [name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])]
    assert still == frozen


def test_a_layer_frozen_later_stays() -> None:
    net = _net()
    optimizer = KFAC(net, lr=0.1)
    step(optimizer, net, torch.randn(8, 1, 4, 4), _loss)
    net[4].requires_grad_(False)
    before = parameters_of(net)
    for _ in range(3):
        step(optimizer, net, torch.randn(8, 1, 4, 4), _loss)
    assert torch.equal(net[4].weight, before["4.weight"])
    assert not torch.equal(net[0].weight, before["0.weight"])


def test_learning_rate_0_moves_nothing() -> None:
    net = _net()
    before, optimizer = parameters_of(net), KFAC(net, lr=0.0)
    for _ in range(3):
        step(optimizer, net, torch.randn(8, 1, 4, 4), _loss)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_a_layer_never_observed_is_told_and_stays_put() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"used": nn.Linear(3, 3), "late": nn.Linear(3, 3)})
    optimizer, before = KFAC(net, lr=0.1, curvature_interval=3, inverse_interval=3), parameters_of(net)
    x = torch.randn(8, 3)
    with pytest.warns(RuntimeWarning, match="no curvature observed of late"):
        step(optimizer, net["used"], x, _loss)
    step(optimizer, lambda x: net["used"](x) + net["late"](x), x, _loss)
    assert torch.equal(net["late"].weight, before["late.weight"])
    for _ in range(2):
        step(optimizer, lambda x: net["used"](x) + net["late"](x), x, _loss)
    assert not torch.equal(net["late"].weight, before["late.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_have_float32_factors(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    before, optimizer = parameters_of(net), KFAC(net, lr=0.1, kl_clip=None)
    step(optimizer, net, torch.randn(8, 5, dtype=dtype), _loss)
    assert {f.dtype for pair in optimizer.factors().values() for f in pair} == {torch.float32}
    assert _finite(net)
    assert not torch.equal(net[0].weight, before["0.weight"])


def test_float32_conditioning_at_the_agent_s_largest_layer_matches_float64() -> None:
    torch.manual_seed(0)
    steps = {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(1)
        layer = nn.Linear(800, 64).to(dtype)
        x = torch.randn(40, 800, dtype=torch.float64).relu().to(dtype)
        optimizer = KFAC(
            layer, lr=1.0, kl_clip=None, momentum=0.0, damping=1e-3, likelihood="gaussian", fisher="empirical"
        )
        before = layer.weight.detach().clone()
        step(optimizer, layer, x, lambda outputs: outputs.square().sum(1).mean())
        steps[dtype] = (layer.weight.detach() - before).double()
    error = (steps[torch.float32] - steps[torch.float64]).norm() / steps[torch.float64].norm()
    assert error < 1e-2
