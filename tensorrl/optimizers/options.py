"""Options of K-FAC that are fixed once it is made, checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tensorrl.errors import InputError, unknown
from tensorrl.optimizers.curvature import Sharing
from tensorrl.optimizers.damping import Damping
from tensorrl.optimizers.fisher import categorical_divergence, gaussian_divergence, sample_categorical, sample_gaussian
from tensorrl.optimizers.grafting import AdamLength

Likelihood = Callable[[Tensor, torch.Generator | None, Tensor | None], Tensor]
"""(outputs, generator, weights) → negative log-likelihood of targets drawn from the model, a mean over the batch."""
Fisher = Literal["sampled", "empirical"]

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(outputs before, outputs after) → KL divergence of the predictions, in nats, a mean over the batch."""

LIKELIHOODS: dict[str, Likelihood] = {"categorical": sample_categorical, "gaussian": sample_gaussian}
DIVERGENCES: dict[str, Divergence] = {"categorical": categorical_divergence, "gaussian": gaussian_divergence}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `KFAC` documents under the same names."""

    damping: Damping
    relative_damping: bool
    factor_decay: float
    curvature_interval: int
    inverse_interval: int
    overlap: int
    kl_clip: float | None
    trust_region: float | None
    graft: AdamLength | None
    eigenbasis: bool
    fisher: Fisher
    likelihood: str | Likelihood
    sharing: Sharing

    def __post_init__(self) -> None:
        check_range("factor_decay", self.factor_decay, 0, 1)
        for name in ("curvature_interval", "inverse_interval"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}, must be at least 1")
        if not 0 <= self.overlap < self.inverse_interval:
            raise InputError(
                f"overlap: {self.overlap}, must be from 0 to below inverse_interval={self.inverse_interval}"
            )
        if self.eigenbasis and self.overlap:
            raise InputError(f"overlap: {self.overlap}, must be 0 with eigenbasis, which is refreshed at once")
        if self.kl_clip is not None and not self.kl_clip > 0:
            raise InputError(f"kl_clip: {self.kl_clip}, must be above 0, or None")
        if self.trust_region is not None and not 0 < self.trust_region < math.inf:
            raise InputError(f"trust_region: {self.trust_region}, must be above 0 and finite, or None")
        if self.trust_region is not None and not isinstance(self.likelihood, str):
            raise InputError(
                f"trust_region: needs a likelihood by name ({', '.join(DIVERGENCES)}), which has a divergence"
            )
        for name, value, allowed in (
            ("fisher", self.fisher, ("sampled", "empirical")),
            ("sharing", self.sharing, ("expand", "reduce")),
        ):
            if value not in allowed:
                raise unknown(name, value, allowed)
        if isinstance(self.likelihood, str) and self.likelihood not in LIKELIHOODS:
            raise unknown("likelihood", self.likelihood, LIKELIHOODS)

    def fisher_loss(
        self, outputs: Tensor | None, loss: Tensor | None, weights: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Returns the scalar whose gradients at the layers' outputs make the factors."""
        if self.fisher == "empirical":
            if loss is None:
                raise InputError("observe(): the empirical Fisher needs observe(loss=loss)")
            return loss
        if outputs is None:
            raise InputError("observe(): the sampled Fisher needs the model's outputs, observe(outputs)")
        draw = LIKELIHOODS[self.likelihood] if isinstance(self.likelihood, str) else self.likelihood
        return draw(outputs, generator, weights)


def check_range(name: str, value: float | Tensor, low: float, high: float) -> None:
    """Raises InputError unless low ≤ value < high."""
    if not low <= float(value) < high:
        raise InputError(f"{name}: {float(value)}, must be at least {low} and below {high}")
    if math.isinf(float(value)):
        raise InputError(f"{name}: must be finite")
