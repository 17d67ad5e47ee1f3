"""Shapes of low-rank layers: how many coefficients a rank costs, and which ranks matter.

Pure arithmetic: no module is built on the way. A *rank* is a tuple whose meaning depends on the factorization of a
weight with modes `(*in_shape, *out_shape)`:

- `tucker`: one rank per mode;
- `cp`: one number, the count of rank-one terms, as a 1-tuple;
- `tt` (tensor train): one rank per bond between neighbouring modes, so one fewer than there are modes.

Tucker and tensor train are those of Kolda and Bader (2009, sections 3 and 4) and Oseledets (2011); their use as the
weight of a regression layer is that of Kossaifi et al. (2020, "Tensor Regression Networks", section 3).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tensorrl.errors import InputError, unknown

FACTORIZATIONS = ("tucker", "cp", "tt")

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class LayerShape:
    """The shape of one fully connected layer, which is all that the rank search needs.

    Attributes:
        name: the layer's name, unique within its network.
        in_shape: sizes of the input modes, e.g. `(64, 3, 3)`.
        out_shape: sizes of the output modes, e.g. `(256,)`, or `(actions, atoms)`.
        bias: whether the layer has one bias per output.
    """

    name: str
    in_shape: Shape
    out_shape: Shape
    bias: bool = True

    @property
    def dense_coefficients(self) -> int:
        """Learned scalars of the uncompressed layer, bias included."""
        outputs = math.prod(self.out_shape)
        return math.prod(self.in_shape) * outputs + outputs * self.bias


def as_shape(label: str, shape: Iterable[Any]) -> Shape:
    """A shape of Python's whole numbers, from whole numbers of any type, such as NumPy's.

    Args:
        label: what to call it in an error.
        shape: sizes.

    Raises:
        InputError: it is empty, or has a size that is no whole number or below 1.
    """
    given = tuple(shape)
    try:
        sizes = tuple(operator.index(size) for size in given if not isinstance(size, bool))
    except TypeError:
        sizes = ()
    if not sizes or len(sizes) != len(given) or min(sizes) < 1:
        raise InputError(f"{label}: {given!r} is not a shape (allowed: one or more whole numbers, each at least 1)")
    return sizes


def coefficients_of(in_shape: Shape, out_shape: Shape, factorization: str, rank: Shape, bias: bool = True) -> int:
    """Counts the learned scalars of a factorized layer.

    Args:
        in_shape: sizes of the input modes.
        out_shape: sizes of the output modes.
        factorization: `tucker`, `cp` or `tt`.
        rank: the rank as a tuple (see the module's docstring).
        bias: whether to count one bias per output.

    Returns:
        The number of scalars in the core, the factors and the bias.
    """
    dims = (*in_shape, *out_shape)
    biases = math.prod(out_shape) if bias else 0
    if factorization == "tucker":
        return math.prod(rank) + sum(d * r for d, r in zip(dims, rank, strict=True)) + biases
    if factorization == "cp":
        return rank[0] * sum(dims) + biases
    bonds = (1, *rank, 1)
    return sum(bonds[k] * d * bonds[k + 1] for k, d in enumerate(dims)) + biases


def rank_limits(in_shape: Shape, out_shape: Shape, factorization: str) -> Shape:
    """Returns the largest admissible rank, entry by entry.

    Tucker: the mode's size. CP: the number of fibres along the longest mode, with which any tensor can be written
    exactly. Tensor train: the smaller side of the unfolding at that bond.

    Raises:
        InputError: for an unknown factorization, or a shape that is empty or has a size below 1.
    """
    if factorization not in FACTORIZATIONS:
        raise unknown("factorization", factorization, FACTORIZATIONS)
    in_shape, out_shape = as_shape("in_shape", in_shape), as_shape("out_shape", out_shape)
    dims = (*in_shape, *out_shape)
    if factorization == "tucker":
        return dims
    if factorization == "cp":
        return (math.prod(dims) // max(dims),)
    return tuple(min(math.prod(dims[:k]), math.prod(dims[k:])) for k in range(1, len(dims)))


def useful_rank(in_shape: Shape, out_shape: Shape, factorization: str, rank: Shape) -> Shape:
    """Lowers every rank to the largest useful one; the set of weights that can be expressed does not change.

    A Tucker mode cannot use more columns than the product of the other ranks (its unfolded core has no higher rank);
    a tensor-train bond not more than the core on either side has rows. The result is the largest such rank below the
    one given, and grows with it.
    """
    if factorization == "cp":
        return rank
    current, dims = list(rank), (*in_shape, *out_shape)
    while True:
        if factorization == "tucker":
            caps = [math.prod(current[:k] + current[k + 1 :]) for k in range(len(current))]
        else:
            bonds = [1, *current, 1]
            caps = [min(bonds[k] * dims[k], dims[k + 1] * bonds[k + 2]) for k in range(len(current))]
        over = [k for k, cap in enumerate(caps) if current[k] > cap]
        if not over:
            return tuple(current)
        # One at a time: lowering one mode changes what the others may use.
        worst = max(over, key=lambda k: current[k] / caps[k])
        current[worst] = caps[worst]


def full_rank(in_shape: Shape, out_shape: Shape, factorization: str) -> Shape:
    """Returns the smallest rank with which every weight of these shapes can be written exactly."""
    return useful_rank(in_shape, out_shape, factorization, rank_limits(in_shape, out_shape, factorization))
