"""Running a planned contraction of a small tensor network, such as a factorized layer, by matrix products.

Only plain differentiable operations are used, so automatic differentiation of any order, function transforms,
compilation and graph capture need nothing special. The backward pass of a handful of matrix products runs without the
interpreter, and was measured to be faster than a hand-written one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from tensorrl.networks.matmul import matmul

Labels: TypeAlias = tuple[int, ...]
Sizes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """How a tensor becomes a matrix: split, permute (a copy), reshape, transpose; each only if not None or False."""

    split: Sizes | None
    permutation: Labels | None
    shape: Sizes | None
    transpose: bool = False


@dataclass(frozen=True)
class Step:
    """One pairwise contraction; its result takes the next free position in the list of tensors.

    Attributes:
        left: position of the first tensor.
        right: position of the second tensor.
        left_as: how the first becomes a matrix (or, for elementwise products, broadcasts).
        right_as: the same for the second.
        elementwise: whether they are multiplied elementwise instead of as matrices.
    """

    left: int
    right: int
    left_as: Arrangement
    right_as: Arrangement
    elementwise: bool


@dataclass(frozen=True)
class Plan:
    """An order of contraction, ready to run.

    Attributes:
        steps: the contractions; the last one gives the output.
        finish: how the last result becomes a (batch, outputs) matrix.
        fused_bias: whether the last step is a product that can add a bias to every row.
        cost: estimated microseconds of forward and backward.
    """

    steps: tuple[Step, ...]
    finish: Arrangement
    fused_bias: bool
    cost: float


def contract(plan: Plan, tensors: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """Runs a plan.

    Args:
        plan: from `plan_contraction`.
        tensors: the operands, in the order the plan was made for; the batch size is free.
        bias: (outputs,), added to every row, or None.

    Returns:
        (batch, outputs), contiguous, the output modes flattened in order.
    """
    registers = list(tensors)
    fused = bias if plan.fused_bias else None
    last = len(plan.steps) - 1
    for position, step in enumerate(plan.steps):
        left, right = _arrange(registers[step.left], step.left_as), _arrange(registers[step.right], step.right_as)
        if step.elementwise:
            registers.append(left * right)
        else:
            registers.append(matmul(left, right, fused if position == last else None))
    if plan.fused_bias:
        return registers[-1]
    out = _arrange(registers[-1], plan.finish)
    return (out if bias is None else out + bias).contiguous()


def _arrange(tensor: Tensor, how: Arrangement) -> Tensor:
    if how.permutation is not None:
        tensor = (tensor if how.split is None else tensor.reshape(how.split)).permute(how.permutation)
    if how.shape is not None:
        tensor = tensor.reshape(how.shape)
    return tensor.t() if how.transpose else tensor
