"""A running average of the network, which acts in its place (Polyak & Juditsky 1992)."""

from __future__ import annotations

import torch

from tensorrl.networks.qnetwork import QNetwork


class Average:
    """The exponential average of a network's coefficients: θ̄ ← decay · θ̄ + (1 − decay) · θ after every update.

    Polyak & Juditsky (1992) average all iterates alike. Here weights fall by `decay` an update, so that the average
    forgets the first ones. Factors of a regression layer are averaged one by one, as all coefficients are.

    Attributes:
        network: the average, which learns nothing itself.
        decay: in [0, 1).

    Args:
        learning: the network that learns.
        network: a copy of it, which becomes the average.
        decay: see above.
    """

    def __init__(self, learning: QNetwork, network: QNetwork, decay: float) -> None:
        self.network, self.decay = network, decay
        self._pairs = [p.detach() for p in network.parameters()], [p.detach() for p in learning.parameters()]

    def begin(self) -> None:
        """Begins anew at the network as it is."""
        torch._foreach_copy_(*self._pairs)

    def follow(self) -> None:
        """Takes in the network as an update left it; works on tensors alone, in place."""
        torch._foreach_lerp_(*self._pairs, 1 - self.decay)
