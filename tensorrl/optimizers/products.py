"""Matrix products of the K-FAC step, each by the fastest exact kernel at hand.

PyTorch sends float32 `mm` on CPUs to MKL, which on processors of other makers than its own falls back to narrower
vector instructions: oneDNN, shipped in the same PyTorch, runs the same product 1.9 to 2.3 times as fast there
(`python -m benchmarks.kfac --products`). Below about 10⁶ multiply-adds its call overhead eats the gain.
"""

from __future__ import annotations

import torch
from torch import Tensor

ONEDNN_FROM = 1_000_000
"""Multiply-adds from which oneDNN's product is taken; measured break-even 0.7 to 1.2 million."""


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _suits_onednn(like: Tensor, multiply_adds: int) -> bool:
    plain = like.device.type == "cpu" and like.dtype == torch.float32
    return _ONEDNN and plain and multiply_adds >= ONEDNN_FROM and bool(torch.backends.mkldnn.enabled)


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """Returns `left @ right.T`; (m, k), (n, k) → (m, n). Not differentiable: for use under `torch.no_grad`."""
    if _suits_onednn(left, left.shape[0] * left.shape[1] * right.shape[0]):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return product
    return left @ right.mT


def gram(samples: Tensor) -> Tensor:
    """Returns the sum over all leading axes of the outer products of vectors; (..., d) → (d, d)."""
    columns = as_columns(samples)
    return times_transposed(columns, columns)


def as_columns(samples: Tensor) -> Tensor:
    """Returns vectors (..., d) as columns (d, vectors)."""
    # Layers often give (batch, d, positions) transposed: then this order of axes is the cheap one to copy.
    return samples.movedim(-1, 0).flatten(1)


def sandwich(left: Tensor, middle: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes `left[k] @ middle[k] @ right[k]` into `out[k]` for every k, `left` and `right` symmetric.

    Args:
        left: (blocks, rows, rows).
        middle: (blocks, rows, columns).
        right: (blocks, columns, columns).
        out: (blocks, rows, columns), not overlapping `middle`.
    """
    count, rows, columns = middle.shape
    if _suits_onednn(middle, rows * columns * max(rows, columns)):
        for k in range(count):
            out[k].copy_(times_transposed(times_transposed(left[k], middle[k].mT), right[k]))
    elif columns == 1:  # a bias: as a row times a matrix, the product is a dozen times faster than a matrix times it
        torch.mul(torch.bmm(middle.mT, left).mT, right, out=out)
    else:
        torch.bmm(torch.bmm(left, middle), right, out=out)
