"""Second moments in the eigenbasis of the factors: EKFAC (George et al. 2018).

K-FAC's A ⊗ G has the eigenvectors U_A ⊗ U_G and products of eigenvalues. EKFAC keeps the eigenvectors and replaces the
products by what they stand for, the second moments of single examples' gradients along them (George et al. 2018,
section 3 and algorithm 1):

    s = E[(U_Gᵀ ∇ U_A)²],     p = U_G ((U_Gᵀ ∇ U_A) / (s + λ)) U_Aᵀ

Of all diagonal matrices in that basis this one is closest to the Fisher block in the Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tensorrl.optimizers.kronecker import between
from tensorrl.optimizers.modes import MapSample
from tensorrl.optimizers.stacks import BlockStack


class EigenStack(BlockStack):
    """Blocks of one shape, preconditioned in their eigenbases.

    `row_inverses` and `column_inverses` hold the eigenvectors here, as columns; 0 until a block is observed.

    Attributes:
        scalings: s above, (blocks, rows, columns).
        reciprocals: 1 / (s + λ), likewise; 0 along directions that have no curvature and no damping.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scalings, self.reciprocals = torch.zeros_like(self.gradients), torch.zeros_like(self.gradients)
        self._known, self._sampled = [False] * len(self.blocks), dict[int, list[Tensor]]()

    def sample(self, index: int, found: MapSample) -> None:
        """Takes the second moments of one block's gradients in its present basis, if it has one."""
        if not self._known[index]:
            return
        block = self.blocks[index]
        of = block.of_axes(self.row_inverses[index], self.column_inverses[index])
        moments = second_moments(found, of.inputs, of.outputs)
        self._sampled.setdefault(index, []).append(moments.mT if block.inputs_on_rows else moments)

    def forget_samples(self) -> None:
        """Drops second moments that no update used."""
        self._sampled = {}

    def update_scalings(self, index: int, decay: float) -> None:
        """Moves one block's average of second moments by those sampled, weighed as its factors just were."""
        sampled = self._sampled.pop(index, [])
        if sampled:
            weight = 1 - min(1 - 1 / self.updates[index], decay)
            mine, found = self.scalings[index], torch.stack(sampled).mean(0)
            # Squares of squares: they may overflow where the factors do not.
            mine.lerp_(torch.where(found.isfinite().all(), found, mine), weight)

    def damp(self, damping: float, *, relative: bool) -> None:
        """Makes the reciprocals anew.

        Args:
            damping: λ, or its ratio to each block's mean curvature.
            relative: which of the two.
        """
        damped = self.scalings + damping * (self.scalings.mean((1, 2), keepdim=True) if relative else 1)
        resolved = damped > 10 * torch.finfo(damped.dtype).eps * damped.amax((1, 2), keepdim=True)
        self.reciprocals.copy_(torch.where(resolved, 1 / torch.where(resolved, damped, 1), 0))

    def turn_basis(self) -> None:
        """Takes the eigenvectors of the present factors.

        Second moments go along: those of a diagonal matrix in the old basis, as far as they lie on the new diagonal. A
        block's first ones are the products of its eigenvalues, as K-FAC has them.
        """
        for index, count in enumerate(self.updates):
            if not count:
                continue
            rows, columns = self.row_inverses[index], self.column_inverses[index]
            turns, values = [], []
            for vectors, factor in ((rows, self.row_factors[index]), (columns, self.column_factors[index])):
                # In float32 LAPACK has returned NaN for sound matrices of low rank.
                found = torch.linalg.eigh(factor.double())
                fresh = found.eigenvectors.to(vectors.dtype)
                turns.append((fresh.mT @ vectors).square())
                values.append(found.eigenvalues.clamp(min=0).to(vectors.dtype))
                vectors.copy_(fresh)
            scalings = turns[0] @ self.scalings[index] @ turns[1].mT if self._known[index] else torch.outer(*values)
            self.scalings[index].copy_(scalings)
            self._known[index] = True

    def precondition(self) -> None:
        """Writes the preconditioned gradients into `steps`."""
        rotated = torch.empty_like(self.gradients)
        between(self.row_inverses.mT, self.gradients, self.column_inverses.mT, rotated)
        between(self.row_inverses, rotated.mul_(self.reciprocals), self.column_inverses, self.steps)

    def curvature_along(self, directions: Tensor) -> Tensor:
        """Returns Σ over blocks of vᵀ U diag(s) Uᵀ v for directions (blocks, rows, columns)."""
        rotated = torch.empty_like(directions)
        between(self.row_inverses.mT, directions, self.column_inverses.mT, rotated)
        return torch.dot(rotated.square().flatten(), self.scalings.flatten())

    def curvatures(self) -> Tensor:
        """Returns the curvatures along the eigenvectors (blocks, rows, columns), in float64."""
        return self.scalings.double()

    def restart(self, index: int) -> None:
        """Begins one block's state anew, in place: it stays put until it is observed."""
        super().restart(index)
        self._known[index] = False

    def set_state_of(self, index: int, state: dict[str, Tensor | int]) -> None:
        """Puts one block's state back, in place."""
        super().set_state_of(index, state)
        self._known[index] = bool(self.row_inverses[index].any())

    def _saved(self, index: int) -> dict[str, Tensor]:
        return {
            **super()._saved(index),
            "scalings": self.scalings[index],
            "reciprocals": self.reciprocals[index],
        }


def second_moments(found: MapSample, of_inputs: Tensor, of_outputs: Tensor) -> Tensor:
    """Returns E[(U_Gᵀ ∇ U_A)²] over examples, (out, in).

    Args:
        found: whose gradients ∇ are sums over positions of gradients ⊗ inputs.
        of_inputs: U_A, (in, in), eigenvectors as columns.
        of_outputs: U_G, (out, out).
    """
    inputs, gradients = found.inputs @ of_inputs, found.gradients @ of_outputs
    if inputs.shape[1] == 1:
        return gradients[:, 0].square().mT @ inputs[:, 0].square() / len(inputs)
    return torch.bmm(gradients.mT, inputs).square().mean(0)


class EigenRefresh:
    """Keeps the eigenbases of stacks fresh, on the step itself; has the methods of `InverseRefresh`.

    Args:
        stacks: whose bases.
        relative: whether damping is relative to each block's mean curvature.
    """

    def __init__(self, stacks: Sequence[EigenStack], *, relative: bool) -> None:
        self._stacks, self._relative = stacks, relative

    @torch.no_grad()
    def start(self, step: int, damping: float, *, at_once: bool = False) -> None:
        """Takes the eigenbases of the present factors, at once."""
        for stack in self._stacks:
            stack.turn_basis()
            stack.damp(damping, relative=self._relative)

    def install_if_due(self, step: int) -> None:
        """Nothing: no refresh is ever under way."""

    def state(self) -> None:
        """None."""

    def set_state(self, state: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
