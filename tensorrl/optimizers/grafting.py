"""Grafting: the direction of one optimizer with the length of another's step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorrl import system
from tensorrl.errors import InputError


@dataclass(frozen=True)
class AdamLength:
    """Gives each block's step the length that Adam's would have (Agarwal et al. 2020, Anil et al. 2020, section 5).

    Adam (Kingma & Ba 2015) runs along on the same gradients, with moments of its own, but moves nothing.

    Attributes:
        betas: decay of the first and of the second moment, each in [0, 1).
        epsilon: added to the root of the second moment.
        by_block: counts the gradients of each block for itself, so that single blocks can begin anew (`KFAC.restart`).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    by_block: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas) or not self.epsilon > 0:
            raise InputError(f"graft: betas must be at least 0 and below 1, epsilon above 0, got {self}")


class AdamMoments:
    """Adam's state for a flat vector of gradients, and the step it would take.

    Attributes:
        first: flat vector, moving average of gradients.
        second: flat vector, moving average of their squares.
        count: gradients seen, 0-dim, or (parts,).
        step: flat vector, Adam's last step at learning rate 1.

    Args:
        options: of Adam.
        like: a flat vector of gradients.
        sizes: of its parts, whose gradients are counted one by one; None for one count.
    """

    def __init__(self, options: AdamLength, like: Tensor, sizes: list[int] | None = None) -> None:
        self.options = options
        self.first, self.second, self.step = (torch.zeros_like(like) for _ in range(3))
        self.count = torch.zeros(() if sizes is None else len(sizes), device=like.device)
        self._sizes = [len(like)] if sizes is None else sizes
        self._counts = list(self.count.view(-1).unbind())
        self._parts = [list(vector.split(self._sizes)) for vector in (self.step, self.first, self.second)]
        self._none = torch.zeros(1, device=like.device)

    def observe(self, gradients: Tensor, sound: Tensor | None = None) -> None:
        """Takes a flat vector of gradients in, and makes the step.

        Args:
            gradients: not changed.
            sound: 0-dim, False where they are to be left out because they are not finite; None where they are sound.
        """
        beta1, beta2 = self.options.betas
        self.count += 1 if sound is None else sound
        self.step.zero_()
        # PyTorch's kernel moves parameters by Adam's step; from 0 it leaves the step itself.
        steps, firsts, seconds = self._parts
        found_inf = self._none if sound is None else (~sound).to(self._none).view(1)
        with system.subnormals_as_zero(gradients.device):  # as in FusedAdam
            torch._fused_adam_(
                steps, list(gradients.split(self._sizes)), firsts, seconds, [], self._counts,
                lr=1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=self.options.epsilon,
                amsgrad=False, maximize=False, found_inf=found_inf,
            )  # fmt: skip
