"""A trust region that binds: the length of every step is set by how far it moves the predictions, measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GROWTH = 10.0
"""Most by which one measurement lengthens a step."""
RETREAT = 0.1
"""What the reach is multiplied by after a step whose divergence is not finite; the step itself is undone."""


class TrustRegion:
    """Finds the fraction of the learning rate at which a step's KL divergence is a bound.

    For small steps the divergence is quadratic in their length (Martens & Grosse 2015, section 6.4, take the same
    quadratic form on the batch from the exact Fisher). So one measurement tells the factor, and the fraction found for
    one step is where the next one starts. The fraction is at most 1: a short learning rate stays below the bound.

    Args:
        bound: in nats.
        device: where steps are taken.
    """

    def __init__(self, bound: float, device: torch.device) -> None:
        self.bound = bound
        self.reach = torch.ones((), device=device)
        """0-dim, the fraction of the learning rate that the coming step begins with."""
        self.begun = False

    def begin(self, quadratic: Tensor) -> Tensor:
        """Takes the first reach from a model, and returns it.

        Args:
            quadratic: ½ δᵀFδ of the first step at the whole learning rate.
        """
        self.begun = True
        wanted = (self.bound / quadratic.clamp(min=1e-30)).sqrt()
        self.reach.copy_(torch.where(quadratic > 0, wanted.clamp(max=1), 1))
        return self.reach

    def correct(self, divergence: Tensor) -> Tensor:
        """Returns the factor that brings the step just taken to the bound, and starts the next one from there.

        Args:
            divergence: 0-dim, of the step as it was taken, in nats.
        """
        sound = divergence.isfinite()
        factor = (self.bound / divergence.clamp(min=1e-30)).sqrt().clamp(max=GROWTH)
        factor = torch.where(sound, torch.minimum(factor, 1 / self.reach), 0)
        self.reach.mul_(torch.where(sound, factor, RETREAT))
        return factor

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` takes."""
        return {"reach": self.reach.clone(), "begun": self.begun}

    def set_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_state` gave."""
        self.reach.copy_(torch.as_tensor(state["reach"]))
        self.begun = bool(state["begun"])
