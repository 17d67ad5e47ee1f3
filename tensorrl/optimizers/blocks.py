"""Curvature blocks: how each type of layer gives the Kronecker factors of its weights.

A layer's curvature is a small class with two duties: name the blocks of its trainable parameters, once, and turn what
a forward and backward pass left at the layer into one A and G per block. A new layer type is a subclass of
`LayerCurvature` and a call of `register_block`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.curvature import KroneckerFactors, Sharing, bias_factors, kronecker_factors
from tensorrl.optimizers.modes import MapSample, cp_maps, tt_maps, tucker_maps


@dataclass(frozen=True, eq=False)
class Block:
    """One matrix of parameters whose Fisher is taken to be A ⊗ G.

    The matrix is the weight as it lies in memory, (rows, weight columns), and beside it, if there is one, the bias as
    its last column. `inputs_on_rows` says which axis A belongs to; G has the other.
    """

    name: str
    weight: nn.Parameter
    rows: int
    weight_columns: int
    inputs_on_rows: bool = False
    bias: nn.Parameter | None = None

    @property
    def columns(self) -> int:
        """Columns of the matrix, the bias's included."""
        return self.weight_columns + (self.bias is not None)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that the matrix is made of."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def views(self, matrix: Tensor) -> list[Tensor]:
        """Views of a matrix (rows, columns), one of each parameter's shape."""
        weight = matrix[:, : self.weight_columns]
        rest = self.weight.shape[1:]
        if matrix.shape[1] == self.weight_columns:
            return [weight.view(self.weight.shape)]
        return [weight.unflatten(1, rest), matrix[:, -1]]

    def by_axis(self, factors: KroneckerFactors) -> tuple[Tensor, Tensor]:
        """Orders factors by the matrix's axes, (of rows, of columns)."""
        return (factors.inputs, factors.outputs) if self.inputs_on_rows else (factors.outputs, factors.inputs)

    def of_axes(self, rows: Tensor, columns: Tensor) -> KroneckerFactors:
        """Names factors that are ordered by the matrix's axes."""
        return KroneckerFactors(rows, columns) if self.inputs_on_rows else KroneckerFactors(columns, rows)


class NoBlockError(Exception):
    """A layer of a registered type that can have no curvature block; the message says why."""


class LayerCurvature(ABC):
    """Blocks of one layer.

    Attributes:
        name: the layer's name in its module.
        blocks: one for each matrix of trainable parameters; frozen parameters have none.
        example_dims: dimensions of one example's input where the layer takes examples without a batch; None where it
            does not.
    """

    example_dims: int | None = None

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name = name
        self.blocks = self._name_blocks(layer)

    @abstractmethod
    def _name_blocks(self, layer: nn.Module) -> list[Block]:
        """Lists the blocks of the layer's trainable parameters."""

    @abstractmethod
    def factors(self, inputs: Tensor, gradients: Tensor, sharing: Sharing) -> list[KroneckerFactors]:
        """Returns A and G of every block, in the order of `blocks`.

        Args:
            inputs: what the layer was called with, (batch, ...).
            gradients: the gradients at its output, (batch, ...), of each example's own loss.
            sharing: how positions that share a weight are treated.
        """

    def examples(self, inputs: Tensor, gradients: Tensor) -> list[MapSample]:
        """Returns what each example's gradient of every block is made of; needed with `eigenbasis` only.

        Args:
            inputs: as for `factors`.
            gradients: as for `factors`.
        """
        raise InputError(f"{self.name}: eigenbasis needs the method `examples` of {type(self).__name__}")


_REGISTRY: dict[type[nn.Module], type[LayerCurvature]] = {}


def register_block(layer_type: type[nn.Module], curvature: type[LayerCurvature]) -> None:
    """Makes K-FAC use `curvature` for layers of `layer_type` and of its subclasses that are not registered
    themselves."""
    _REGISTRY[layer_type] = curvature


def layer_curvature(name: str, layer: nn.Module) -> LayerCurvature | None:
    """Returns the curvature of a layer, by the nearest registered type it inherits from; None if there is none.

    Raises:
        NoBlockError: the type has one, but this layer cannot: a weight that is computed from others, as by
            `nn.utils.parametrizations` and pruning, or a convolution of several groups.
    """
    for kind in type(layer).__mro__:
        if kind in _REGISTRY:
            return _REGISTRY[kind](name, layer)
    return None


class LinearCurvature(LayerCurvature):
    """`nn.Linear` and its subclasses, shared over all axes between batch and features (Martens & Grosse 2015)."""

    example_dims = 1

    def _name_blocks(self, layer: nn.Module) -> list[Block]:
        weight, bias = own_parameter(layer, "weight"), None if layer.bias is None else own_parameter(layer, "bias")
        rows, trained_bias = weight.shape[0], bias if bias is not None and bias.requires_grad else None
        if weight.requires_grad:
            return [Block(self.name, weight, rows, weight[0].numel(), bias=trained_bias)]
        return [] if trained_bias is None else [Block(f"{self.name}.bias", trained_bias, rows, 1)]

    def _positions(self, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both as (batch, positions, features)."""
        batch = len(inputs)
        return inputs.reshape(batch, -1, inputs.shape[-1]), gradients.reshape(batch, -1, gradients.shape[-1])

    def factors(self, inputs: Tensor, gradients: Tensor, sharing: Sharing) -> list[KroneckerFactors]:
        """Returns A and G of the weight with its bias as a homogeneous coordinate."""
        inputs, gradients = self._positions(inputs, gradients)
        if self.blocks and self.blocks[0].weight.dim() == 1:
            return [bias_factors(gradients.sum(1))]
        return [kronecker_factors(inputs, gradients, sharing=sharing, bias=b.bias is not None) for b in self.blocks]

    def examples(self, inputs: Tensor, gradients: Tensor) -> list[MapSample]:
        """Returns inputs, with a 1 at their end where there is a bias, and gradients."""
        inputs, gradients = self._positions(inputs, gradients)
        ones = inputs.new_ones(*inputs.shape[:-1], 1)
        if self.blocks and self.blocks[0].weight.dim() == 1:
            return [MapSample(ones, gradients)]
        return [MapSample(inputs if b.bias is None else torch.cat((inputs, ones), -1), gradients) for b in self.blocks]


class Conv2dCurvature(LinearCurvature):
    """`nn.Conv2d` of one group, shared over the output's pixels (Grosse & Martens 2016).

    A subclass whose forward takes patches, already (batch, positions, in_channels·height·width), and returns
    (batch, positions, out_channels) says so by an attribute `takes_patches = True`.
    """

    def __init__(self, name: str, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Conv2d)
        if layer.groups != 1:
            raise NoBlockError(f"a convolution of {layer.groups} groups, only groups=1 has a block")
        super().__init__(name, layer)
        self._takes_patches = bool(getattr(layer, "takes_patches", False))
        self.example_dims = 2 if self._takes_patches else 3
        self._kernel, self._stride, self._dilation = layer.kernel_size, layer.stride, layer.dilation
        self._mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        self._padding = self._four_sides(layer)

    @staticmethod
    def _four_sides(layer: nn.Conv2d) -> list[int]:
        """Padding as `F.pad` takes it: left, right, top, bottom. "same" puts an odd pixel last, as `conv2d` does."""
        if layer.padding == "same":
            total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            pairs = [(t // 2, t - t // 2) for t in total]
        else:
            each = (0, 0) if isinstance(layer.padding, str) else layer.padding
            pairs = [(p, p) for p in each]
        return [side for pair in reversed(pairs) for side in pair]

    def _positions(self, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        if self._takes_patches:
            return super()._positions(inputs, gradients)
        if any(self._padding):
            inputs = F.pad(inputs, self._padding, mode=self._mode)
        patches = F.unfold(inputs, self._kernel, dilation=self._dilation, stride=self._stride)
        return patches.mT, gradients.flatten(2).mT


class RegressionCurvature(LayerCurvature):
    """`TensorRegression`: every factor a linear map along one mode, shared over others (see `modes`)."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        assert isinstance(layer, TensorRegression)
        self._layer = layer
        bias = None if layer.bias is None else own_parameter(layer, "bias")
        self._bias = bias if bias is not None and bias.requires_grad else None
        self.example_dims = len(layer.in_shape)
        super().__init__(name, layer)

    def _name_blocks(self, layer: nn.Module) -> list[Block]:
        modes_in = len(self._layer.in_shape)
        weights = [own_parameter(layer, f"factor_{k}") for k in range(len(self._layer.factors))]
        axes = [1 if w.dim() == 2 or k >= modes_in else 2 for k, w in enumerate(weights)]
        on_rows = [k < modes_in or w.dim() == 3 for k, w in enumerate(weights)]
        names = [f"{self.name}.factors.{k}" for k in range(len(weights))]
        if self._layer.core is not None:
            weights, axes, on_rows = [*weights, own_parameter(layer, "core")], [*axes, modes_in], [*on_rows, True]
            names.append(f"{self.name}.core")
        blocks = [
            Block(label, weight, math.prod(weight.shape[:axis]), math.prod(weight.shape[axis:]), inputs_on_rows=rows)
            for label, weight, axis, rows in zip(names, weights, axes, on_rows, strict=True)
        ]
        self._trained = [k for k, block in enumerate(blocks) if block.weight.requires_grad]
        blocks = [blocks[k] for k in self._trained]
        if self._bias is not None:
            rows, columns = _bias_matrix(self._bias.shape)
            blocks.append(Block(f"{self.name}.bias", self._bias, rows, columns))
        return blocks

    def factors(self, inputs: Tensor, gradients: Tensor, sharing: Sharing) -> list[KroneckerFactors]:
        """Returns A and G of every trained factor, then the core's, then the bias's."""
        batch, layer = len(inputs), self._layer
        x, g = inputs.reshape(-1, *layer.in_shape), gradients.reshape(-1, *layer.out_shape)
        found = []
        if self._trained:
            samples = self._samples(x, g)
            for k in self._trained:
                # Axes between the batch and the modes are further positions.
                a, b = (part.reshape(batch, -1, part.shape[-1]) for part in samples[k])
                found.append(kronecker_factors(a, b, sharing=sharing, bias=False))
        if self._bias is not None:
            found.append(bias_factors(g.reshape(batch, -1, *layer.out_shape).sum(1)))
        return found

    def examples(self, inputs: Tensor, gradients: Tensor) -> list[MapSample]:
        """Returns the samples of every trained factor, then of the core, then of the bias."""
        batch, layer = len(inputs), self._layer
        x, g = inputs.reshape(-1, *layer.in_shape), gradients.reshape(-1, *layer.out_shape)
        samples = self._samples(x, g) if self._trained else []
        found = [MapSample(*(part.reshape(batch, -1, part.shape[-1]) for part in samples[k])) for k in self._trained]
        if self._bias is not None:
            # A matrix is the sum over its columns of column ⊗ unit vector.
            rows, columns = _bias_matrix(self._bias.shape)
            matrix = g.reshape(batch, -1, rows * columns).sum(1).view(batch, rows, columns)
            units = torch.eye(columns, dtype=g.dtype, device=g.device).expand(batch, -1, -1)
            found.append(MapSample(units, matrix.mT))
        return found

    def _samples(self, x: Tensor, g: Tensor) -> list[MapSample]:
        factors = [f.detach().to(x.dtype) for f in self._layer.factors]
        if self._layer.factorization == "cp":
            return cp_maps(x, g, factors)
        if self._layer.factorization == "tt":
            return tt_maps(x, g, factors)
        core = self._layer.core
        assert core is not None
        return tucker_maps(x, g, factors, core.detach().to(x.dtype))


def own_parameter(layer: nn.Module, name: str) -> nn.Parameter:
    """Returns a parameter that is the layer's own.

    Raises:
        NoBlockError: the tensor of that name is computed from other parameters.
        InputError: it has no values yet.
    """
    value = getattr(layer, name)
    if isinstance(value, nn.parameter.UninitializedParameter):
        raise InputError(f"{type(layer).__name__}: has no weights yet; run a forward pass before K-FAC is made")
    if not isinstance(value, nn.Parameter):
        raise NoBlockError(f"its {name} is computed from other parameters")
    return value


def _bias_matrix(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a bias: all modes but the last against the last; a vector is one column."""
    return (shape[0], 1) if len(shape) == 1 else (math.prod(shape[:-1]), shape[-1])


register_block(nn.Linear, LinearCurvature)
register_block(nn.Conv2d, Conv2dCurvature)
register_block(TensorRegression, RegressionCurvature)
