"""How much the curvature is distrusted: a constant λ, a schedule of it, or Levenberg–Marquardt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tensorrl.errors import InputError


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Adapts λ to how well the quadratic model predicted the last step (Martens & Grosse 2015, section 6.5).

    Every `interval` steps, with ρ = (change of the loss) / (predicted change): if ρ is above 3/4, λ is multiplied by
    `rate`^interval; if it is below 1/4, λ is divided by it.

    Attributes:
        initial: first λ.
        interval: steps between two adaptations (the paper's T₁ = 5).
        rate: decrease of λ per step (the paper's 19/20).
        lower: λ never falls below this.
        upper: λ never rises above this.
    """

    initial: float = 1.0
    interval: int = 5
    rate: float = 19 / 20
    lower: float = 1e-8
    upper: float = 1e4

    def __post_init__(self) -> None:
        if not 0 < self.lower <= self.initial <= self.upper:
            raise InputError(f"damping: needs 0 < lower <= initial <= upper, got {self}")
        if self.interval < 1 or not 0 < self.rate < 1:
            raise InputError(f"damping: interval must be at least 1 and rate between 0 and 1, got {self}")

    def adapted(self, damping: float, ratio: float) -> float:
        """Returns the next λ; a ratio that is not finite counts as a failed prediction."""
        factor = self.rate**self.interval
        if not math.isfinite(ratio) or ratio < 0.25:
            damping /= factor
        elif ratio > 0.75:
            damping *= factor
        return min(max(damping, self.lower), self.upper)


@dataclass(frozen=True)
class GeometricDecay:
    """A schedule that goes from `start` to `end` over `duration` steps by equal ratios, and stays there.

    Attributes:
        start: λ at step 0, above 0.
        end: λ from step `duration` on, above 0.
        duration: steps, at least 1.
    """

    start: float
    end: float
    duration: int

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.end > 0 and self.duration >= 1):
            raise InputError(f"damping: start and end must be above 0, duration at least 1, got {self}")

    def __call__(self, step: int) -> float:
        """Returns λ at a step."""
        return self.start * math.pow(self.end / self.start, min(step / self.duration, 1.0))


Damping = float | Callable[[int], float] | LevenbergMarquardt
"""λ ≥ 0, a function of the number of steps taken, or an adaptation of it."""


def damping_at(damping: Damping, step: int, current: float | None) -> float:
    """Returns λ for a step.

    Args:
        damping: the optimizer's option.
        step: steps taken so far.
        current: λ of the last step; None before the first.
    """
    if isinstance(damping, LevenbergMarquardt):
        return damping.initial if current is None else current
    value = float(damping(step) if callable(damping) else damping)
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"damping: {value} at step {step}, must be finite and at least 0")
    return value
