"""A trust region that binds: the length of every step is set by how far it moves the predictions, measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEMORY = 0.5
"""Weight of the past in the ratio of measured to modelled divergence, geometrically averaged."""
GROWTH = (100.0, 10.0, 2.0)
"""Most by which each measurement lengthens the step: what comes of the last is not measured again."""
MEASUREMENTS = len(GROWTH)
"""Of each step: where gradients differ from batch to batch the first is far off now and then, the third is not."""
SMALLEST = 1e-30


class TrustRegion:
    """Finds the fraction of the learning rate at which a step's KL divergence is a bound.

    First by the model, ½ δᵀFδ times the ratio of earlier measurements to it (blocks ignore one another, and know more
    of old batches than of this one). Then by the step's own measured divergence: for small steps it
    is quadratic in their length, so each measurement tells the factor that is left (Martens & Grosse 2015, section 6.4,
    take the same form on the batch from the exact Fisher). The fraction is at most 1: a short learning rate stays below
    the bound.

    Args:
        bound: in nats.
        device: where steps are taken.
    """

    def __init__(self, bound: float, device: torch.device) -> None:
        self.bound = bound
        self.reach = torch.ones((), device=device)
        """0-dim, the fraction of the learning rate that the last step took."""
        self.ratio = torch.ones((), device=device)
        """0-dim, measured over modelled divergence."""
        self._modelled = torch.zeros((), device=device)
        self._measurements = 0

    def guess(self, modelled: Tensor) -> Tensor:
        """Returns the fraction by the model.

        Args:
            modelled: 0-dim, ½ δᵀFδ of the step at the whole learning rate, in nats.
        """
        wanted = (self.bound / (modelled * self.ratio).clamp(min=SMALLEST)).sqrt().clamp(max=1)
        self._measurements = 0
        self._modelled.copy_(modelled)
        self.reach.copy_(torch.where(modelled > 0, wanted, 1))
        return self.reach

    def correct(self, divergence: Tensor) -> Tensor:
        """Returns the factor that brings the step just taken to the bound; 0, so no step, where it is not finite.

        Args:
            divergence: 0-dim, of the step as it was taken, in nats.
        """
        sound = divergence.isfinite()
        self._measurements = min(self._measurements, len(GROWTH) - 1)
        factor = (self.bound / divergence.clamp(min=SMALLEST)).sqrt().clamp(max=GROWTH[self._measurements])
        factor = torch.where(sound, torch.minimum(factor, 1 / self.reach), 0)
        seen = divergence / (self._modelled * self.reach**2).clamp(min=SMALLEST)
        # A value lost in rounding, or not finite, says nothing about the next step.
        told = sound & (self._modelled > 0) & (divergence > 0) & (self.reach > 0)
        weight = torch.where(told, 1 - MEMORY, 0.0)
        self.ratio.mul_((torch.where(told, seen, 1) / torch.where(told, self.ratio, 1)).pow(weight))
        # After a step that had to be taken back the model is trusted less.
        self.ratio.mul_(torch.where(sound, 1.0, 100.0))
        self.reach.mul_(factor)
        self._measurements += 1
        return factor

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` takes."""
        return {"reach": self.reach.clone(), "ratio": self.ratio.clone()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_state` gave."""
        self.reach.copy_(torch.as_tensor(state["reach"]))
        self.ratio.copy_(torch.as_tensor(state["ratio"]))
