"""K-FAC beside curvlinops' (Dangel et al. 2025), an independent implementation for linear layers and convolutions."""

from __future__ import annotations

import pytest
import torch
from curvlinops import KFACInverseLinearOperator, KFACLinearOperator
from kfac_steps import parameters_of, plain, step
from torch import nn


def _net(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 2, stride=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.Sigmoid(),
        nn.Linear(6, outputs, bias=False),
    ).double()


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("kind", ["categorical", "square"])
def test_factors_and_steps_equal_those_of_curvlinops(kind: str, sharing: str) -> None:
    torch.manual_seed(0)
    # With several outputs libraries differ in what nn.MSELoss' mean over them scales, examples or their number.
    net, damping = _net(3 if kind == "categorical" else 1), 0.01
    x = torch.randn(9, 2, 4, 4, dtype=torch.float64)
    if kind == "categorical":
        y: torch.Tensor = torch.randint(3, (9,))
        loss: nn.Module = nn.CrossEntropyLoss()
    else:
        y, loss = torch.randn(9, 1, dtype=torch.float64), nn.MSELoss()
    theirs = KFACLinearOperator(
        net,
        loss,
        list(net.parameters()),
        [(x, y)],
        fisher_type="empirical",
        kfac_approx=sharing,
        separate_weight_and_bias=False,
    )
    net.zero_grad()
    loss(net(x), y).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    inverse = KFACInverseLinearOperator(theirs, damping=damping, use_heuristic_damping=True, min_damping=0.0)
    expected = inverse @ gradients

    before, ours = parameters_of(net), plain(net, damping=damping, sharing=sharing)
    step(ours, net, x, lambda outputs: loss(outputs, y))
    for name, factors in ours.factors().items():
        torch.testing.assert_close(factors.inputs, theirs._input_covariances[name])
        torch.testing.assert_close(factors.outputs, theirs._gradient_covariances[name])
    for (name, parameter), theirs_step in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(before[name] - parameter.detach(), theirs_step, msg=lambda m, n=name: f"{n}: {m}")
