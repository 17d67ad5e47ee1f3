"""What a network's outputs mean: a distribution over returns (C51), or plain values.

A head is a description without tensors. It answers what depends on that meaning: values, targets, losses, priorities.
The arithmetic below it is pure functions of tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tensorrl.networks.spec import NetworkSpec


class ValueHead(ABC):
    """The meaning of an action's outputs, (atoms,) of a distribution or one value.

    Attributes:
        axes: shape of one action's outputs.
        has_support: whether `v_min` and `v_max` mean anything to it.
        likelihood: what the outputs parametrise, for the Fisher information.
    """

    axes: tuple[int, ...]
    has_support: bool
    likelihood: Literal["categorical", "gaussian"]

    @abstractmethod
    def outputs(self, logits: Tensor) -> Tensor:
        """A network's outputs (batch, actions, *axes) from (batch, actions, atoms)."""

    @abstractmethod
    def values(self, outputs: Tensor, support: Tensor) -> Tensor:
        """Expected returns (...) of outputs (..., *axes)."""

    @abstractmethod
    def targets(
        self, bootstraps: Tensor, returns: Tensor, discounts: Tensor, support: Tensor, *, repeatable: bool = False
    ) -> Tensor:
        """The targets (batch, *axes) of predictions.

        Args:
            bootstraps: (batch, *axes), outputs for the action chosen at the bootstrap state.
            returns: (batch,), the discounted sum of rewards on the way there.
            discounts: (batch,), γ^m, or 0 where the episode ended.
            support: (atoms,).
            repeatable: takes operators that give the same bits every time also on a GPU.
        """

    @abstractmethod
    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Losses (batch,) of predictions (batch, *axes)."""

    @abstractmethod
    def errors(self, predictions: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """The values (batch,) that become priorities, without a gradient: the losses, or the size of the errors."""


class CategoricalHead(ValueHead):
    """A distribution over equally spaced returns (Bellemare et al. 2017).

    Args:
        atoms: how many, at least 2.
        low: smallest return of the support.
        high: largest.
    """

    has_support = True
    likelihood = "categorical"

    def __init__(self, atoms: int, low: float, high: float) -> None:
        self.axes, self.low, self.high = (atoms,), low, high

    def outputs(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits

    def values(self, outputs: Tensor, support: Tensor) -> Tensor:
        """Means of the distributions."""
        return outputs.softmax(-1) @ support

    def targets(
        self, bootstraps: Tensor, returns: Tensor, discounts: Tensor, support: Tensor, *, repeatable: bool = False
    ) -> Tensor:
        """Distributions of R + γ Z on the support."""
        probabilities = bootstraps.softmax(1)
        if repeatable:
            return dense_projection(probabilities, returns, discounts, support, self.low, self.high)
        return categorical_projection(probabilities, returns, discounts, support)

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies."""
        return categorical_losses(predictions, targets)

    def errors(self, predictions: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """The losses (Hessel et al. 2018)."""
        return losses.detach()


class ScalarHead(ValueHead):
    """Plain Q-values (Mnih et al. 2015)."""

    axes = ()
    has_support = False
    likelihood = "gaussian"

    def outputs(self, logits: Tensor) -> Tensor:
        """Drops the axis of atoms, which has size 1."""
        return logits.squeeze(2)

    def values(self, outputs: Tensor, support: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def targets(
        self, bootstraps: Tensor, returns: Tensor, discounts: Tensor, support: Tensor, *, repeatable: bool = False
    ) -> Tensor:
        """R + γ Q."""
        return returns + discounts * bootstraps

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Huber losses."""
        return huber_losses(predictions, targets)

    def errors(self, predictions: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """Sizes of the temporal-difference errors (Schaul et al. 2016)."""
        return (predictions - targets).detach().abs()


def outputs_of(outputs: Tensor, actions: Tensor) -> Tensor:
    """The outputs (batch, *axes) for actions (batch,), out of all outputs (batch, actions, *axes).

    It uses a mask, whose gradient is a mask too: the gradient of indexing adds up in no fixed order on a GPU.
    """
    taken = actions[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
    return torch.where(taken.view(*taken.shape, *(1,) * (outputs.dim() - 2)), outputs, 0).sum(1)


def value_head(spec: NetworkSpec) -> ValueHead:
    """The head of the network that a spec describes."""
    return CategoricalHead(spec.atoms, spec.v_min, spec.v_max) if spec.value_axes else ScalarHead()


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


def dense_projection(
    probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor, low: float, high: float
) -> Tensor:
    """As `categorical_projection`, by a product of matrices, so that sums do not depend on the order of threads.

    Atom i takes (1 − |z′ⱼ − zᵢ| / Δz)⁺ of the mass of atom j, shifted to z′ⱼ. It has more arithmetic and fewer
    operators, which suits a GPU and is slower on a CPU. Rounding differs.

    Args:
        probabilities: see `categorical_projection`, as for what follows.
        returns: likewise.
        discounts: likewise.
        support: likewise.
        low: its first atom, on the host.
        high: its last.
    """
    shifted = torch.addcmul(returns[:, None], discounts[:, None], support).clamp_(low, high)
    distances = (shifted[:, None, :] - support[:, None]).abs_()
    shares = torch.rsub(distances, 1, alpha=(len(support) - 1) / (high - low)).clamp_(min=0)
    return torch.bmm(shares, probabilities[:, :, None])[:, :, 0]


def categorical_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies (batch,) of logits (batch, atoms) against target distributions (batch, atoms)."""
    return -(targets * logits.log_softmax(1)).sum(1)


def huber_losses(values: Tensor, targets: Tensor) -> Tensor:
    """Huber losses (batch,) with threshold 1 of values (batch,) against targets (batch,) (Mnih et al. 2015)."""
    return F.smooth_l1_loss(values, targets, reduction="none")
