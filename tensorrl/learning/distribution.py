"""Who is sampled: slots in proportion to their priorities, without Python loops.

Two levels of sums replace a tree: one over blocks of slots, one inside each drawn block. With a batch of 32 and 100,000
slots, blocks of 64 make both levels about as long.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SHIFT = 6
BLOCK = 1 << _SHIFT
_BELOW_ONE = 1 - 1e-15


class SumBlocks:
    """Draws slots in proportion to their priorities, from sums over blocks of slots.

    A block's sum is always recomputed from its priorities, so no rounding error grows and the state is the priorities
    alone.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        blocks = -(-capacity // BLOCK)
        self.priorities = torch.zeros(blocks, BLOCK, dtype=torch.float64, device=device)
        self.sums = self._sums_of(self.priorities)
        self._flat = self.priorities.view(-1)
        self._strata = torch.empty(0)

    def set(self, slots: Tensor, priorities: Tensor | float) -> None:
        """Sets the priorities (batch,) of slots (batch,) int64; 0 means never drawn."""
        self._flat[slots] = priorities
        blocks = slots >> _SHIFT
        self.sums[blocks] = self._sums_of(self.priorities.index_select(0, blocks))

    def restore(self, priorities: Tensor) -> None:
        """Puts the priorities (n,) of the first slots back."""
        self._flat[: len(priorities)] = priorities.to(self._flat.device)
        self.sums.copy_(self._sums_of(self.priorities))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Draws one slot from each of `batch` equal strata of the total mass (Schaul et al. 2016, appendix B.2.1).

        Args:
            uniforms: (batch,) float64 in [0, 1).

        Returns:
            Slots (batch,) int64 and their priorities (batch,) float64.
        """
        batch = len(uniforms)
        cumulative = self.sums.cumsum(0)
        # Rounding must not push a draw past the last slot that has mass, here or inside the block.
        targets = (uniforms + self._numbers(batch)).mul_(cumulative[-1] * (_BELOW_ONE / batch))
        blocks = torch.searchsorted(cumulative, targets, right=True)
        rest = targets.sub_(cumulative.sub_(self.sums).index_select(0, blocks))[:, None]
        inside = self.priorities.index_select(0, blocks).cumsum(1)
        rest = torch.minimum(rest, inside[:, -1:] * _BELOW_ONE).clamp_(min=0)
        offsets = torch.searchsorted(inside, rest, right=True)[:, 0]
        slots = offsets.add_(blocks, alpha=BLOCK)
        return slots, self._flat.index_select(0, slots)

    def _sums_of(self, priorities: Tensor) -> Tensor:
        return priorities.sum(1)

    def _numbers(self, batch: int) -> Tensor:
        if len(self._strata) != batch:
            self._strata = torch.arange(batch, dtype=torch.float64, device=self.sums.device)
        return self._strata


class WholeSumBlocks(SumBlocks):
    """The same distribution for a GPU, by operators that give the same bits every time.

    Running sums of floats are not repeatable there, nor is writing to slots of which one may be named twice. So masses
    are whole numbers, the priorities times 2³² rounded down, whose sums are exact in any order; and what is written
    twice is the larger of the two. Sums stay below 2⁶³ while the priorities' sum stays below two thousand million, and
    no priority that replay gives, 10⁻⁸ or more, becomes 0.
    """

    UNIT = 2.0**32

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__(capacity, device)
        self._edges = torch.zeros(len(self.sums) + 1, dtype=torch.int64, device=device)

    def set(self, slots: Tensor, priorities: Tensor | float) -> None:
        """Sets the priorities (batch,) of slots (batch,) int64; 0 means never drawn."""
        values = priorities if isinstance(priorities, Tensor) else self._flat.new_full(slots.shape, priorities)
        put(self._flat, slots, values)
        blocks = slots >> _SHIFT
        put(self.sums, blocks, self._sums_of(self.priorities.index_select(0, blocks)))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """As `SumBlocks.sample`."""
        share = _BELOW_ONE / len(uniforms)
        # Edges of the blocks, the first of which is 0, in memory that stays in place.
        edges = self._edges
        cumulative = torch.cumsum(self.sums, 0, out=edges[1:])
        targets = torch.add(self._shares(len(uniforms), share), uniforms, alpha=share).mul_(cumulative[-1]).long()
        blocks = torch.searchsorted(cumulative, targets, right=True)
        rest = targets.sub_(edges.index_select(0, blocks))[:, None]
        inside = self._masses_of(self.priorities.index_select(0, blocks)).cumsum(1)
        slots = torch.searchsorted(inside, rest, right=True)[:, 0].add_(blocks, alpha=BLOCK)
        return slots, self._flat.index_select(0, slots)

    def _shares(self, batch: int, share: float) -> Tensor:
        if len(self._strata) != batch:
            self._strata = torch.arange(batch, dtype=torch.float64, device=self.sums.device) * share
        return self._strata

    def _sums_of(self, priorities: Tensor) -> Tensor:
        return self._masses_of(priorities).sum(1)

    def _masses_of(self, priorities: Tensor) -> Tensor:
        return (priorities * self.UNIT).long()


def put(target: Tensor, places: Tensor, values: Tensor) -> None:
    """Writes `target[places[i]] = values[i]` so that it is repeatable on a GPU: of two values for a place, the larger.

    Args:
        target: (places, ...).
        places: (n,) int64.
        values: (n, ...).
    """
    index = places.view(-1, *(1,) * (target.dim() - 1)).expand(values.shape)
    target.scatter_reduce_(0, index, values, "amax", include_self=False)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU without touching them, so that memory is taken as it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(np.zeros(shape, dtype=kind))
