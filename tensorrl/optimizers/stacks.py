"""Where blocks keep their state: blocks of one shape stacked, everything a step touches in a few flat vectors.

One step of a small network is bound by the number of operations, not by their size. So blocks whose matrices agree in
shape share one batched product and one batched inverse, and all gradients, preconditioned gradients and momenta of a
parameter group are slices of three flat vectors, on which norms and momentum are one operation each. The memory never
moves, so a captured CUDA graph keeps seeing the current values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from tensorrl.optimizers.blocks import Block
from tensorrl.optimizers.curvature import KroneckerFactors, damped_inverse, damping_split
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
        row_factors: (blocks, rows, rows), moving average of A or G, whichever acts on rows.
        column_factors: (blocks, columns, columns), likewise.
        row_inverses: damped inverses; 0 until a block is observed, so that it stays put.
        column_inverses: likewise.
        updates: how often each block was observed.
    """

    def __init__(self, blocks: Sequence[Block], gradients: Tensor, steps: Tensor, momenta: Tensor) -> None:
        self.blocks, self.gradients, self.steps, self.momenta = list(blocks), gradients, steps, momenta
        count, rows, columns = gradients.shape
        self.row_factors = gradients.new_zeros(count, rows, rows)
        self.column_factors = gradients.new_zeros(count, columns, columns)
        self.row_inverses = torch.zeros_like(self.row_factors)
        self.column_inverses = torch.zeros_like(self.column_factors)
        self.updates = [0] * count

    def update(self, index: int, factors: KroneckerFactors, decay: float) -> None:
        """Moves one block's averages; the k-th observation weighs at least 1/k, so that none starts from nothing."""
        self.updates[index] += 1
        weight = 1 - min(1 - 1 / self.updates[index], decay)
        rows, columns = self.blocks[index].by_axis(factors)
        self.row_factors[index].lerp_(rows, weight)
        self.column_factors[index].lerp_(columns, weight)

    def inverses(self, damping: float) -> Inverses:
        """Returns damped inverses of all blocks' factors; 0 for blocks never observed."""
        if not any(self.updates):
            return self.row_inverses.clone(), self.column_inverses.clone()
        # The split is symmetric: with rows and columns exchanged π becomes 1/π.
        to_rows, to_columns = damping_split(self.row_factors, self.column_factors, damping)
        seen = torch.tensor([count > 0 for count in self.updates], device=self.steps.device)[:, None, None]
        rows = damped_inverse(self.row_factors, to_rows)
        columns = damped_inverse(self.column_factors, to_columns)
        return torch.where(seen, rows, 0), torch.where(seen, columns, 0)

    def install(self, inverses: Inverses) -> None:
        """Puts inverses in use, in place."""
        self.row_inverses.copy_(inverses[0])
        self.column_inverses.copy_(inverses[1])

    def snapshot(self) -> BlockStack:
        """Returns a stack with copies of the factors only, for work on another thread."""
        copy = object.__new__(BlockStack)
        copy.__dict__ = {**self.__dict__, "updates": list(self.updates)}
        copy.row_factors, copy.column_factors = self.row_factors.clone(), self.column_factors.clone()
        return copy

    def precondition(self) -> None:
        """Writes F⁻¹ · gradients into `steps`."""
        sandwich(self.row_inverses, self.gradients, self.column_inverses, self.steps)

    def curvature_along(self, directions: Tensor) -> Tensor:
        """Returns Σ over blocks of vᵀ (A ⊗ G) v, undamped, for directions (blocks, rows, columns)."""
        images = torch.empty_like(directions)
        sandwich(self.row_factors, directions, self.column_factors, images)
        return torch.dot(directions.flatten(), images.flatten())

    def state_of(self, index: int) -> dict[str, Tensor | int]:
        """Returns copies of all of one block's state."""
        tensors = {key: getattr(self, key)[index].clone() for key in _SAVED}
        return {**tensors, "updates": self.updates[index]}

    def set_state_of(self, index: int, state: dict[str, Tensor | int]) -> None:
        """Puts one block's state back, in place."""
        for key in _SAVED:
            mine: Tensor = getattr(self, key)[index]
            mine.copy_(torch.as_tensor(state[key]))
        self.updates[index] = int(state["updates"])


_SAVED = ("row_factors", "column_factors", "row_inverses", "column_inverses", "momenta")


class Arena:
    """All blocks of one parameter group, device and dtype, and the flat vectors that they are slices of.

    Attributes:
        group: index of the parameter group.
        stacks: the blocks, by shape.
        gradients: flat vector of all blocks' gradients; likewise `steps` and `momenta`.
    """

    def __init__(self, group: int, blocks: Iterable[Block], dtype: torch.dtype, device: torch.device) -> None:
        self.group = group
        by_shape: dict[tuple[int, int], list[Block]] = {}
        for block in blocks:
            by_shape.setdefault((block.rows, block.columns), []).append(block)
        size = sum(len(members) * rows * columns for (rows, columns), members in by_shape.items())
        self.gradients, self.steps, self.momenta = (torch.zeros(size, dtype=dtype, device=device) for _ in range(3))
        self.stacks: list[BlockStack] = []
        self._parameters: list[nn.Parameter] = []
        self._gradient_views: list[Tensor] = []
        self._step_views: list[Tensor] = []
        self._live: list[int] = []
        start = 0
        for (rows, columns), members in by_shape.items():
            end = start + len(members) * rows * columns
            gradients, steps, momenta = (
                flat[start:end].view(len(members), rows, columns) for flat in (self.gradients, self.steps, self.momenta)
            )
            self.stacks.append(BlockStack(members, gradients, steps, momenta))
            for block, gradient, step in zip(members, gradients, steps, strict=True):
                self._parameters += block.parameters
                self._gradient_views += block.views(gradient)
                self._step_views += block.views(step)
            start = end

    def collect(self, weight_decay: float) -> None:
        """Copies the parameters' gradients, 0 where there is none, plus weight decay."""
        grads = [p.grad for p in self._parameters]
        self._live = [k for k, grad in enumerate(grads) if grad is not None]
        if len(self._live) < len(grads):
            self.gradients.zero_()
        views, parameters = self._of_live(self._gradient_views), self._of_live(self._parameters)
        torch._foreach_copy_(views, [grad for grad in grads if grad is not None])
        if weight_decay:
            torch._foreach_add_(views, parameters, alpha=weight_decay)

    def precondition(self) -> None:
        """Turns `gradients` into `steps`."""
        for stack in self.stacks:
            stack.precondition()

    def alignment(self, lr: float | Tensor) -> Tensor:
        """Returns lr² · stepsᵀ gradients, at least the quadratic form of a step of `lr` times `steps`."""
        return torch.dot(self.gradients, self.steps) * lr**2

    def move(self, scale: float | Tensor, lr: float | Tensor, momentum: float) -> None:
        """Turns `steps` into −lr · (momentum · momenta + scale · steps) and adds it to the parameters.

        Args:
            scale: a number, or a tensor that is NaN where the step is to be skipped.
            lr: learning rate.
            momentum: of the group; with 0 no momenta are kept.
        """
        keep: float | Tensor = momentum
        if isinstance(scale, Tensor):
            sound = ~scale.isnan()
            self.steps.nan_to_num_(0, 0, 0)
            scale, keep, lr = scale.nan_to_num(0), torch.where(sound, momentum, 1.0), torch.where(sound, lr, 0.0)
        if momentum:
            self.momenta.mul_(keep).add_(self.steps.mul_(scale))
            torch.mul(self.momenta, -lr, out=self.steps)
        else:
            self.steps.mul_(-lr * scale)
        torch._foreach_add_(self._of_live(self._parameters), self._of_live(self._step_views))

    def foretold(self) -> Tensor:
        """Returns ∇ᵀδ + ½ δᵀFδ for the δ just applied, F undamped: the change of loss the quadratic model foretells."""
        curvature = reduce(torch.add, (stack.curvature_along(stack.steps) for stack in self.stacks))
        return torch.dot(self.gradients, self.steps) + curvature / 2

    def _of_live(self, things: Sequence[Tensor]) -> list[Tensor]:
        return [things[k] for k in self._live]
