"""What the network is moved towards: categorical projection, double Q, and the losses. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def categorical_projection(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Projects the distribution of R + γ Z onto the support of Z (Bellemare et al. 2017, algorithm 1).

    Each shifted atom, clipped to the ends, is shared between its two neighbours in proportion to nearness. The lower
    neighbour is never the last atom, so that an atom on the support, or at its top, keeps its whole mass without a
    case of its own.

    Args:
        probabilities: (batch, atoms), of Z at the bootstrap state.
        returns: (batch,), the discounted sum of rewards on the way there.
        discounts: (batch,), γ^m, or 0 where the episode ended.
        support: (atoms,), equally spaced.

    Returns:
        (batch, atoms), rows summing to 1.
    """
    batch, atoms = probabilities.shape
    low, step = support[0], support[1] - support[0]
    shifted = torch.addcmul(returns[:, None], discounts[:, None], support)
    places = shifted.sub_(low).div_(step).clamp_(0, atoms - 1)
    lower = places.floor().clamp_(max=atoms - 2)
    upper_mass = (places - lower) * probabilities
    rows = torch.arange(0, batch * atoms, atoms, device=support.device)
    slots = (lower.long() + rows[:, None]).view(-1)
    projected = torch.zeros(batch * atoms, dtype=probabilities.dtype, device=support.device)
    projected.index_add_(0, slots, (probabilities - upper_mass).view(-1))
    projected.index_add_(0, slots + 1, upper_mass.view(-1))
    return projected.view(batch, atoms)


def categorical_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies (batch,) of logits (batch, atoms) against target distributions (batch, atoms)."""
    return -(targets * logits.log_softmax(1)).sum(1)


def huber_losses(values: Tensor, targets: Tensor) -> Tensor:
    """Huber losses (batch,) with threshold 1 of values (batch,) against targets (batch,) (Mnih et al. 2015)."""
    return F.smooth_l1_loss(values, targets, reduction="none")
