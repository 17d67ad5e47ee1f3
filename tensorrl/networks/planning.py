"""Planning the contraction of a small tensor network: the cheapest order, as matrix products.

A factorized layer is a network of tensors: the input, the factors, perhaps a core. Any order of pairwise contractions
gives the same output; the cost differs by an order of magnitude. A chain of mode products, folding factors into the
core first and rebuilding the whole weight are all such orders. `plan_contraction` searches them all (dynamic
programming over subsets of the tensors, as in Pfeifer, Haegeman and Verstraete 2014) under a cost model that counts
multiply-adds, memory traffic and a fixed price per kernel, because layers of this size are bound by the latter as much
as by the former.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from tensorrl.networks.contraction import Arrangement, Labels, Plan, Sizes, Step

BATCH = 0
"""Label of the batch mode. Its size in a plan is only an estimate: the plan is right for any batch."""


@dataclass(frozen=True)
class CostModel:
    """Prices of forward and backward together, in microseconds.

    Attributes:
        product: one matrix product (three kernels: forward and both gradients).
        elementwise: one copy, elementwise product or sum, with its gradients.
        view: one reshape or transposition that moves nothing.
        multiply_add: one multiply-add of the forward product.
        lanes: matrix dimensions are paid for in multiples of this.
        traffic: one element that the forward operation reads or writes, in rows of at least `wide`.
        narrow: its surcharge where rows in memory are shorter than `wide`: a tall matrix of few columns.
        wide: see `narrow`.
        transposed: one element of a copy that exchanges two groups of modes.
        scattered: one element of a copy that rearranges more.
    """

    product: float
    elementwise: float
    view: float
    multiply_add: float
    lanes: int
    traffic: float
    narrow: float
    wide: int
    transposed: float
    scattered: float


CPU = CostModel(
    product=6.5,
    elementwise=8.0,
    view=1.0,
    multiply_add=5.2e-5,
    lanes=8,
    traffic=3e-4,
    narrow=2e-3,
    wide=32,
    transposed=7e-4,
    scattered=2e-3,
)
"""Fitted to 150 random products and 20 copies in float32 on one core with AVX-512. Over 200 plans of seven layers the
rank correlation with measured times was 0.8 to 0.99 a layer; absolute times came out about a quarter low, with caches
that other work had emptied."""

CUDA = CostModel(
    product=8.0,
    elementwise=6.0,
    view=0.0,
    multiply_add=6e-7,
    lanes=16,
    traffic=3e-6,
    narrow=0.0,
    wide=1,
    transposed=6e-6,
    scattered=6e-6,
)
"""Kernels replayed from a captured graph at an assumed 2 to 3 microseconds each, whatever so small a layer asks of
them, which favours plans of few kernels. Not fitted to a device."""


@dataclass(frozen=True)
class Operand:
    """One tensor of a network.

    Attributes:
        labels: one label per mode, in memory order; modes of size one may go without.
        shape: the sizes of all its modes, -1 for `BATCH`.
    """

    labels: Labels
    shape: Sizes


@lru_cache(maxsize=4096)
def plan_contraction(
    operands: tuple[Operand, ...], sizes: Sizes, output: Labels, foldable: frozenset[int], costs: CostModel
) -> Plan:
    """Finds the cheapest order in which to contract a network, one pair at a time.

    A label that two remaining tensors share is summed over once no other tensor (and not the output) needs it.

    Args:
        operands: the tensors.
        sizes: the size of each label; that of `BATCH` is the expected batch.
        output: labels of the result, `BATCH` first.
        foldable: positions of operands whose outer (Kronecker) products may be formed: small factors.
        costs: the prices.

    Returns:
        The plan with the lowest estimated cost, ties broken by the order of the operands.
    """
    return _Search(operands, sizes, output, foldable, costs).plan()


@dataclass(frozen=True)
class _Join:
    """One way to contract two subsets: the labels they share, summed over or (elementwise) kept, and the price."""

    shared: frozenset[int]
    elementwise: bool
    cost: float


@dataclass(frozen=True)
class _Node:
    """A tensor that a plan can form: its modes in memory order, its actual shape, what it costs, how it is made."""

    labels: Labels
    shape: Sizes
    cost: float
    subset: int
    parents: tuple[_Node, _Node] | None = None
    arrangements: tuple[Arrangement, Arrangement] | None = None
    elementwise: bool = False


_LARGEST_OUTER_PRODUCT = 4096


class _Search:
    """Dynamic programming: the cheapest ways to form each subset of the operands, a few memory orders of each."""

    def __init__(
        self, operands: tuple[Operand, ...], sizes: Sizes, output: Labels, foldable: frozenset[int], costs: CostModel
    ) -> None:
        self._sizes, self._output, self._costs = sizes, output, costs
        self._full = (1 << len(operands)) - 1
        self._holders = [sum(1 << i for i, o in enumerate(operands) if e in o.labels) for e in range(len(sizes))]
        self._opens: dict[int, frozenset[int]] = {}
        self._foldable = sum(1 << i for i in foldable)
        self._leaves = [_Node(o.labels, o.shape, 0.0, 1 << i) for i, o in enumerate(operands)]
        # Memory orders make large networks slow to plan, and matter less in longer chains.
        self._kept = max(1, 10 - len(operands))

    def plan(self) -> Plan:
        best: dict[int, list[_Node]] = {leaf.subset: [leaf] for leaf in self._leaves}
        for subset in sorted(range(1, self._full + 1), key=lambda s: (s.bit_count(), s)):
            if subset not in best and (found := self._ways(subset, best)):
                best[subset] = found if subset == self._full else found[: self._kept]
        return min((self._finish(node) for node in best[self._full]), key=lambda plan: plan.cost)

    def _ways(self, subset: int, best: dict[int, list[_Node]]) -> list[_Node]:
        """The cheapest node of this subset for each memory order, cheapest first."""
        splits = []
        for part in _halves(subset):
            if part in best and subset ^ part in best and (join := self._join(part, subset ^ part)):
                lefts, rights = best[part], best[subset ^ part]
                splits.append((lefts[0].cost + rights[0].cost + join.cost, lefts, rights, join))
        found: dict[Labels, _Node] = {}
        enough = math.inf
        for bound, lefts, rights, join in sorted(splits, key=lambda split: split[0]):
            if bound >= enough:
                break
            for left in lefts:
                for right in rights:
                    for node in self._nodes(left, right, join):
                        rival = found.get(node.labels)
                        if rival is None or node.cost < rival.cost:
                            found[node.labels] = node
                            # Any other memory order is one copy of the result away.
                            enough = min(enough, node.cost + self._copy(node.labels, self._costs.scattered))
        return sorted(found.values(), key=lambda node: node.cost)

    def _join(self, part: int, rest: int) -> _Join | None:
        """How two subsets are contracted, and the price in any memory order; None if it should not be tried."""
        whole = part | rest
        ours, theirs = self._open(part), self._open(rest)
        shared = ours & theirs
        if not shared and whole & ~self._foldable:
            return None
        summed = shared - self._open(whole)
        if summed and summed != shared:
            return None
        m, k, n = self._size(ours - shared), self._size(shared), self._size(theirs - shared)
        if summed:
            lanes = self._costs.lanes
            padded = math.prod(-(-d // lanes) * lanes for d in (m, k, n))
            traffic = m * k + k * n + m * n
            return _Join(
                summed, False, self._costs.product + self._costs.multiply_add * padded + self._costs.traffic * traffic
            )
        if not shared and m * n > _LARGEST_OUTER_PRODUCT:
            return None
        return _Join(shared, True, self._costs.elementwise + self._costs.traffic * 1.5 * m * n * k)

    def _nodes(self, a: _Node, b: _Node, join: _Join) -> Iterator[_Node]:
        if join.elementwise:
            ends = tuple(e for e in a.labels if e in join.shared)
            mine, theirs = (tuple(e for e in node.labels if e not in join.shared) for node in (a, b))
            orders = {mine + theirs, theirs + mine}
            # Modes with the same neighbours side by side: the next contraction then needs no copy.
            orders |= {tuple(sorted(o, key=lambda e: self._holders[e] & ~(a.subset | b.subset))) for o in orders}
            for order in sorted(orders):
                yield self._multiply(a, b, order + ends, join.cost)
            return
        for order in sorted({tuple(e for e in node.labels if e in join.shared) for node in (a, b)}):
            yield from (self._product(a, b, order, join.cost), self._product(b, a, order, join.cost))

    def _product(self, a: _Node, b: _Node, summed: Labels, cost: float) -> _Node:
        rows = tuple(e for e in a.labels if e not in summed)
        columns = tuple(e for e in b.labels if e not in summed)
        left, left_cost = self._matrix(a, rows, summed)
        right, right_cost = self._matrix(b, summed, columns)
        cost += a.cost + b.cost + left_cost + right_cost
        cost += sum(
            self._narrow(*((second, first) if how.transpose else (first, second)))
            for first, second, how in ((rows, summed, left), (summed, columns, right))
        )
        cost += self._narrow(rows, columns)
        shape = (self._static_size(rows), self._static_size(columns))
        return _Node(rows + columns, shape, cost, a.subset | b.subset, (a, b), (left, right))

    def _multiply(self, a: _Node, b: _Node, target: Labels, cost: float) -> _Node:
        operands = []
        for node in (a, b):
            own = tuple(e for e in target if e in node.labels)
            spread = tuple(self._static_size((e,)) if e in node.labels else 1 for e in target)
            arranged, extra = self._arranged(node, own, spread)
            operands.append(arranged)
            cost += node.cost + extra
        shape = tuple(self._static_size((e,)) for e in target)
        return _Node(target, shape, cost, a.subset | b.subset, (a, b), (operands[0], operands[1]), True)

    def _matrix(self, node: _Node, rows: Labels, columns: Labels) -> tuple[Arrangement, float]:
        """How `node` becomes a matrix of these rows and columns, and what that costs."""
        shape = (self._static_size(rows), self._static_size(columns))
        if node.labels == columns + rows and node.labels != rows + columns:
            arranged, cost = self._arranged(node, columns + rows, shape[::-1])
            return replace(arranged, transpose=True), cost + self._costs.view
        return self._arranged(node, rows + columns, shape)

    def _arranged(self, node: _Node, target: Labels, shape: Sizes) -> tuple[Arrangement, float]:
        """How `node` gets its modes into the target order and then into a shape, and what that costs."""
        if node.labels == target:
            needed = node.shape != shape
            return Arrangement(None, None, shape if needed else None), self._costs.view * needed
        position = {label: i for i, label in enumerate(target)}
        # Modes that stay together move as one: fewer dimensions copy faster.
        runs = [
            tuple(label for _, label in run)
            for _, run in groupby(enumerate(node.labels), key=lambda pair: position[pair[1]] - pair[0])
        ]
        split = tuple(self._static_size(run) for run in runs)
        permutation = tuple(sorted(range(len(runs)), key=lambda i: position[runs[i][0]]))
        if node.labels[-1] == target[-1] and self._size(runs[-1]) >= self._costs.wide:
            price = self._costs.traffic
        else:
            price = self._costs.transposed if len(runs) <= 3 else self._costs.scattered
        # The fewer dimensions a copy loops over, the better.
        cost = self._copy(target, price) + self._costs.view * len(runs)
        return Arrangement(None if split == node.shape else split, permutation, shape), cost

    def _finish(self, node: _Node) -> Plan:
        matrix = (-1, self._size(self._output[1:]))
        finish, cost = self._arranged(node, self._output, matrix)
        fused = node.labels == self._output and not node.elementwise and node.shape == matrix
        if not fused:
            cost += self._copy(self._output, self._costs.traffic)
        steps: list[Step] = []
        self._emit(node, steps)
        return Plan(tuple(steps), finish, fused, node.cost + cost)

    def _emit(self, node: _Node, steps: list[Step]) -> int:
        if node.parents is None or node.arrangements is None:
            return node.subset.bit_length() - 1
        left, right = (self._emit(parent, steps) for parent in node.parents)
        steps.append(Step(left, right, *node.arrangements, node.elementwise))
        return len(self._leaves) + len(steps) - 1

    def _open(self, subset: int) -> frozenset[int]:
        """The labels that the contraction of a subset still has: those that something outside, or the output, needs."""
        if subset not in self._opens:
            self._opens[subset] = frozenset(
                e
                for e, holders in enumerate(self._holders)
                if holders & subset and (e in self._output or holders & ~subset)
            )
        return self._opens[subset]

    def _copy(self, labels: Labels, price: float) -> float:
        return self._costs.elementwise + price * self._size(labels)

    def _narrow(self, rows: Labels, columns: Labels) -> float:
        """The surcharge for a row-major matrix with short rows."""
        width = self._size(columns)
        return self._costs.narrow * self._size(rows) * width if width < self._costs.wide else 0.0

    def _size(self, labels: Iterable[int]) -> int:
        return math.prod(self._sizes[e] for e in labels)

    def _static_size(self, labels: Labels) -> int:
        return -1 if BATCH in labels else self._size(labels)


def _halves(subset: int) -> Iterator[int]:
    """Every way to split a set in two, each once."""
    part = (subset - 1) & subset
    while part > subset ^ part:
        yield part
        part = (part - 1) & subset
