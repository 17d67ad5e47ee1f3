"""Matrix products by the fastest exact kernel available.

PyTorch sends float32 products on CPUs to Intel's MKL, which on processors of other makers falls back to narrower vector
instructions: oneDNN, shipped in the same PyTorch, runs the same product 1.5 to 2.3 times as fast there
(`python -m benchmarks.kfac --products`). Below about 10⁶ multiply-adds its call overhead outweighs the gain. On Intel's
own processors MKL is the faster of the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl import system

ONEDNN_FROM = 1_000_000
"""Multiply-adds from which oneDNN's product is taken; measured break-even 0.7 to 1.2 million."""

_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and not (torch.backends.mkl.is_available() and system.intel_processor())
)


def suits_onednn(like: Tensor, multiply_adds: int) -> bool:
    """Whether a product of this many multiply-adds, with operands like `like`, is faster by oneDNN."""
    return (
        _ONEDNN
        and multiply_adds >= ONEDNN_FROM
        and like.device.type == "cpu"
        and like.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
    )


def times_transposed(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `left @ right.T + bias`; (m, k), (n, k), (n,) → (m, n). Not differentiable: see `linear`."""
    if suits_onednn(left, left.shape[0] * left.shape[1] * right.shape[0]):
        return onednn(left, right, bias)
    return left @ right.mT if bias is None else torch.addmm(bias, left, right.mT)


def onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `times_transposed` by oneDNN, whatever suits."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(left), _dense(right), bias, "none", [], "")
    return product


def packed(right: Tensor, rows: int) -> Tensor | None:
    """Lays a right operand (n, k) out as oneDNN multiplies by it, for many products with left operands (rows, k).

    Returns:
        What `times_packed` takes; None where `times_transposed` would not use oneDNN.
    """
    if not suits_onednn(right, rows * right.numel()):
        return None
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(_dense(right), rows)
    return found


def times_packed(left: Tensor, right: Tensor) -> Tensor:
    """Returns `times_transposed` of a left operand (m, k) and one that is `packed`, to the bit."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(left), right, None, "none", [], "")
    return product


def _dense(matrix: Tensor) -> Tensor:
    # With gaps between rows oneDNN takes a reference loop, hundreds of times as slow.
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns `x @ weight.T + bias` as `F.linear` does, with large products and their gradients by oneDNN where faster.

    Differentiable once where oneDNN is used. Compilers and function transforms see only `F.linear`.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,), or None.
    """
    if not _by_onednn(x, x.numel() * weight.shape[0]):
        return F.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    out = _product(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], weight.shape[0])


def matmul(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `left @ right + bias`, like `linear`; (m, k), (k, n), (n,) → (m, n)."""
    if _by_onednn(left, left.numel() * right.shape[1]):
        return _product(left, right.t(), bias)
    return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)


def _by_onednn(x: Tensor, multiply_adds: int) -> bool:
    # Checked first: a trace must not depend on the batch's size.
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return suits_onednn(x, multiply_adds)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
        out: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return times_transposed(rows, weight, bias)


class Linear(nn.Linear):
    """PyTorch's dense layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return times_transposed(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            times_transposed(gradient, weight.t()) if of_x else None,
            times_transposed(gradient.t(), x.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
