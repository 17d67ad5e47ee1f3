"""Resets: a network's last layers drawn anew now and then, while replay stays (Nikishin et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tensorrl.networks.qnetwork import QNetwork, build_dense

LAYERS = {
    "outputs": ("value_output", "advantage_output"),
    "streams": ("value_hidden", "advantage_hidden", "value_output", "advantage_output"),
}
"""What may be reset → its layers: both streams' output layers, or all four dense layers."""


@dataclass(frozen=True)
class Resets:
    """When which layers begin anew (Nikishin et al. 2022, section 3: "periodically re-initialize the last layers").

    Their agent on Atari 100k resets its last layer every 20,000 updates.

    Attributes:
        interval: updates between two resets.
        layers: a key of `LAYERS`.
    """

    interval: int
    layers: str = "outputs"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers."""
        return LAYERS[self.layers]

    def due(self, updates: int) -> bool:
        """Whether a reset follows the update that has just been made, the `updates`-th."""
        return updates % self.interval == 0


@torch.no_grad()
def draw_anew(network: QNetwork, names: Iterable[str], seed: int) -> None:
    """Draws dense layers anew in place, as a fresh network's are drawn; no other generator moves.

    Args:
        network: on any device.
        names: of the layers.
        seed: from which they are drawn, on the CPU, so that every device gets the same values.
    """
    shapes = [shape for shape in network.spec.dense_layers() if shape.name in set(names)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = {shape.name: build_dense(network.spec, shape) for shape in shapes}
    for name, layer in fresh.items():
        for mine, new in zip(getattr(network, name).parameters(), layer.parameters(), strict=True):
            mine.copy_(new)
