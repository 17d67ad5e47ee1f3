from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest
import torch
from kfac_problems import half_square
from kfac_steps import kron_solve, parameters_of, plain, step
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.errors import InputError
from tensorrl.optimizers import kfac
from tensorrl.optimizers.damping import LevenbergMarquardt
from tensorrl.optimizers.fisher import sample_categorical, sample_gaussian
from tensorrl.optimizers.kfac import KFAC


def _step_of(before: dict[str, Tensor], layer: nn.Linear, name: str) -> Tensor:
    return torch.cat(
        [layer.weight.detach() - before[f"{name}.weight"], (layer.bias.detach() - before[f"{name}.bias"])[:, None]], 1
    )


def test_the_example_in_the_docstring_runs() -> None:
    found = doctest.DocTestFinder().find(kfac.KFAC, "KFAC", globs={})
    (example,) = (test for test in found if test.name == "KFAC")
    assert len(example.examples) >= 8
    result = doctest.DocTestRunner().run(example)
    assert result.attempted == len(example.examples)
    assert result.failed == 0


class _Reparametrised(nn.Module):
    """A linear layer between fixed affine maps, the same function as `layer`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        fan_out, fan_in = layer.weight.shape
        self.into = torch.randn(fan_in, fan_in, dtype=torch.float64) + 2 * torch.eye(fan_in, dtype=torch.float64)
        self.out = torch.randn(fan_out, fan_out, dtype=torch.float64) + 2 * torch.eye(fan_out, dtype=torch.float64)
        self.shift_in, self.shift_out = torch.randn(fan_in).double(), torch.randn(fan_out).double()
        self.inner = nn.Linear(fan_in, fan_out).double()
        with torch.no_grad():
            weight = torch.linalg.solve(self.out, layer.weight) @ torch.linalg.inv(self.into)
            self.inner.weight.copy_(weight)
            self.inner.bias.copy_(torch.linalg.solve(self.out, layer.bias - self.shift_out) - weight @ self.shift_in)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.into.T + self.shift_in) @ self.out.T + self.shift_out


@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
def test_undamped_steps_do_not_depend_on_affine_parametrisation_and_those_of_adam_do(fisher: str) -> None:
    def distance(optimize: Callable[[nn.Module], torch.optim.Optimizer]) -> float:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        twin = nn.Sequential(_Reparametrised(net[0]), nn.Tanh(), _Reparametrised(net[2]))
        x = torch.randn(64, 3, dtype=torch.float64)
        torch.testing.assert_close(net(x), twin(x))
        start, results = net(x).detach(), []
        for model in (net, twin):
            optimizer = optimize(model)
            for _ in range(3):
                if isinstance(optimizer, KFAC):
                    step(optimizer, model, x, half_square)
                else:
                    optimizer.zero_grad()
                    half_square(model(x)).backward()
                    optimizer.step()
            results.append(model(x).detach())
        assert (results[0] - start).abs().max() > 1e-2
        return (results[0] - results[1]).abs().max().item()

    options = {"fisher": fisher, "likelihood": "gaussian", "lr": 0.3, "curvature_interval": 1, "inverse_interval": 1}
    assert distance(lambda model: plain(model, **options)) < 1e-8
    assert distance(lambda model: torch.optim.Adam(model.parameters(), lr=0.03)) > 1e-2


@pytest.mark.parametrize(("damping", "lr"), [(0.0, 10.0), (0.1, 10.0), (0.1, 1e-3)])
def test_the_kl_clip_bounds_the_quadratic_model_of_the_step(damping: float, lr: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, before = torch.randn(64, 3, dtype=torch.float64), parameters_of(net)
    unclipped = {}
    for kl_clip in (None, 0.002):
        for name, parameter in net.named_parameters():
            parameter.data.copy_(before[name])
        optimizer = plain(net, damping=damping, lr=lr, kl_clip=kl_clip)
        step(optimizer, net, x, half_square)
        deltas = {name: _step_of(before, net.get_submodule(name), name) for name in ("0", "2")}
        quadratic = sum(
            0.5 * torch.einsum("oi,op,pj,ij->", deltas[name], g, deltas[name], a).item()
            for name, (a, g) in optimizer.factors().items()
        )
        unclipped = unclipped or {"quadratic": quadratic, **deltas}
    assert quadratic <= 0.002 * (1 + 1e-9)
    if lr < 1:
        torch.testing.assert_close(deltas["0"], unclipped["0"])
    else:
        assert unclipped["quadratic"] > 0.004
        # The direction stays.
        cosine = F.cosine_similarity(deltas["2"].flatten(), unclipped["2"].flatten(), dim=0)
        assert cosine > 1 - 1e-12
    if damping == 0:
        assert quadratic == pytest.approx(0.002)


def test_the_sampled_fisher_approaches_the_exact_one() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 4).double(), torch.randn(6, 3, dtype=torch.float64)
    optimizer, draws = plain(layer, fisher="sampled"), 3000
    with optimizer.curvature() as capture:
        logits = layer(x)
        for _ in range(draws):
            capture.observe(logits)
    p = logits.softmax(1).detach()
    exact = (torch.diag_embed(p) - torch.einsum("ni,nj->nij", p, p)).mean(0)
    # An entry of one draw lies in [−1, 1]: 5 standard errors of the mean over all draws and examples.
    assert (optimizer.factors()["module"].outputs - exact).abs().max() < 5 / (draws * 6) ** 0.5
    torch.testing.assert_close(optimizer.factors()["module"].inputs[:3, :3], torch.einsum("ni,nj->ij", x, x) / 6)


@pytest.mark.parametrize("variance", [1.0, 2.5])
def test_the_gaussian_fisher_is_the_gauss_newton_matrix_of_the_squared_error(variance: float) -> None:
    torch.manual_seed(0)
    means = torch.zeros(20_000, 3, dtype=torch.float64, requires_grad=True)
    sample_gaussian(means, torch.Generator().manual_seed(1), variance=variance).backward()
    gradients = means.grad * len(means)
    found = gradients.T @ gradients / len(means)
    assert (found - torch.eye(3) / variance).abs().max() < 5 * (2 / len(means)) ** 0.5 / variance


def test_sampled_targets_have_the_model_s_own_frequencies_and_weights_scale_their_gradients() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().repeat(20_000, 1).requires_grad_()
    weights = torch.linspace(0, 3, len(logits))
    sample_categorical(logits, torch.Generator().manual_seed(0), weights).backward()
    drawn = logits.grad.argmin(1)
    counts = torch.bincount(drawn[1:], minlength=3) / (len(drawn) - 1)
    assert (counts - torch.tensor([0.1, 0.2, 0.7])).abs().max() < 5 * 0.5 / len(drawn) ** 0.5
    expected = (logits.softmax(1) - F.one_hot(drawn, 3)).detach() * weights.sqrt()[:, None] / len(logits)
    torch.testing.assert_close(logits.grad, expected)
    with pytest.raises(InputError, match="weights"):
        sample_categorical(logits, None, weights[:5])


def test_with_one_example_the_undamped_block_is_the_exact_fisher_on_its_range() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).double(), torch.randn(1, 4, dtype=torch.float64)
    before, optimizer = parameters_of(nn.Sequential(layer)), plain(layer)
    step(optimizer, layer, x, half_square)
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
    a, g = optimizer.factors()["module"]
    torch.testing.assert_close(torch.kron(g, a), torch.outer(gradient.flatten(), gradient.flatten()))
    # F = v vᵀ has the pseudo-inverse v vᵀ / ‖v‖⁴.
    torch.testing.assert_close(_step_of(before, layer, "0"), -gradient / gradient.square().sum())


def test_blocks_of_one_shape_step_as_each_would_alone() -> None:
    torch.manual_seed(0)
    streams = nn.ModuleList([nn.Linear(5, 4).double(), nn.Linear(5, 4).double()])
    x, before = torch.randn(9, 5, dtype=torch.float64), parameters_of(streams)
    optimizer = plain(streams, damping=0.1)
    step(optimizer, lambda x: torch.cat([streams[0](x), streams[1](2 * x)], 1), x, half_square)
    for k in (0, 1):
        layer = streams[k]
        a, g = optimizer.factors()[f"{k}"]
        gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
        torch.testing.assert_close(_step_of(before, layer, f"{k}"), -kron_solve(a, g, gradient, 0.1))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_momentum_and_weight_decay_follow_the_formulas(decoupled: bool, capturable: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    options = {"lr": 0.2, "momentum": 0.7, "weight_decay": 0.3, "decoupled_weight_decay": decoupled}
    optimizer = plain(layer, damping=0.1, curvature_interval=100, capturable=capturable, **options)
    l2, shrinking = (0.0, 0.3) if decoupled else (0.3, 0.0)
    theta = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    velocity = torch.zeros_like(theta)
    for _ in range(3):
        step(optimizer, layer, x, half_square)
        a, g = optimizer.factors()["module"]
        gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
        velocity = 0.7 * velocity + kron_solve(a, g, gradient + l2 * theta, 0.1)
        theta = (1 - 0.2 * shrinking) * theta - 0.2 * velocity
        torch.testing.assert_close(torch.cat([layer.weight, layer.bias[:, None]], 1).detach(), theta)


def test_levenberg_marquardt_trusts_a_good_model_more_and_a_bad_one_less() -> None:
    torch.manual_seed(0)
    layer, x, targets = nn.Linear(3, 2), torch.randn(512, 3), torch.randn(512, 2)
    rule = LevenbergMarquardt(initial=0.5, interval=2)

    def loss(outputs: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().sum(1).mean()

    optimizer = KFAC(layer, lr=0.2, damping=rule, likelihood="gaussian", kl_clip=None, momentum=0.0)
    assert optimizer.damping == 0.5
    value = step(optimizer, layer, x, loss)
    assert not optimizer.damping_due
    optimizer.adapt_damping(value, loss(layer(x)))
    assert optimizer.damping == 0.5
    value = step(optimizer, layer, x, loss)
    assert optimizer.damping_due
    optimizer.adapt_damping(value, loss(layer(x)))  # the loss is quadratic: the model is right, up to the draw
    assert optimizer.damping == pytest.approx(0.5 * (19 / 20) ** 2)
    for _ in range(2):
        value = step(optimizer, layer, x, loss)
    optimizer.adapt_damping(value, value + 1)
    assert optimizer.damping == pytest.approx(0.5)
    assert rule.adapted(1.0, 0.5) == 1.0
    assert rule.adapted(rule.upper, -1.0) == rule.upper
    assert rule.adapted(1.0, float("nan")) > 1.0


def test_damping_follows_its_schedule() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2).double(), torch.randn(8, 3, dtype=torch.float64)
    optimizer = plain(layer, damping=lambda step: 1.0 / (1 + step), inverse_interval=1)
    for k in range(3):
        before = parameters_of(nn.Sequential(layer))
        step(optimizer, layer, x, half_square)
        gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
        expected = kron_solve(*optimizer.factors()["module"], gradient, 1 / (1 + k))
        torch.testing.assert_close(_step_of(before, layer, "0"), -expected)
