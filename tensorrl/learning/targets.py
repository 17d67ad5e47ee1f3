"""What the network is moved towards: categorical projection, double Q, and the losses. Pure functions of tensors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def categorical_projection(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Projects the distribution of R + γ Z onto the support of Z (Bellemare et al. 2017, algorithm 1).

    Each shifted atom, clipped to the ends, is shared between its two neighbours in proportion to nearness. Written as
    a hat function over all pairs of atoms, an atom that falls on the support keeps its whole mass.

    Args:
        probabilities: (batch, atoms), of Z at the bootstrap state.
        returns: (batch,), the discounted sum of rewards on the way there.
        discounts: (batch,), γ^m, or 0 where the episode ended.
        support: (atoms,), equally spaced.

    Returns:
        (batch, atoms), rows summing to 1.
    """
    low, high, step = support[0], support[-1], support[1] - support[0]
    shifted = (returns[:, None] + discounts[:, None] * support).clamp_(low, high)
    distance = (shifted[:, None, :] - support[:, None]).abs_().div_(step)  # (batch, to, from)
    hats = distance.neg_().add_(1).clamp_(min=0)
    return hats.bmm(probabilities[:, :, None]).squeeze(2)


def categorical_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies (batch,) of logits (batch, atoms) against target distributions (batch, atoms)."""
    return -(targets * logits.log_softmax(1)).sum(1)


def huber_losses(values: Tensor, targets: Tensor) -> Tensor:
    """Huber losses (batch,) with threshold 1 of values (batch,) against targets (batch,) (Mnih et al. 2015)."""
    return F.smooth_l1_loss(values, targets, reduction="none")
