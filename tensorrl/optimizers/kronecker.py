"""Matrix products of the K-FAC step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorrl.networks.matmul import suits_onednn, times_packed, times_transposed


def gram(samples: Tensor) -> Tensor:
    """Returns the sum over all leading axes of the outer products of vectors; (..., d) → (d, d)."""
    columns = as_columns(samples)
    return times_transposed(columns, columns)


def as_columns(samples: Tensor) -> Tensor:
    """Returns vectors (..., d) as columns (d, vectors)."""
    # Layers often give (batch, d, positions) transposed: then this order of axes is the cheap one to copy.
    return samples.movedim(-1, 0).flatten(1)


def between(left: Tensor, middle: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes `left[k] @ middle[k] @ right[k]ᵀ` into `out[k]` for every k.

    Args:
        left: (blocks, rows, rows).
        middle: (blocks, rows, columns).
        right: (blocks, columns, columns).
        out: (blocks, rows, columns), not overlapping `middle`.
    """
    count, rows, columns = middle.shape
    if suits_onednn(middle, rows * columns * max(rows, columns)):
        for k in range(count):
            out[k].copy_(times_transposed(times_transposed(left[k], middle[k].mT), right[k]))
    else:
        torch.bmm(torch.bmm(left, middle), right.mT, out=out)


def sandwich(
    left: Tensor, middle: Tensor, right: Tensor, out: Tensor, *, packed: Sequence[Tensor | None] | None = None
) -> None:
    """Writes `left[k] @ middle[k] @ right[k]` into `out[k]` for every k, `left` and `right` symmetric.

    Args:
        left: (blocks, rows, rows).
        middle: (blocks, rows, columns).
        right: (blocks, columns, columns).
        out: (blocks, rows, columns), not overlapping `middle`.
        packed: each of `right`, `packed` for products with `rows` rows.
    """
    count, rows, columns = middle.shape
    if suits_onednn(middle, rows * columns * max(rows, columns)):
        for k in range(count):
            product, ready = times_transposed(left[k], middle[k].mT), None if packed is None else packed[k]
            out[k].copy_(times_transposed(product, right[k]) if ready is None else times_packed(product, ready))
    elif columns == 1:  # a bias: row times matrix is a dozen times faster than matrix times column
        torch.mul(torch.bmm(middle.mT, left).mT, right, out=out)
    else:
        torch.bmm(torch.bmm(left, middle), right, out=out)
