"""What K-FAC leaves out because it is not finite, and its warnings: one for a row of equal events."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from tensorrl.optimizers.blocks import Block
from tensorrl.optimizers.curvature import KroneckerFactors


class Soundness:
    """Looks for what is not finite, and warns.

    Args:
        device: where steps are taken.
        waits: whether a step may wait for the device, and so learn at once that a gradient is not finite.
    """

    def __init__(self, device: torch.device, *, waits: bool) -> None:
        self._waits = waits
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._warned_of_curvature, self._warned_of_gradient = False, False

    def of_factors(self, found: Sequence[tuple[Block, KroneckerFactors]], step: int) -> list[bool]:
        """Returns for each block whether its factors are finite."""
        # Anything not finite in what a factor is made of shows on its diagonal, as a sum of squares.
        traces = [factors.inputs.trace() + factors.outputs.trace() for _, factors in found]
        sound: list[bool] = torch.stack(traces).isfinite().tolist() if traces else []
        bad = [block.name for (block, _), finite in zip(found, sound, strict=True) if not finite]
        # One warning for a row of them: otherwise a diverged run would fill its log.
        if bad and not self._warned_of_curvature:
            warn(f"step {step}: curvature of {', '.join(bad)} is not finite, skipped; averages stay as they were")
        self._warned_of_curvature = bool(bad)
        return sound

    def clipped_scale(self, size: Tensor, bound: float, step: int) -> Tensor | float | None:
        """Returns min(1, √(bound / size)).

        NaN (None where steps may wait) if `size`, and so some gradient, is not finite.
        """
        if self._waits:
            value = float(size)
            sound = math.isfinite(value)
            if not sound and not self._warned_of_gradient:
                warn(f"step {step}: a gradient is not finite, step skipped, as are like ones after it")
            self._warned_of_gradient = not sound
            if not sound:
                return None
            return 1.0 if value <= bound else math.sqrt(bound / value)
        self._skipped += ~torch.isfinite(size)
        return torch.where(torch.isfinite(size), (bound / size.clamp(min=1e-30)).sqrt().clamp(max=1), math.nan)

    def report_skipped(self, step: int) -> None:
        """Warns of steps skipped on an accelerator, where finding out at once would mean waiting for it."""
        if not self._waits and (count := int(self._skipped)):
            self._skipped.zero_()
            warn(f"{count} steps before step {step} skipped: a gradient was not finite")


def warn_of_unseen(names: Sequence[str]) -> None:
    """Warns of blocks that took no part in the first curvature steps, if there are any."""
    if names:
        warn(f"no curvature observed of {', '.join(names)}: left as is until it takes part in a curvature step")


def warn(message: str) -> None:
    """Warns in the optimizer's name."""
    warnings.warn(f"KFAC: {message}", RuntimeWarning, stacklevel=4)
