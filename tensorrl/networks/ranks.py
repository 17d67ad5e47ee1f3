"""From a budget of coefficients to the ranks of every low-rank layer of a network, in one search.

What a rank is, and what it costs, is in `tensorrl.networks.shapes`.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from tensorrl.errors import InputError, unknown
from tensorrl.networks.shapes import LayerShape, Shape, coefficients_of, full_rank, rank_limits, useful_rank

TOLERANCE = 0.02
_REMAINDER = 0.002  # of the budget: below it no more exchanges are tried
_WHOLE_BELOW = 3
Rank: TypeAlias = int | float | str | Sequence[int]


def resolve_rank(rank: Rank, in_shape: Shape, out_shape: Shape, factorization: str, *, bias: bool = True) -> Shape:
    """Turns what a user may write for a rank into a tuple.

    Args:
        rank: a whole number (used for every entry, but no entry above its limit), a sequence of whole numbers (taken
            as it is), a fraction in (0, 1] of the dense layer's coefficients, bias included on both sides, or `"full"`.
        in_shape: sizes of the input modes.
        out_shape: sizes of the output modes.
        factorization: `tucker`, `cp` or `tt`.
        bias: whether the layer has a bias.

    Returns:
        One whole number per entry, each from 1 to its limit (`rank_limits`).

    Raises:
        InputError: for anything else, naming the entry and what is allowed.
    """
    limits = rank_limits(in_shape, out_shape, factorization)
    layer = f"{factorization} layer {in_shape} -> {out_shape}"
    if isinstance(rank, str):
        if rank != "full":
            raise InputError(f"rank of the {layer}: {rank!r} (allowed: whole numbers, a fraction in (0, 1], or 'full')")
        return full_rank(in_shape, out_shape, factorization)
    if isinstance(rank, float):
        if not 0.0 < rank <= 1.0:
            raise InputError(f"rank of the {layer}: the fraction {rank} of the dense coefficients is not in (0, 1]")
        shape = LayerShape(layer, in_shape, out_shape, bias)
        budget = round(rank * shape.dense_coefficients)
        return _search([shape], factorization, budget, {}, _WHOLE_BELOW)[0]
    if isinstance(rank, Sequence):
        entries = tuple(_whole(r, layer) for r in rank)
        if len(entries) != len(limits):
            raise InputError(f"rank of the {layer}: {entries} has {len(entries)} entries, not {len(limits)}")
        for k, (entry, limit) in enumerate(zip(entries, limits, strict=True)):
            if not 1 <= entry <= limit:
                raise InputError(f"rank of the {layer}: entry {k} is {entry} (allowed: 1 to {limit})")
        return entries
    number = _whole(rank, layer)
    if not 1 <= number <= max(limits):
        raise InputError(f"rank of the {layer}: {number} (allowed: 1 to {max(limits)})")
    return tuple(min(number, limit) for limit in limits)


def solve_ranks(
    layers: Sequence[LayerShape],
    *,
    factorization: str,
    coefficients: int,
    fixed: Mapping[str, int | Shape] | None = None,
    whole_below: int = _WHOLE_BELOW,
) -> dict[str, Shape]:
    """Picks the ranks of all layers together so that they use a given number of coefficients.

    One scale serves all layers: every rank is that scale times the most it can be (`rank_limits`: for Tucker the
    mode's size), rounded up, and no higher than is useful beside its neighbours (`useful_rank`). What the next step of
    the scale would overshoot by is spent in rounds of single steps, the largest that fits first; if that leaves much,
    one rank is lowered by one where it lets others use the budget better. The result is never above the budget and
    depends on nothing but the arguments.

    Args:
        layers: the layers to compress, with distinct names; the order decides ties.
        factorization: `tucker`, `cp` or `tt`, for all layers.
        coefficients: budget of learned scalars of these layers together, biases included.
        fixed: ranks that are given, by layer name; they count against the budget and are not searched.
        whole_below: Tucker ranks start at this number, or at the mode's size if that is smaller, as long as the budget
            allows: the factor of a mode of three costs nine coefficients, but rounding its rank to one would cap every
            other rank of the layer. 1 turns the exception off.

    Returns:
        The rank of every layer by name, in the order of `layers`.

    Raises:
        InputError: if no choice lands within 2 % of the budget (naming the smallest and the largest total possible),
            or for an unknown factorization, a wrong or repeated layer name, or a given rank that is not admissible.
    """
    names = [layer.name for layer in layers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise InputError(f"layers: {f'{repeated[0]!r} occurs twice' if repeated else 'none given'}")
    given: dict[int, Shape] = {}
    for name, rank in (fixed or {}).items():
        if name not in names:
            raise unknown("layer", name, names, where="fixed ranks")
        layer = layers[names.index(name)]
        given[names.index(name)] = resolve_rank(rank, layer.in_shape, layer.out_shape, factorization, bias=layer.bias)
    ranks = _search(layers, factorization, coefficients, given, whole_below)
    total = _total(layers, factorization, ranks)
    if not coefficients * (1 - TOLERANCE) <= total <= coefficients:
        largest = [given.get(i, full_rank(s.in_shape, s.out_shape, factorization)) for i, s in enumerate(layers)]
        smallest = [given.get(i, (1,) * len(r)) for i, r in enumerate(largest)]
        low, high = (_total(layers, factorization, r) for r in (smallest, largest))
        near = f"; the nearest below is {total:,}" if low <= coefficients <= high else ""
        raise InputError(
            f"coefficients: {coefficients:,} cannot be met within {TOLERANCE:.0%} by {factorization} layers "
            f"{', '.join(names)} (smallest possible {low:,}, largest {high:,}{near})"
        )
    return dict(zip(names, ranks, strict=True))


def _whole(value: object, layer: str) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"rank of the {layer}: {value!r} is not a whole number")
    return number


def _total(layers: Sequence[LayerShape], factorization: str, ranks: Sequence[Shape]) -> int:
    return sum(
        coefficients_of(s.in_shape, s.out_shape, factorization, r, s.bias) for s, r in zip(layers, ranks, strict=True)
    )


class _Allocation:
    """The state of one search: the wanted rank of every entry, and the total cost of the useful part of it."""

    def __init__(
        self, layers: Sequence[LayerShape], factorization: str, wanted: list[Shape], searched: set[int]
    ) -> None:
        self._layers, self._factorization, self._searched = layers, factorization, searched
        self.limits = [rank_limits(s.in_shape, s.out_shape, factorization) for s in layers]
        self.wanted = wanted
        # A rank that the user fixed stays as written, even if a part of it has no effect.
        self.ranks = [self._useful(i, rank) if i in searched else rank for i, rank in enumerate(wanted)]
        self.total = _total(layers, factorization, self.ranks)

    def _useful(self, i: int, rank: Shape) -> Shape:
        return useful_rank(self._layers[i].in_shape, self._layers[i].out_shape, self._factorization, rank)

    def _raised(self, i: int, k: int) -> tuple[Shape, Shape, int]:
        """Layer `i` with one more in entry `k`: the wanted rank, the useful rank, the coefficients it adds."""
        layer, wanted = self._layers[i], self.wanted[i]
        higher = (*wanted[:k], wanted[k] + 1, *wanted[k + 1 :])
        rank = self._useful(i, higher)
        before, after = (
            coefficients_of(layer.in_shape, layer.out_shape, self._factorization, r) for r in (self.ranks[i], rank)
        )
        return higher, rank, after - before

    def entries(self) -> Iterator[tuple[int, int]]:
        """Layer and position of every rank that is searched."""
        return ((i, k) for i in sorted(self._searched) for k in range(len(self.limits[i])))

    def can_grow(self, i: int, k: int) -> bool:
        """Whether the entry is below its limit."""
        return self.wanted[i][k] < self.limits[i][k]

    def cost(self, i: int, k: int) -> int:
        """Coefficients that one more in the entry adds; never negative."""
        return self._raised(i, k)[2]

    def grow(self, i: int, k: int) -> None:
        """Takes that step."""
        self.wanted[i], self.ranks[i], added = self._raised(i, k)
        self.total += added

    def with_one_less(self, i: int, k: int) -> _Allocation:
        """A copy in which the useful rank of the entry is one lower."""
        rank = self.ranks[i]
        wanted = [*self.wanted[:i], (*rank[:k], rank[k] - 1, *rank[k + 1 :]), *self.wanted[i + 1 :]]
        return _Allocation(self._layers, self._factorization, wanted, self._searched)


def _search(
    layers: Sequence[LayerShape],
    factorization: str,
    budget: int,
    given: Mapping[int, Shape],
    whole_below: int,
) -> list[Shape]:
    """Returns the ranks whose total is the largest this search finds within the budget (or the smallest possible)."""
    ones = [given.get(i, (1,) * len(rank_limits(s.in_shape, s.out_shape, factorization))) for i, s in enumerate(layers)]
    allocation = _Allocation(layers, factorization, ones, set(range(len(layers))) - set(given))

    def start(i: int, k: int) -> int:
        return min(whole_below, allocation.limits[i][k]) if factorization == "tucker" else 1

    _scale_up(allocation, budget, start)
    _spend(allocation, budget)
    while budget - allocation.total > _REMAINDER * budget:
        exchanges = [
            allocation.with_one_less(i, k) for i, k in allocation.entries() if allocation.ranks[i][k] > start(i, k)
        ]
        for exchange in exchanges:
            _spend(exchange, budget)
        best = max(exchanges, key=lambda exchange: exchange.total, default=allocation)
        if best.total <= allocation.total:
            break
        allocation = best
    return allocation.ranks


def _scale_up(allocation: _Allocation, budget: int, start: Callable[[int, int], int]) -> None:
    """Raises entries in the order in which a growing common scale, rounded up, would, until one does not fit."""

    def scale(i: int, k: int) -> float:
        wanted = allocation.wanted[i][k]
        return 0.0 if wanted < start(i, k) else wanted / allocation.limits[i][k]

    queue = [(scale(i, k), i, k) for i, k in allocation.entries() if allocation.can_grow(i, k)]
    heapq.heapify(queue)
    while queue:
        _, i, k = heapq.heappop(queue)
        if allocation.total + allocation.cost(i, k) > budget:
            return
        allocation.grow(i, k)
        if allocation.can_grow(i, k):
            heapq.heappush(queue, (scale(i, k), i, k))


def _spend(allocation: _Allocation, budget: int) -> None:
    """Spends what is left in rounds of at most one step an entry, those that add most first."""
    spent = True
    while spent and allocation.total < budget:
        spent = False
        growing = [(i, k) for i, k in allocation.entries() if allocation.can_grow(i, k)]
        for i, k in sorted(growing, key=lambda entry: -allocation.cost(*entry)):
            if allocation.total + allocation.cost(i, k) <= budget:
                allocation.grow(i, k)
                spent = True
