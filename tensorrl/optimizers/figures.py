"""How much of a step the curvature decides: figures for reports, computed only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tensorrl.optimizers.stacks import BlockStack


@torch.no_grad()
def decided_directions(stacks: Iterable[BlockStack], damping: float, *, relative: bool) -> float:
    """Returns Σ μ/(μ + λ) over the eigenvalues μ of all blocks' A ⊗ G (or second moments in the eigenbasis): the
    directions that curvature decides.

    A direction counts 1 where its curvature is far above the damping, 0 where it is far below and the step is the
    gradient's, scaled. All eigenvalues at λ = 0 give the number of parameters.

    Args:
        stacks: blocks with the present factors.
        damping: λ, or its ratio to each block's mean curvature.
        relative: which of the two.
    """
    total = torch.zeros((), dtype=torch.float64)
    for stack in stacks:
        curvatures = stack.curvatures()
        shift = damping * curvatures.mean((1, 2), keepdim=True) if relative else torch.full((), damping).to(curvatures)
        shares = curvatures / torch.where(curvatures + shift > 0, curvatures + shift, 1)
        total += shares.sum().to("cpu", torch.float64)
    return float(total)
