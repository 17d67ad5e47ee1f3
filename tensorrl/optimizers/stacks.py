"""Blocks of one shape, stacked: they share one batched product and one batched inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorrl.errors import InputError
from tensorrl.networks.matmul import packed
from tensorrl.optimizers.blocks import Block
from tensorrl.optimizers.curvature import (
    Factored,
    KroneckerFactors,
    damping_split,
    eigenvalues,
    factored,
    relative_shifts,
)
from tensorrl.optimizers.kronecker import sandwich

Inverses = tuple[Tensor, Tensor]
"""Inverses of a stack's row factors (blocks, rows, rows) and column factors (blocks, columns, columns)."""


class BlockStack:
    """Blocks whose matrices have the same shape.

    Attributes:
        blocks: in the order of the first axis of every tensor here.
        gradients: (blocks, rows, columns), this step's gradients.
        steps: (blocks, rows, columns), the preconditioned ones.
        momenta: (blocks, rows, columns).
        moments: of the gradients, first and second, each (blocks, rows, columns), where steps are grafted.
        row_factors: (blocks, rows, rows), moving average of A or G, whichever acts on rows.
        column_factors: (blocks, columns, columns), likewise.
        row_inverses: damped inverses; 0 until a block is observed, so that it stays put.
        column_inverses: likewise.
        updates: how often each block was observed.

    Args:
        blocks: see above, as all others but this.
        packs: whether large inverses are kept as oneDNN multiplies by them, too. Their tensors are replaced at every
            refresh, so that no recording may hold them.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        gradients: Tensor,
        steps: Tensor,
        momenta: Tensor,
        moments: tuple[Tensor, Tensor] | None = None,
        *,
        packs: bool = False,
    ) -> None:
        self.blocks, self.gradients, self.steps, self.momenta = list(blocks), gradients, steps, momenta
        self.moments = moments
        count, rows, columns = gradients.shape
        self.row_factors = gradients.new_zeros(count, rows, rows)
        self.column_factors = gradients.new_zeros(count, columns, columns)
        self.row_inverses = torch.zeros_like(self.row_factors)
        self.column_inverses = torch.zeros_like(self.column_factors)
        self.updates = [0] * count
        self._packs, self._packed = packs, list[Tensor | None]([None] * count)

    def update(self, index: int, factors: KroneckerFactors, decay: float) -> None:
        """Moves one block's averages; the k-th observation weighs at least 1/k, so that none starts from nothing."""
        self.updates[index] += 1
        weight = 1 - min(1 - 1 / self.updates[index], decay)
        rows, columns = self.blocks[index].by_axis(factors)
        self.row_factors[index].lerp_(rows, weight)
        self.column_factors[index].lerp_(columns, weight)

    def factored(self, damping: float, *, relative: bool = False) -> tuple[Factored, Factored] | None:
        """Decomposes all blocks' damped factors without waiting for a value; None where none was ever observed.

        Args:
            damping: λ, or its ratio to each block's mean curvature.
            relative: which of the two.
        """
        if not any(self.updates):
            return None
        # Both are symmetric: with rows and columns exchanged π becomes 1/π.
        shifts = relative_shifts if relative else damping_split
        to_rows, to_columns = shifts(self.row_factors, self.column_factors, damping)
        return factored(self.row_factors, to_rows), factored(self.column_factors, to_columns)

    def of_observed(self, inverses: Inverses) -> Inverses:
        """The inverses, with 0 for blocks never observed."""
        if all(self.updates):
            return inverses
        seen = torch.tensor([count > 0 for count in self.updates], device=self.steps.device)[:, None, None]
        return torch.where(seen, inverses[0], 0), torch.where(seen, inverses[1], 0)

    def install(self, inverses: Inverses) -> None:
        """Puts inverses in use, in place."""
        self.row_inverses.copy_(inverses[0])
        self.column_inverses.copy_(inverses[1])
        for index in range(len(self.blocks)):
            self._pack(index)

    def _pack(self, index: int) -> None:
        """Prepares the products of all steps until the next change of a block's inverses."""
        if self._packs:
            self._packed[index] = packed(self.column_inverses[index], self.gradients.shape[1])

    def snapshot(self) -> BlockStack:
        """Returns a stack with copies of the factors only, for work on another thread."""
        copy = object.__new__(BlockStack)
        copy.__dict__ = {**self.__dict__, "updates": list(self.updates)}
        copy.row_factors, copy.column_factors = self.row_factors.clone(), self.column_factors.clone()
        return copy

    def precondition(self) -> None:
        """Writes F⁻¹ · gradients into `steps`."""
        sandwich(self.row_inverses, self.gradients, self.column_inverses, self.steps, packed=self._packed)

    def curvature_along(self, directions: Tensor) -> Tensor:
        """Returns Σ over blocks of vᵀ (A ⊗ G) v, undamped, for directions (blocks, rows, columns)."""
        images = torch.empty_like(directions)
        sandwich(self.row_factors, directions, self.column_factors, images)
        return torch.dot(directions.flatten(), images.flatten())

    def curvatures(self) -> Tensor:
        """Returns the eigenvalues of every A ⊗ G, (blocks, rows, columns), in float64."""
        rows, columns = (eigenvalues(factors) for factors in (self.row_factors, self.column_factors))
        return rows[:, :, None] * columns[:, None, :]

    def restart(self, index: int) -> None:
        """Begins one block's state anew, in place: it stays put until it is observed."""
        for tensor in self._saved(index).values():
            tensor.zero_()
        self.updates[index] = 0
        self._pack(index)

    def state_of(self, index: int) -> dict[str, Tensor | int]:
        """Returns copies of all of one block's state."""
        return {**{key: tensor.clone() for key, tensor in self._saved(index).items()}, "updates": self.updates[index]}

    def set_state_of(self, index: int, state: dict[str, Tensor | int]) -> None:
        """Puts one block's state back, in place.

        Raises:
            InputError: the state lacks a part, as that of an optimizer with other options.
        """
        lacking = sorted(self._saved(index).keys() - state.keys())
        if lacking:
            raise InputError(f"state_dict: {self.blocks[index].name} has no {lacking[0]}, it is of other options")
        for key, mine in self._saved(index).items():
            mine.copy_(torch.as_tensor(state[key]))
        self.updates[index] = int(state["updates"])
        self._pack(index)

    def _saved(self, index: int) -> dict[str, Tensor]:
        names = ("row_factors", "column_factors", "row_inverses", "column_inverses", "momenta")
        saved: dict[str, Tensor] = {name: getattr(self, name)[index] for name in names}
        if self.moments is not None:
            saved |= {"first_moments": self.moments[0][index], "second_moments": self.moments[1][index]}
        return saved
