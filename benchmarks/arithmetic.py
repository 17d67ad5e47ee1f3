"""The multiply-adds that one update needs, counted from a network's description alone; pure arithmetic on shapes.

An update passes a batch of states through the network, and the batch of states n steps later through the network and
its target (double Q-learning), and goes back through the first of the three. What is counted is matrix products,
without which there is no update; elementwise work, sampling noise, the optimizer and K-FAC's curvature are not. A
pixel that no output depends on is not counted either: of 84 rows and columns the data-efficient torso sees 75.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tensorrl.networks.spec import NetworkSpec

STATE_PASSES = 3
"""Passes over a batch in an update: the network on both its states, the target on the second."""
WEIGHT_SETS = 2
"""What depends on weights alone is formed once for the network, once for the target."""
BATCH = "z"


@dataclass(frozen=True)
class Product:
    """A matrix product of an update: (rows × inner) by (inner × columns), `copies` of them side by side.

    Attributes:
        layer: whose it is.
        rows: of the left matrix.
        inner: what is summed over.
        columns: of the right matrix.
        copies: independent products of these sizes; 1 unless a mode is multiplied elementwise.
        forward: how often it is done forward.
        gradients: how many of its two operands need a gradient, each a product of as many multiply-adds.
    """

    layer: str
    rows: int
    inner: int
    columns: int
    copies: int = 1
    forward: int = STATE_PASSES
    gradients: int = 2

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all its occurrences in one update."""
        return self.copies * self.rows * self.inner * self.columns * (self.forward + self.gradients)


def products_of_update(spec: NetworkSpec, batch: int = 32) -> list[Product]:
    """Every matrix product of one update.

    Args:
        spec: the network.
        batch: transitions of the update.
    """
    found: list[Product] = []
    for number, (name, positions, inner, columns) in enumerate(_convolutions(spec)):
        # The pixels need no gradient.
        found.append(Product(name, batch * positions, inner, columns, gradients=2 if number else 1))
    for layer in spec.dense_layers():
        if spec.factorization == "none":
            found.append(Product(layer.name, batch, math.prod(layer.in_shape), math.prod(layer.out_shape)))
        else:
            rank = spec.ranks[layer.name]
            operands, output, sizes = layer_network(layer.in_shape, layer.out_shape, spec.factorization, rank)
            found += cheapest_products(layer.name, operands, output, {**sizes, BATCH: batch})
    return found


def multiply_adds_of_update(spec: NetworkSpec, batch: int = 32) -> int:
    """Multiply-adds of one update."""
    return sum(product.multiply_adds for product in products_of_update(spec, batch))


def _convolutions(spec: NetworkSpec) -> Iterator[tuple[str, int, int, int]]:
    """Name, output positions that matter, inputs of one, output channels, of each learned convolution."""
    channels, *_ = spec.features
    positions = math.prod(spec.features[1:])
    if spec.torso == "nature":
        yield "conv1", 20 * 20, spec.stack * 8 * 8, 32
        yield "conv2", 9 * 9, 32 * 4 * 4, 64
        yield "conv3", positions, 64 * 3 * 3, channels
    elif spec.stem == "scattering":
        planes = spec.stack * (1 + spec.scattering_j * spec.scattering_l)
        yield "conv2", positions, planes * 5 * 5, channels
    else:
        # Each of the second layer's patches is 5×5 outputs of the first, and they do not overlap.
        yield "conv1", positions * 5 * 5, spec.stack * 5 * 5, 32
        yield "conv2", positions, 32 * 5 * 5, channels


def layer_network(
    in_shape: Sequence[int], out_shape: Sequence[int], factorization: str, rank: Sequence[int]
) -> tuple[tuple[str, ...], str, dict[str, int]]:
    """A factorised layer as a sum over labels: its operands, its output, and the size of each label but the batch's.

    The operands are the input, for `tucker` the core, and one factor a mode, labelled as by `numpy.einsum`.
    """
    dims = (*in_shape, *out_shape)
    modes = string.ascii_lowercase[: len(dims)]
    sizes = dict(zip(modes, dims, strict=True))
    source, output = BATCH + modes[: len(in_shape)], BATCH + modes[len(in_shape) :]
    if factorization == "cp":
        return (source, *(f"{mode}R" for mode in modes)), output, sizes | {"R": rank[0]}
    bonds = string.ascii_uppercase[: len(rank)]
    sizes |= dict(zip(bonds, rank, strict=True))
    if factorization == "tucker":
        return (source, bonds, *(mode + bond for mode, bond in zip(modes, bonds, strict=True))), output, sizes
    ends = ["", *bonds, ""]
    return (source, *(ends[k] + mode + ends[k + 1] for k, mode in enumerate(modes))), output, sizes


def cheapest_products(layer: str, operands: Sequence[str], output: str, sizes: Mapping[str, int]) -> list[Product]:
    """The pairwise contractions, in any order, that need the fewest multiply-adds over a whole update.

    Found by dynamic programming over the subsets of the operands. It is the least of all orders, whatever the
    processor makes of the shapes, so no implementation by pairs needs fewer.
    """
    full = (1 << len(operands)) - 1

    def open_labels(subset: int) -> frozenset[str]:
        inside = {label for i, labels in enumerate(operands) if subset >> i & 1 for label in labels}
        outside = {label for i, labels in enumerate(operands) if not subset >> i & 1 for label in labels}
        return frozenset(inside & (outside | set(output)))

    def size(labels: frozenset[str]) -> int:
        return math.prod(sizes[label] for label in labels)

    def contraction(part: int, rest: int) -> Product:
        left, right = open_labels(part), open_labels(rest)
        kept = left & right & open_labels(part | rest)
        forward = STATE_PASSES if BATCH in left | right else WEIGHT_SETS
        return Product(
            layer, size(left - right), size((left & right) - kept), size(right - left), size(kept), forward=forward
        )

    best: dict[int, tuple[int, list[Product]]] = {1 << i: (0, []) for i in range(len(operands))}
    for subset in sorted(range(1, full + 1), key=int.bit_count):
        if subset in best:
            continue
        part = (subset - 1) & subset
        while part > subset ^ part:
            product = contraction(part, subset ^ part)
            cost = best[part][0] + best[subset ^ part][0] + product.multiply_adds
            if subset not in best or cost < best[subset][0]:
                best[subset] = cost, [*best[part][1], *best[subset ^ part][1], product]
            part = (part - 1) & subset
    return best[full][1]
