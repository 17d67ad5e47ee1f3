"""Grafting: the direction of one optimizer with the length of another's step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorrl.errors import InputError


@dataclass(frozen=True)
class AdamLength:
    """Gives each block's step the length that Adam's would have (Agarwal et al. 2020, Anil et al. 2020, section 5).

    Adam (Kingma & Ba 2015) runs along on the same gradients, with moments of its own, but moves nothing.

    Attributes:
        betas: decay of the first and of the second moment, each in [0, 1).
        epsilon: added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas) or not self.epsilon > 0:
            raise InputError(f"graft: betas must be at least 0 and below 1, epsilon above 0, got {self}")


class AdamMoments:
    """Adam's state for a flat vector of gradients, and the lengths of the step it would take, slice by slice.

    Attributes:
        first: flat vector, moving average of gradients.
        second: flat vector, moving average of their squares.
        count: 0-dim, gradients seen.
    """

    def __init__(self, options: AdamLength, like: Tensor) -> None:
        self.options = options
        self.first, self.second, self._step = (torch.zeros_like(like) for _ in range(3))
        self.count = like.new_zeros(())

    def observe(self, gradients: Tensor, sound: Tensor | None = None) -> None:
        """Takes a flat vector of gradients in.

        Args:
            gradients: not changed.
            sound: 0-dim, False where they are to be left out because they are not finite; None where they are sound.
        """
        weights: list[float | Tensor] = [1 - beta for beta in self.options.betas]
        if sound is None:
            self.count += 1
        else:
            self.count += sound
            gradients = gradients.nan_to_num(0, 0, 0)
            weights = [torch.where(sound, weight, 0.0) for weight in weights]
        self.first.lerp_(gradients, weights[0])
        self.second.lerp_(gradients.square(), weights[1])

    def lengths(self, slices: Sequence[Tensor]) -> Tensor:
        """Returns the L2 norms (slices,) of Adam's next step at learning rate 1.

        Args:
            slices: see `slices_of`.
        """
        beta1, beta2 = self.options.betas
        torch.div(self.second, 1 - beta2**self.count, out=self._step)
        self._step.sqrt_().add_(self.options.epsilon)
        torch.div(self.first, self._step, out=self._step)
        return torch.stack(torch._foreach_norm(list(slices))) / (1 - beta1**self.count)

    def slices_of(self, sizes: Sequence[int]) -> list[Tensor]:
        """Views of the vector that `lengths` measures, of these sizes in turn."""
        return list(self._step.split(list(sizes)))
