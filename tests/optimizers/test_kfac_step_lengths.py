"""Ways to set a step's length and damping: grafting, damping relative to curvature, a trust region that is measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kfac_steps import check_resume, observe, parameters_of
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.curvature import damped_inverse, relative_shifts
from tensorrl.optimizers.damping import GeometricDecay
from tensorrl.optimizers.figures import decided_directions
from tensorrl.optimizers.fisher import categorical_divergence, gaussian_divergence
from tensorrl.optimizers.grafting import AdamLength
from tensorrl.optimizers.kfac import KFAC


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2),
        nn.Tanh(),
        TensorRegression((4, 2, 2), (6,), rank=(2, 2, 2, 3)),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


def _batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(16, 1, 4, 4, generator=generator, dtype=torch.float64),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def _step(optimizer: KFAC, net: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One step, fitted where that is due; returns the outputs before and after."""
    optimizer.zero_grad()
    with optimizer.curvature() as capture:
        before = net(batch[0])
        capture.observe(before)
    F.cross_entropy(before, batch[1]).backward()
    optimizer.step()
    with torch.no_grad():
        for _ in range(optimizer.fits):
            optimizer.fit_step(before, net(batch[0]))
        return before.detach(), net(batch[0])


def _norms(net: nn.Module, before: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    parameters = dict(net.named_parameters())
    return torch.cat([(parameters[name].detach() - before[name]).flatten() for name in names]).norm()


# What one block covers: a layer's weight with its bias, or each factor of a regression layer.
_BLOCKS = (
    ("0.weight", "0.bias"),
    ("2.factor_0",),
    ("2.factor_1",),
    ("2.factor_2",),
    ("2.factor_3",),
    ("2.core",),
    ("2.bias",),
    ("4.weight", "4.bias"),
)


def test_a_grafted_step_has_adam_s_length_and_k_fac_s_direction_in_every_block() -> None:
    nets = _net(), _net(), _net()
    shared: dict[str, Any] = {"damping": 0.03, "kl_clip": None, "momentum": 0.8, "curvature_interval": 2}
    grafted = KFAC(nets[0], lr=0.02, graft=AdamLength(epsilon=1e-4), **shared)
    plain = KFAC(nets[1], lr=0.02, **shared)
    adam = torch.optim.Adam(nets[2].parameters(), lr=0.02, eps=1e-4)
    # Grafting leaves decoupled weight decay alone: with steps of no length it is all that moves.
    shrunk = _net()
    still = KFAC(shrunk, lr=0.02, graft=AdamLength(epsilon=1e30), weight_decay=0.5, decoupled_weight_decay=True)
    _step(still, shrunk, _batches(1)[0])
    for mine, start in zip(shrunk.parameters(), nets[0].parameters(), strict=True):
        torch.testing.assert_close(mine, start * (1 - 0.02 * 0.5))
    for batch in _batches(7):
        befores = [parameters_of(net) for net in nets]
        _step(grafted, nets[0], batch)
        # The same gradients for all, at the grafted parameters.
        for net, before in zip(nets[1:], befores[1:], strict=True):
            for (name, p), q in zip(net.named_parameters(), nets[0].parameters(), strict=True):
                p.data.copy_(befores[0][name])
                before[name].copy_(p.detach())
                p.grad = q.grad.clone()
        with plain.curvature() as capture:
            capture.observe(nets[1](batch[0]))
        plain.step()
        adam.step()
        for names in _BLOCKS:
            torch.testing.assert_close(_norms(nets[0], befores[0], names), _norms(nets[2], befores[2], names))
            steps = [
                torch.cat([(dict(net.named_parameters())[n].detach() - before[n]).flatten() for n in names])
                for net, before in zip(nets[:2], befores[:2], strict=True)
            ]
            assert F.cosine_similarity(*steps, dim=0) > 1 - 1e-9


@pytest.mark.parametrize("scales", [(1e-6, 1.0), (1e3, 1e-2), (1.0, 1e5)])
def test_relative_damping_does_not_depend_on_how_a_block_s_factors_are_scaled(scales: tuple[float, float]) -> None:
    torch.manual_seed(0)
    a, g = (torch.randn(2, 20, n, dtype=torch.float64) for n in (5, 4))
    a, g = a.mT @ a / 20, g.mT @ g / 20
    gradient = torch.randn(2, 4, 5, dtype=torch.float64)

    def preconditioned(a: Tensor, g: Tensor) -> Tensor:
        to_a, to_g = relative_shifts(a, g, 0.3)
        return damped_inverse(g, to_g) @ gradient @ damped_inverse(a, to_a)

    # Factored Tikhonov with λ = 0.3 · mean curvature and π² = mean A / mean G, written out for the second block.
    means = a[1].trace() / 5, g[1].trace() / 4
    damping, pi = 0.3 * means[0] * means[1], (means[0] / means[1]).sqrt()
    left = torch.linalg.inv(g[1] + damping.sqrt() / pi * torch.eye(4))
    right = torch.linalg.inv(a[1] + damping.sqrt() * pi * torch.eye(5))
    torch.testing.assert_close(preconditioned(a, g)[1], left @ gradient[1] @ right)
    scaled = preconditioned(scales[0] * a, scales[1] * g)
    torch.testing.assert_close(scaled * scales[0] * scales[1], preconditioned(a, g))


def test_with_relative_damping_and_grafting_a_loss_scaled_up_takes_the_same_steps() -> None:
    results = []
    for scale in (1.0, 100.0):
        net = _net()
        optimizer = KFAC(
            net, lr=0.01, damping=0.1, relative_damping=True, graft=AdamLength(epsilon=1e-12), fisher="empirical"
        )
        for x, y in _batches(4):
            observe(optimizer, net, x, lambda logits, y=y, scale=scale: scale * F.cross_entropy(logits, y))
            optimizer.step()
        results.append(parameters_of(net))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("graft", [None, AdamLength()])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_trust_region_is_what_every_step_measures(momentum: float, graft: AdamLength | None, decay: float) -> None:
    net, bound = _net(), 1e-3
    options: dict[str, Any] = {"momentum": momentum, "graft": graft, "weight_decay": decay}
    optimizer = KFAC(net, lr=10.0, damping=0.01, trust_region=bound, decoupled_weight_decay=True, **options)
    for batch in _batches(30):
        before, after = (torch.distributions.Categorical(logits=logits) for logits in _step(optimizer, net, batch))
        measured = torch.distributions.kl_divergence(before, after).mean()
        assert bound / 2 < measured < 2 * bound


def test_where_the_learning_rate_is_the_shorter_one_it_sets_the_step() -> None:
    nets, steps = (_net(), _net()), []
    for net, region in zip(nets, (None, 1.0), strict=True):
        optimizer = KFAC(net, lr=1e-4, kl_clip=None, trust_region=region)
        for batch in _batches(3):
            _step(optimizer, net, batch)
        steps.append(parameters_of(net))
    for name, value in steps[0].items():
        torch.testing.assert_close(value, steps[1][name])


def test_a_step_after_which_outputs_are_not_finite_is_taken_back() -> None:
    net, (x, y) = _net(), _batches(1)[0]
    optimizer = KFAC(net, lr=1.0, trust_region=1e-3)
    start = parameters_of(net)
    with optimizer.curvature() as capture:
        before = net(x)
        capture.observe(before)
    F.cross_entropy(before, y).backward()
    optimizer.step()
    scale = optimizer.figures()["step_scale"]
    optimizer.fit_step(before, torch.full_like(before, math.inf))
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), start[name])
    assert optimizer.figures()["step_scale"] == 0
    # The next step begins ten times shorter and is then measured.
    with optimizer.curvature() as capture:
        before = net(x)
        capture.observe(before)
    optimizer.zero_grad()
    F.cross_entropy(before, y).backward()
    optimizer.step()
    assert 0 < optimizer.figures()["step_scale"] < scale / 3


@pytest.mark.parametrize(
    "options",
    [
        {"graft": AdamLength(epsilon=1e-4)},
        {"trust_region": 1e-3, "lr": 1.0},
        {"graft": AdamLength(), "trust_region": 1e-3, "relative_damping": True, "lr": 1.0},
        {"damping": GeometricDecay(1.0, 0.01, 9)},
    ],
)
@pytest.mark.parametrize("saved_after", [1, 5])
def test_every_way_resumes_to_the_same_bits(options: dict[str, Any], saved_after: int) -> None:
    options = {"lr": 0.02, "curvature_interval": 3, "inverse_interval": 4, "overlap": 1, **options}
    check_resume((_net(), _net()), options, _batches(12), _step, saved_after)


def test_on_an_accelerator_a_grafted_step_that_is_not_finite_leaves_everything_as_it_was() -> None:
    net = _net()
    optimizer = KFAC(net, lr=0.1, graft=AdamLength())
    for batch in _batches(2):
        _step(optimizer, net, batch)
    (flat,) = optimizer._blocks._flats
    assert flat.moments is not None
    kept = [flat.moments.first, flat.moments.second, flat.moments.count, flat.momenta]
    before, copies = parameters_of(net), [tensor.clone() for tensor in kept]
    with torch.no_grad():
        flat.gradients.fill_(math.nan)
        flat.steps.fill_(math.nan)
        flat.move(torch.tensor(math.nan), 0.1, 0.9)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert all(torch.equal(one, two) for one, two in zip(kept, copies, strict=True))


@pytest.mark.parametrize("graft", [None, AdamLength(epsilon=1e-4, by_block=True)])
def test_a_layer_begun_anew_steps_as_with_a_new_optimizer_and_the_others_go_on(graft: AdamLength | None) -> None:
    nets = _net(), _net(), _net()
    options: dict[str, Any] = {
        "lr": 0.02,
        "damping": 0.03,
        "kl_clip": None,
        "curvature_interval": 1,
        "inverse_interval": 1,
    }
    mine, whole = (KFAC(net, graft=graft, fisher="empirical", **options) for net in nets[:2])
    for batch in _batches(6):
        for optimizer, net in zip((mine, whole), nets, strict=False):
            _observed_step(optimizer, net, batch)
    mine.restart(nets[0][4].parameters())
    nets[2].load_state_dict(nets[0].state_dict())
    new = KFAC(nets[2], graft=graft, fisher="empirical", **options)
    last = ("4.weight", "4.bias")
    for batch in _batches(9)[6:]:
        before = parameters_of(nets[0])
        for optimizer, net in zip((mine, whole, new), nets, strict=True):
            net.load_state_dict(before)
            _observed_step(optimizer, net, batch)
        steps = [{name: p - before[name] for name, p in parameters_of(net).items()} for net in nets]
        for name in before:
            torch.testing.assert_close(steps[0][name], steps[2 if name in last else 1][name])
    other = KFAC(nets[2], lr=0.1, graft=AdamLength())
    with pytest.raises(InputError, match="by_block=True"):
        other.restart(nets[2][4].parameters())


def _observed_step(optimizer: KFAC, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    observe(optimizer, net, batch[0], lambda logits: F.cross_entropy(logits, batch[1]))
    optimizer.step()


def test_figures_of_a_step_equal_those_of_the_blocks_fishers_written_out() -> None:
    net, batch = _net(), _batches(1)[0]
    optimizer = KFAC(net, lr=0.1, damping=0.02, momentum=0.0, kl_clip=1e-6)
    start = parameters_of(net)
    _step(optimizer, net, batch)
    fishers = {name: torch.kron(g, a) for name, (a, g) in optimizer.factors().items()}
    values = torch.cat([torch.linalg.eigvalsh(fisher) for fisher in fishers.values()]).clamp(min=0)
    figures = optimizer.figures()
    assert figures["directions"] == pytest.approx(float((values / (values + 0.02)).sum()), rel=1e-6)
    assert figures["damping"] == 0.02
    # The two plain layers by hand; the regression layer's own blocks are what remains.
    parts = optimizer._blocks.stacks
    total = 0.0
    for stack in parts:
        for k in range(len(stack.blocks)):
            step = stack.steps[k]
            total += float(torch.einsum("ij,ik,jl,kl->", step, stack.row_factors[k], stack.column_factors[k], step))
    assert figures["step_divergence"] == pytest.approx(total / 2)
    last = torch.cat([net[4].weight - start["4.weight"], (net[4].bias - start["4.bias"])[:, None]], 1).detach()
    mine = 0.5 * float(last.flatten() @ fishers["4"] @ last.flatten())
    assert 0 < mine <= figures["step_divergence"]
    assert 0 < figures["step_scale"] < 1
    relative = decided_directions(parts, 0.5, relative=True)
    shares = []
    for fisher in fishers.values():
        own = torch.linalg.eigvalsh(fisher).clamp(min=0)
        shares.append(float((own / (own + 0.5 * own.mean())).sum()))
    assert relative == pytest.approx(sum(shares), rel=1e-6)


def test_divergences_are_those_of_the_distributions() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 5, 3, 4)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=one), torch.distributions.Categorical(logits=two)
    )
    torch.testing.assert_close(categorical_divergence(one, two), wanted.sum(1).mean())
    wanted = torch.distributions.kl_divergence(torch.distributions.Normal(one, 1), torch.distributions.Normal(two, 1))
    torch.testing.assert_close(gaussian_divergence(one, two), wanted.sum((1, 2)).mean())


def test_geometric_decay_goes_by_equal_ratios() -> None:
    decay = GeometricDecay(1.0, 0.01, 10)
    assert [decay(k) for k in (0, 5, 10, 1_000)] == pytest.approx([1.0, 0.1, 0.01, 0.01])
    with pytest.raises(InputError, match="above 0"):
        GeometricDecay(1.0, 0.0, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_region": 0.0}, "trust_region: 0.0"),
        ({"trust_region": math.inf}, "trust_region: inf"),
        ({"trust_region": 0.1, "likelihood": lambda outputs, generator, weights: outputs.sum()}, "likelihood by name"),
    ],
)
def test_bad_ways_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KFAC(nn.Linear(2, 2), lr=0.1, **options)
    with pytest.raises(InputError, match="betas"):
        AdamLength(betas=(0.9, 1.0))
