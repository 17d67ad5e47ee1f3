"""The one description of a network: typed, serialisable, and countable without building anything."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tensorrl.networks.frames import PATCHES, WHOLE, StoredFrame, scattering_features, scattering_side
from tensorrl.networks.shapes import LayerShape, coefficients_of

Factorization = Literal["none", "tucker", "cp", "tt"]
DENSE_LAYERS = ("value_hidden", "advantage_hidden", "value_output", "advantage_output")


class NetworkSpec(BaseModel):
    """A dueling Q-network: stem and torso, two streams, one head a stream.

    Attributes:
        actions: number of actions.
        stack: frames an observation holds.
        torso: "data-efficient" (64×3×3 features) or "nature" (64×7×7).
        stem: "convolution" (learned first layer) or "scattering" (fixed wavelets, data-efficient torso only).
        scattering_j: scale of the scattering, 2^J pixels.
        scattering_l: number of its orientations.
        hidden: units of each stream.
        atoms: atoms of the value distribution; 1 gives plain Q-values.
        v_min: smallest return of the support.
        v_max: largest.
        noisy: NoisyNet in place of plain dense layers.
        noisy_sigma: its σ0.
        factorization: how the four dense layers are factorised, or "none".
        ranks: ranks of each factorised layer, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    actions: int = Field(ge=1, le=10_000)
    stack: int = Field(default=4, ge=1, le=64)
    torso: Literal["data-efficient", "nature"] = "data-efficient"
    stem: Literal["convolution", "scattering"] = "convolution"
    scattering_j: int = Field(default=2, ge=1, le=3)
    scattering_l: int = Field(default=4, ge=1, le=64)
    hidden: int = Field(default=256, ge=1, le=65_536)
    atoms: int = Field(default=51, ge=1, le=65_536)
    v_min: float = Field(default=-10.0, ge=-1e9, le=1e9)
    v_max: float = Field(default=10.0, ge=-1e9, le=1e9)
    noisy: bool = False
    noisy_sigma: float = Field(default=0.1, ge=0, le=1e6)
    factorization: Factorization = "none"
    ranks: dict[str, tuple[int, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> NetworkSpec:
        if self.noisy and self.factorization != "none":
            raise ValueError("noisy layers cannot be factorised: set noisy=false or factorization=none")
        if self.stem == "scattering" and self.torso != "data-efficient":
            raise ValueError("stem=scattering needs torso=data-efficient")
        if self.factorization != "none" and set(self.ranks) != set(DENSE_LAYERS):
            raise ValueError(f"ranks must name each of {', '.join(DENSE_LAYERS)}")
        if self.value_axes and self.v_min >= self.v_max:
            raise ValueError("v_min must be below v_max")
        return self

    @property
    def value_axes(self) -> tuple[int, ...]:
        """Shape of one action's outputs: (atoms,) of a distribution over returns, () of a plain value."""
        return (self.atoms,) if self.atoms > 1 else ()

    @property
    def features(self) -> tuple[int, int, int]:
        """Shape of the torso's output: channels, rows, columns."""
        if self.torso == "nature":
            return (64, 7, 7)
        if self.stem == "scattering":
            side = scattering_side(self.scattering_j)
            return (64, side, side)
        return (64, 3, 3)

    @property
    def stored_frame(self) -> StoredFrame:
        """What replay keeps of a frame."""
        if self.torso == "nature":
            return WHOLE
        return scattering_features(self.scattering_j, self.scattering_l) if self.stem == "scattering" else PATCHES

    def convolution_coefficients(self) -> dict[str, int]:
        """Learned coefficients of each convolution, by name; a scattering stem has none."""
        if self.torso == "nature":
            shapes = {"conv1": (32, self.stack, 8), "conv2": (64, 32, 4), "conv3": (64, 64, 3)}
        elif self.stem == "scattering":
            channels = self.stack * (1 + self.scattering_j * self.scattering_l)
            shapes = {"conv2": (64, channels, 5)}
        else:
            shapes = {"conv1": (32, self.stack, 5), "conv2": (64, 32, 5)}
        return {name: out * (channels * k * k + 1) for name, (out, channels, k) in shapes.items()}

    def dense_layers(self) -> list[LayerShape]:
        """The four layers a factorisation replaces, with their tensor shapes."""
        atoms = self.value_axes
        return [
            LayerShape("value_hidden", self.features, (self.hidden,)),
            LayerShape("advantage_hidden", self.features, (self.hidden,)),
            LayerShape("value_output", (self.hidden,), atoms or (1,)),
            LayerShape("advantage_output", (self.hidden,), (self.actions, *atoms)),
        ]

    def coefficients(self) -> dict[str, int]:
        """Learned coefficients of each layer, by name."""
        counts = self.convolution_coefficients()
        for layer in self.dense_layers():
            if self.factorization == "none":
                dense = math.prod(layer.out_shape) * (math.prod(layer.in_shape) + 1)
                counts[layer.name] = 2 * dense if self.noisy else dense
            else:
                counts[layer.name] = coefficients_of(
                    layer.in_shape, layer.out_shape, self.factorization, self.ranks[layer.name], layer.bias
                )
        return counts

    def total_coefficients(self) -> int:
        """Learned coefficients of the whole network."""
        return sum(self.coefficients().values())
