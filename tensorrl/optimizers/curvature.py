"""Kronecker factors and their damped inverses: functions of tensors, no state.

A weight shared over R positions (a convolution's pixels, a tensor factor's other modes) has the per-example gradient
Σᵣ gᵣ aᵣᵀ. Its Fisher block is approximated by A ⊗ G (Eschenhagen et al. 2023, section 3):

    expand:  A = E[mean over r of aᵣ aᵣᵀ],   G = E[Σᵣ gᵣ gᵣᵀ]      (Grosse & Martens 2016 for convolutions)
    reduce:  A = E[ā āᵀ], ā the mean of aᵣ,  G = E[ḡ ḡᵀ], ḡ = Σᵣ gᵣ

Without sharing both are those of Martens & Grosse (2015), section 3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tensorrl.networks.matmul import times_transposed
from tensorrl.optimizers.kronecker import as_columns, gram

Sharing = Literal["expand", "reduce"]

SCALE_LIMIT = 1e8
"""π is kept within this factor of 1, far inside float32: it only matters when one factor is all but zero."""


class KroneckerFactors(NamedTuple):
    """The two factors of one block."""

    inputs: Tensor
    """A, (in, in) or with a homogeneous coordinate (in + 1, in + 1)."""
    outputs: Tensor
    """G, (out, out)."""


def kronecker_factors(inputs: Tensor, gradients: Tensor, *, sharing: Sharing, bias: bool) -> KroneckerFactors:
    """Returns A and G of a linear map from its inputs and the gradients at its outputs.

    Args:
        inputs: (batch, positions, in).
        gradients: (batch, positions, out), of each example's own loss (not divided by the batch).
        sharing: how positions that share the weight are treated.
        bias: whether the map has one, as a last input that is always 1.
    """
    batch, positions, size = inputs.shape
    if sharing == "reduce" and positions > 1:
        inputs, gradients, positions = inputs.mean(1, keepdim=True), gradients.sum(1, keepdim=True), 1
    columns, share = as_columns(inputs), 1 / (batch * positions)
    moments = inputs.new_empty(size + bias, size + bias)
    torch.mul(times_transposed(columns, columns), share, out=moments[:size, :size])
    if bias:
        torch.mul(columns.sum(1), share, out=moments[size, :size])
        moments[:size, size] = moments[size, :size]
        moments[size, size] = 1
    return KroneckerFactors(moments, gram(gradients).div_(batch))


def bias_factors(gradients: Tensor) -> KroneckerFactors:
    """Returns the factors of a bias that no homogeneous coordinate covers.

    A bias vector has the Fisher E[g gᵀ] exactly, with A = 1. A bias with several modes is treated as a matrix g of
    (all modes but the last, last mode) and gets E[g gᵀ] ⊗ E[gᵀ g] / E‖g‖², which is exact where g is an outer
    product of two independent parts, as for the dueling head's (action, atom) gradients.

    Args:
        gradients: (batch, *out_shape), of each example's own loss.
    """
    batch = len(gradients)
    if gradients.dim() == 2:
        return KroneckerFactors(gradients.new_ones(1, 1), gram(gradients) / batch)
    matrix = gradients.flatten(1, -2)
    rows, columns = gram(matrix.mT) / batch, gram(matrix) / batch
    size = columns.diagonal().sum()
    return KroneckerFactors(columns / torch.where(size > 0, size, torch.ones_like(size)), rows)


def damping_split(inputs: Tensor, outputs: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Splits λ into what is added to A and to G: π√λ and √λ/π (factored Tikhonov, Martens & Grosse 2015, section 6.3).

    π² = (tr A / dim A) / (tr G / dim G), so that the split does not depend on how the two factors are scaled.

    Args:
        inputs: (blocks, in, in).
        outputs: (blocks, out, out).
        damping: λ.

    Returns:
        Two tensors of shape (blocks,).
    """
    mean_in = inputs.diagonal(dim1=-2, dim2=-1).mean(-1)
    mean_out = outputs.diagonal(dim1=-2, dim2=-1).mean(-1)
    both = (mean_in > 0) & (mean_out > 0)
    ratio = torch.where(both, mean_in, 1) / torch.where(both, mean_out, 1)
    scale = ratio.sqrt().clamp(1 / SCALE_LIMIT, SCALE_LIMIT)
    return scale * damping**0.5, damping**0.5 / scale


def relative_shifts(inputs: Tensor, outputs: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Factored Tikhonov damping whose λ is `damping` times the block's mean curvature, (tr A / dim A) (tr G / dim G).

    By `damping_split` what is added to A is then √damping · tr A / dim A, and to G likewise: damped inverses of scaled
    factors are the inverses scaled, so that a block's direction does not depend on how large its curvature is. A block
    without any curvature gets 0.

    Args:
        inputs: (blocks, in, in).
        outputs: (blocks, out, out).
        damping: the ratio, at least 0.

    Returns:
        Two tensors of shape (blocks,).
    """
    means = (factor.diagonal(dim1=-2, dim2=-1).mean(-1) for factor in (inputs, outputs))
    to_inputs, to_outputs = (mean * damping**0.5 for mean in means)
    return to_inputs, to_outputs


class Factored(NamedTuple):
    """Cholesky factors of shifted matrices, and which of the matrices are to be inverted another way."""

    lower: Tensor
    """(blocks, n, n)."""
    singular: Tensor
    """(blocks,) bool: singular to working precision, their factor means nothing."""
    factors: Tensor
    """(blocks, n, n), the matrices."""
    shift: Tensor
    """(blocks,)."""


def damped_inverse(factors: Tensor, shift: Tensor) -> Tensor:
    """Returns (F + shift·I)⁻¹ of symmetric positive semi-definite matrices.

    By Cholesky; a matrix that turns out singular to working precision goes through an eigendecomposition in float64
    instead, where directions the shifted matrix does not resolve get 0 (the pseudo-inverse): nothing moves there.

    Args:
        factors: (blocks, n, n), finite.
        shift: (blocks,), at least 0.
    """
    found = factored(factors, shift)
    return inverse(found, sound=not bool(found.singular.any()))


def factored(factors: Tensor, shift: Tensor) -> Factored:
    """The first half of `damped_inverse`, which waits for no value; see there."""
    size = factors.shape[-1]
    shifted = factors + shift[:, None, None] * torch.eye(size, dtype=factors.dtype, device=factors.device)
    lower, failed = torch.linalg.cholesky_ex(shifted)
    pivots = lower.diagonal(dim1=-2, dim2=-1).amin(-1).square()
    largest = shifted.diagonal(dim1=-2, dim2=-1).amax(-1)
    return Factored(lower, (failed != 0) | ~(pivots > _floor(factors) * largest), factors, shift)


def inverse(found: Factored, *, sound: bool) -> Tensor:
    """The second half: the inverses.

    Args:
        found: what `factored` gave.
        sound: whether it is known that none is singular; then this waits for no value either.
    """
    lower, singular, factors, shift = found
    if sound:
        return _of_cholesky(lower)
    inverses = torch.empty_like(factors)
    if not bool(singular.all()):
        inverses[~singular] = _of_cholesky(lower[~singular])
    values, vectors = torch.linalg.eigh(factors[singular].double())
    values = values.clamp(min=0) + shift[singular, None].double()
    resolved = values > _floor(factors) * values.amax(-1, keepdim=True)
    reciprocal = torch.where(resolved, 1 / torch.where(resolved, values, 1), 0)
    inverses[singular] = ((vectors * reciprocal[:, None]) @ vectors.mT).to(factors.dtype)
    return inverses


def _of_cholesky(lower: Tensor) -> Tensor:
    if lower.device.type == "cpu":
        return torch.cholesky_inverse(lower)
    # `cholesky_inverse` asks for its error codes, which on a GPU is a wait for each stack of matrices.
    unit = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.cholesky_solve(unit.expand_as(lower), lower)


def eigenvalues(factors: Tensor) -> Tensor:
    """Returns the eigenvalues (blocks, n) of symmetric positive semi-definite matrices (blocks, n, n), in float64."""
    # In float32 LAPACK has returned NaN for sound matrices of low rank.
    values: Tensor = torch.linalg.eigvalsh(factors.double())
    return values.clamp_(min=0)


def _floor(like: Tensor) -> float:
    return 10 * torch.finfo(like.dtype).eps
