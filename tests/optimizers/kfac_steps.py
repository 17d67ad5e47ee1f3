"""What the tests of the optimizer share: the undamped, unclipped, plain step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tensorrl.optimizers.kfac import KFAC

PLAIN = {"lr": 1.0, "damping": 0.0, "kl_clip": None, "momentum": 0.0, "fisher": "empirical"}
"""Options under which a step is θ − F⁻¹∇ with this batch's empirical F."""


def observe(optimizer: KFAC, model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One curvature step's forward and backward pass; returns the loss."""
    optimizer.zero_grad()
    with optimizer.curvature() as capture:
        outputs = model(x)
        value = loss(outputs)
        capture.observe(outputs, loss=value)
    value.backward()
    return value


def step(optimizer: KFAC, model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One whole curvature step; returns the loss before it."""
    value = observe(optimizer, model, x, loss)
    optimizer.step()
    return value


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's parameters."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def plain(module: nn.Module, **options: Any) -> KFAC:
    """K-FAC with `PLAIN` options, some of them replaced."""
    return KFAC(module, **{**PLAIN, **options})


def check_resume(
    nets: tuple[nn.Module, nn.Module],
    options: dict[str, Any],
    batches: Sequence[Any],
    step: Callable[[KFAC, Any, Any], object],
    saved_after: int,
) -> KFAC:
    """Trains one net whole, and its copy on from a state saved after some batches; both must end at the same bits.

    Args:
        nets: two alike.
        options: of K-FAC.
        batches: one a step.
        step: (optimizer, net, batch) → makes one step.
        saved_after: steps before the state is saved.

    Returns:
        The optimizer of the first net.
    """
    whole = KFAC(nets[0], **options)
    for batch in batches[:saved_after]:
        step(whole, nets[0], batch)
    nets[1].load_state_dict(nets[0].state_dict())
    resumed = KFAC(nets[1], **options)
    resumed.load_state_dict(whole.state_dict())
    for batch in batches[saved_after:]:
        for optimizer, net in zip((whole, resumed), nets, strict=True):
            step(optimizer, net, batch)
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, two)
    assert whole.figures() == resumed.figures()
    return whole


def kron_solve(a: Tensor, g: Tensor, matrix: Tensor, damping: float) -> Tensor:
    """(A + π√λ)⁻¹ ⊗ (G + √λ/π)⁻¹ on a gradient matrix (out, in), by dense inverses and the definition of π."""
    pi = ((a.trace() / len(a)) / (g.trace() / len(g))).sqrt()
    root = damping**0.5
    left = torch.linalg.inv(g + root / pi * torch.eye(len(g), dtype=g.dtype))
    right = torch.linalg.inv(a + root * pi * torch.eye(len(a), dtype=a.dtype))
    return torch.einsum("ij,jk,kl->il", left, matrix, right)
