"""A trust region that binds: the length of every step is set by how far it moves the predictions, measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MEMORY = 0.5
"""Weight of the past in the ratio of measured to modelled divergence, geometrically averaged."""
GROWTH = (100.0, 100.0, 10.0, 4.0, 2.0)
"""Most by which each measurement lengthens the step: what comes of the last is not measured again."""
MEASUREMENTS = len(GROWTH)
"""Of each step: where gradients differ from batch to batch the first is far off now and then, the last is rarely."""
SMALLEST = 1e-30
_POWERS = (1.4, 4.0)
"""Least and greatest power of a step's length that its divergence is taken to grow with where the step is shortened.
Where it is lengthened the least is 2: beyond a flat stretch of the divergence often comes a cliff."""
_APART = 0.05
"""Two measurements tell a power if their lengths differ by more than this share; rounding is as large below it."""


class TrustRegion:
    """Finds the fraction of the learning rate at which a step's KL divergence is a bound.

    First by the model, ½ δᵀFδ times the ratio of earlier measurements to it (blocks ignore one another, and know more
    of old batches than of this one). Then by the step's own measured divergence: for small steps it
    is quadratic in their length, so a measurement tells the factor that is left (Martens & Grosse 2015, section 6.4,
    take the same form on the batch from the exact Fisher). For long steps it is not, and two measurements tell the
    power that holds between them. The fraction is at most 1: a short learning rate stays below the bound.

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
        self._before: tuple[Tensor, Tensor] | None = None

    def guess(self, modelled: Tensor) -> Tensor:
        """Returns the fraction by the model.

        Args:
            modelled: 0-dim, ½ δᵀFδ of the step at the whole learning rate, in nats.
        """
        wanted = (self.bound / (modelled * self.ratio).clamp(min=SMALLEST)).sqrt().clamp(max=1)
        self._measurements, self._before = 0, None
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
        wanted = self.bound / divergence.clamp(min=SMALLEST)
        factor = wanted.pow(1 / self._power(divergence)).clamp(max=GROWTH[self._measurements])
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

    def _power(self, divergence: Tensor) -> Tensor | float:
        """Returns the power of the step's length that its divergence grows with, by the last two measurements."""
        length, size = self.reach.clamp(min=SMALLEST).log(), divergence.clamp(min=SMALLEST).log()
        before, self._before = self._before, (length, size)
        if before is None:
            return 2.0
        longer, larger = length - before[0], size - before[1]
        apart = (longer.abs() > _APART) & larger.isfinite()
        power = torch.where(apart, larger / torch.where(apart, longer, 1), 2.0)
        told = (power > 0) & ((power > 2) | (divergence > self.bound))
        return torch.where(told, power.clamp(*_POWERS), 2.0)

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` takes."""
        return {"reach": self.reach.clone(), "ratio": self.ratio.clone()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_state` gave."""
        self.reach.copy_(torch.as_tensor(state["reach"]))
        self.ratio.copy_(torch.as_tensor(state["ratio"]))
