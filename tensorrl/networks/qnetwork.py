"""The Q-network: torso, two streams, dueling heads, built from one `NetworkSpec`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.networks.heads import value_head
from tensorrl.networks.matmul import Linear
from tensorrl.networks.noisy import NoisyLinear, scaled_noise
from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import LayerShape
from tensorrl.networks.spec import NetworkSpec
from tensorrl.networks.torsos import DataEfficientTorso, NatureTorso, ScatteringTorso


class QNetwork(nn.Module):
    """Dueling Q-network over stacks of frames (Wang et al. 2016), with the outputs of its head.

    Attributes:
        spec: what it was built from.
        head: what its outputs mean.
        torso: stacks of stored frames → features; its `encode` lays frames out as replay stores them.
        value_hidden: hidden layer of the value stream.
        advantage_hidden: hidden layer of the advantage stream.
        value_output: values of the atoms.
        advantage_output: advantages of each action's atoms.
    """

    support: Tensor
    _centred: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec, self.head = spec, value_head(spec)
        self.torso = build_torso(spec)
        self.value_hidden, self.advantage_hidden, self.value_output, self.advantage_output = (
            build_dense(spec, layer) for layer in spec.dense_layers()
        )
        self.register_buffer("support", torch.linspace(spec.v_min, spec.v_max, spec.atoms), persistent=False)
        self.register_buffer("_centred", torch.eye(spec.actions) - 1 / spec.actions, persistent=False)
        self._noisy = [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def forward(self, stacks: Tensor) -> Tensor:
        """Maps stacks (batch, stack, *stored frame) to logits (batch, actions, atoms), or Q-values (batch, actions).

        Stacks are as replay stores them, or floats from `prepare`.

        logits(a) = V + A(a) − mean over actions of A: one value per atom, centred over actions.
        """
        value, advantage = self._streams(stacks)
        return self.head.outputs(value + advantage - advantage.mean(1, keepdim=True))

    def _streams(self, stacks: Tensor) -> tuple[Tensor, Tensor]:
        """Values (batch, 1, atoms) and advantages (batch, actions, atoms)."""
        spec = self.spec
        features = self.torso(stacks if stacks.dtype == self.support.dtype else self.prepare(stacks))
        if spec.factorization == "none":
            features = features.flatten(1)
        value = self.value_output(F.relu(self.value_hidden(features)))
        advantage = self.advantage_output(F.relu(self.advantage_hidden(features)))
        return value.view(-1, 1, spec.atoms), advantage.view(-1, spec.actions, spec.atoms)

    def q_values(self, logits: Tensor) -> Tensor:
        """Expected returns (batch, actions) of what `forward` gave."""
        return self.head.values(logits, self.support)

    def prepare(self, stacks: Tensor) -> Tensor:
        """Converts stored stacks to the floats that the torso takes, for a batch that several networks use."""
        return self.torso.prepare(stacks)

    @property
    def is_noisy(self) -> bool:
        """Whether exploration comes from NoisyNet."""
        return bool(self._noisy)

    def draw_noise(self, generator: torch.Generator) -> None:
        """Draws new noise for every noisy layer at once, from `generator`; see `NoisyLinear.set_noise`."""
        sizes = [layer.noise_size for layer in self._noisy]
        noise = scaled_noise(sum(sizes), generator, self.support.device)
        for layer, part in zip(self._noisy, noise.split(sizes), strict=True):
            layer.set_noise(part)

    def chosen(self, stacks: Tensor, actions: Tensor, *, repeatable: bool = False) -> Tensor:
        """What `forward` gives for one action (batch,) of each stack, (batch, *axes).

        Args:
            stacks: as for `forward`.
            actions: (batch,) int64.
            repeatable: takes operators that give the same bits every time also on a GPU, and few: a product with
                shares of 1 for the action less 1/actions for every one. Rounding differs.
        """
        if not repeatable:
            outputs: Tensor = self(stacks)
            return outputs[torch.arange(len(actions), device=actions.device), actions]
        value, advantage = self._streams(stacks)
        shares = self._centred.index_select(0, actions)[:, None]
        return torch.baddbmm(value, shares, advantage).view(-1, *self.head.axes)

    def form_noise(self) -> None:
        """Forms noisy weights anew from the noise last drawn."""
        for layer in self._noisy:
            layer.form_draw()

    def forget_noise(self) -> None:
        """Drops weights formed by the last draw, as after loading a state."""
        for layer in self._noisy:
            layer.forget_draw()


def build_torso(spec: NetworkSpec) -> DataEfficientTorso | ScatteringTorso | NatureTorso:
    """The torso that a spec names."""
    if spec.stem == "scattering":
        return ScatteringTorso(spec.stack, J=spec.scattering_j, L=spec.scattering_l)
    if spec.torso == "nature":
        return NatureTorso(spec.stack)
    return DataEfficientTorso(spec.stack)


def build_dense(spec: NetworkSpec, layer: LayerShape) -> nn.Module:
    """One of the four dense layers: plain, noisy or factorised."""
    if spec.factorization != "none":
        return TensorRegression(
            layer.in_shape, layer.out_shape, factorization=spec.factorization, rank=spec.ranks[layer.name]
        )
    sizes = math.prod(layer.in_shape), math.prod(layer.out_shape)
    return NoisyLinear(*sizes, sigma=spec.noisy_sigma) if spec.noisy else Linear(*sizes)
