"""A tensor regression layer seen as a chain of linear maps, one per factor.

The layer's own forward pass folds factors together, so what goes in and out of each factor never exists. It is
recomputed here from the layer's input x and the gradient g at its output, in closed form. Each factor is a linear map
along one mode, shared over positions of the others; which positions is a choice, and it is this:

- Tucker: a factor acts with all other factors of its side already applied, so positions are the *ranks* of the other
  modes. The core is one map from all input ranks to all output ranks, not shared.
- CP: input factors act on the raw fibres of x, output factors on the sum's terms at every place of the other output
  modes (after contraction nothing would be left to share: each rank has its own column).
- TT: cores act one after the other; an input core is shared over the modes still to be contracted, an output core over
  the modes already written.

Sources: Kossaifi et al. 2020, "Tensor regression networks", section 3, for the layer; Grosse & Martens 2016 and
Eschenhagen et al. 2023 for maps shared over positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class MapSample(NamedTuple):
    """Inputs and output gradients of one factor; its gradient is Σ over positions of gradients ⊗ inputs."""

    inputs: Tensor
    """(batch, positions, in)."""
    gradients: Tensor
    """(batch, positions, out)."""


def _product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Contracts axis `mode` (the batch is axis 0) with the first axis of `matrix`, whose second takes its place."""
    return (tensor.movedim(mode, -1) @ matrix).movedim(-1, mode)


def _products(tensor: Tensor, matrices: Sequence[Tensor], skip: int | None = None) -> Tensor:
    for k, matrix in enumerate(matrices):
        if k != skip:
            tensor = _product(tensor, matrix, k + 1)
    return tensor


def _fibres(tensor: Tensor, mode: int) -> Tensor:
    """(batch, d1, ..., dn) → (batch, product of the other dimensions, d of `mode`)."""
    return tensor.movedim(mode, -1).reshape(len(tensor), -1, tensor.shape[mode])


def tucker_maps(x: Tensor, g: Tensor, factors: Sequence[Tensor], core: Tensor) -> list[MapSample]:
    """Returns the samples of every factor, in order, and of the core, last.

    Args:
        x: (batch, *in_shape).
        g: (batch, *out_shape), the gradient at the layer's output.
        factors: one (dimension, rank) per input mode, then one per output mode.
        core: (*input ranks, *output ranks).
    """
    modes_in = x.dim() - 1
    into, out_of = factors[:modes_in], factors[modes_in:]
    matrix = core.reshape(math.prod(core.shape[:modes_in]), -1)
    narrow = _products(x, into)
    back = _products(g, out_of)
    core_in, core_out = narrow.flatten(1), back.flatten(1)
    narrow_gradient = (core_out @ matrix.mT).reshape(narrow.shape)
    wide = (core_in @ matrix).reshape(back.shape)
    samples = [
        MapSample(_fibres(_products(x, into, skip=k), k + 1), _fibres(narrow_gradient, k + 1)) for k in range(len(into))
    ]
    samples += [
        MapSample(_fibres(wide, j + 1), _fibres(_products(g, out_of, skip=j), j + 1)) for j in range(len(out_of))
    ]
    return [*samples, MapSample(core_in[:, None], core_out[:, None])]


def _khatri_rao(matrices: Sequence[Tensor], rank: int, like: Tensor) -> Tensor:
    """Column-wise outer products: matrices (dₖ, rank) → (∏ dₖ, rank); of none, a row of ones."""
    product = like.new_ones(1, rank)
    for matrix in matrices:
        product = (product[:, None] * matrix[None]).reshape(-1, rank)
    return product


def cp_maps(x: Tensor, g: Tensor, factors: Sequence[Tensor]) -> list[MapSample]:
    """Returns the samples of every factor, in order.

    Args:
        x: (batch, *in_shape).
        g: (batch, *out_shape), the gradient at the layer's output.
        factors: one (dimension, rank) per input mode, then one per output mode.
    """
    modes_in, rank = x.dim() - 1, factors[0].shape[1]
    into, out_of = factors[:modes_in], factors[modes_in:]
    terms = x.flatten(1) @ _khatri_rao(into, rank, x)
    term_gradients = g.flatten(1) @ _khatri_rao(out_of, rank, g)
    samples = []
    for k in range(len(into)):
        others = _khatri_rao([*into[:k], *into[k + 1 :]], rank, x)
        samples.append(MapSample(_fibres(x, k + 1), term_gradients[:, None] * others))
    for j in range(len(out_of)):
        others = _khatri_rao([*out_of[:j], *out_of[j + 1 :]], rank, x)
        samples.append(MapSample(terms[:, None] * others, _fibres(g, j + 1)))
    return samples


def tt_maps(x: Tensor, g: Tensor, factors: Sequence[Tensor]) -> list[MapSample]:
    """Returns the samples of every core, in order.

    Args:
        x: (batch, *in_shape).
        g: (batch, *out_shape), the gradient at the layer's output.
        factors: cores (rank before, dimension, rank after), input modes first; the outermost ranks are 1. An input
            core maps (rank before × dimension) to its rank after, an output core its rank before to
            (dimension × rank after).
    """
    batch, modes_in = len(x), x.dim() - 1
    matrices = [f.flatten(0, 1) if k < modes_in else f.flatten(1) for k, f in enumerate(factors)]
    inputs = []
    state = x.reshape(batch, 1, -1)  # (batch, rank, modes not yet contracted)
    for matrix in matrices[:modes_in]:
        inputs.append(state.reshape(batch, len(matrix), -1).mT)
        state = (inputs[-1] @ matrix).mT
    state = state.mT  # (batch, modes written, rank)
    for factor, matrix in zip(factors[modes_in:], matrices[modes_in:], strict=True):
        inputs.append(state)
        state = (state @ matrix).reshape(batch, -1, factor.shape[2])
    gradients: list[Tensor] = []
    back = g.reshape(batch, -1, 1)
    for k in reversed(range(modes_in, len(factors))):
        gradients.append(back.reshape(batch, inputs[k].shape[1], -1))
        back = gradients[-1] @ matrices[k].mT
    for k in reversed(range(modes_in)):
        gradients.append(back)
        fibres = (back @ matrices[k].mT).mT  # (batch, rank before × dimension, positions)
        back = fibres.reshape(batch, factors[k].shape[0], -1).mT
    return [MapSample(a, b) for a, b in zip(inputs, reversed(gradients), strict=True)]
