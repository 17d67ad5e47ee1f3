"""The three factorized forms of a weight: their tensors, their initial values, the weight they stand for.

A weight W of shape (*in_shape, *out_shape), with modes of sizes d_1 … d_K, is held as

- `tucker`: a core C of shape (R_1 … R_K) and factors U_k of shape (d_k, R_k);
  W[i_1 … i_K] = Σ_r C[r_1 … r_K] Π_k U_k[i_k, r_k];
- `cp`: factors U_k of shape (d_k, R); W[i_1 … i_K] = Σ_r Π_k U_k[i_k, r];
- `tt`: cores G_k of shape (r_{k-1}, d_k, r_k) with r_0 = r_K = 1; W[i_1 … i_K] = G_1[:, i_1, :] ⋯ G_K[:, i_K, :].

Functions of tensors only; `tensorrl.networks.regression` holds the parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tensorrl.networks.contraction import Plan
from tensorrl.networks.planning import BATCH, CostModel, Operand, plan_contraction
from tensorrl.networks.shapes import Shape, rank_limits


class Factors(NamedTuple):
    """The tensors of one factorized weight.

    Attributes:
        core: the Tucker core, or None for `cp` and `tt`.
        factors: one tensor per mode, input modes first.
    """

    core: Tensor | None
    factors: tuple[Tensor, ...]


def factor_shapes(dims: Shape, factorization: str, rank: Shape) -> tuple[Shape, ...]:
    """Returns the shape of each factor of a weight with modes of sizes `dims`."""
    if factorization == "tucker":
        return tuple(zip(dims, rank, strict=True))
    if factorization == "cp":
        return tuple((d, rank[0]) for d in dims)
    bonds = (1, *rank, 1)
    return tuple((bonds[k], d, bonds[k + 1]) for k, d in enumerate(dims))


def reconstruct(tensors: Factors, factorization: str) -> Tensor:
    """Returns the weight that the tensors stand for, of shape (d_1 … d_K), differentiably."""
    core, factors = tensors
    if factorization == "tucker":
        assert core is not None
        weight = core
        for factor in factors:
            # Contracting the leading mode and appending the result rotates the modes back into order after a full turn.
            weight = torch.tensordot(weight, factor, dims=([0], [1]))
        return weight
    dims = [f.shape[1] if factorization == "tt" else f.shape[0] for f in factors]
    if factorization == "cp":
        product = factors[0]
        for factor in factors[1:-1]:
            product = (product.unsqueeze(1) * factor).flatten(0, 1)
        weight = product @ factors[-1].t() if len(factors) > 1 else product.sum(1)
        return weight.reshape(dims)
    weight = factors[0].flatten(0, 1)
    for factor in factors[1:]:
        weight = (weight @ factor.flatten(1)).reshape(-1, factor.shape[2])
    return weight.reshape(dims)


def initial_factors(
    dims: Shape, factorization: str, rank: Shape, variance: float, *, generator: torch.Generator | None = None
) -> Factors:
    """Draws factors whose weight has mean square `variance`, exactly, whatever the rank.

    Tucker factors and all tensor-train cores but the last have random orthonormal columns, so that the weight's norm is
    that of the core (of the last core), which is Gaussian. The columns of CP factors are random directions, and one
    scalar shared by all factors sets the norm. A final rescaling removes what chance leaves, which for rank one and
    common initialisers (unit-variance factors) is a spread of orders of magnitude.

    Args:
        dims: sizes of the weight's modes.
        factorization: `tucker`, `cp` or `tt`.
        rank: the rank as a tuple.
        variance: wanted mean square of the weight's entries.
        generator: source of randomness; the global one if None.

    Returns:
        Tensors in float64 on the CPU.
    """

    def normal(shape: Shape) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    norm = math.sqrt(variance * math.prod(dims))
    shapes = factor_shapes(dims, factorization, rank)
    if factorization == "tucker":
        core = normal(rank)
        return Factors(core * (norm / core.norm()), tuple(_orthonormal(normal(shape)) for shape in shapes))
    if factorization == "cp":
        directions = [torch.nn.functional.normalize(normal(shape), dim=0) for shape in shapes]
        gram = torch.stack([u.t() @ u for u in directions]).prod(0)
        scale = (norm / math.sqrt(gram.sum().item())) ** (1 / len(dims))
        return Factors(None, tuple(u * scale for u in directions))
    cores = [_orthonormal(normal((r * d, s))).reshape(r, d, s) for r, d, s in shapes[:-1]]
    last = normal(shapes[-1])
    weight_norm = reconstruct(Factors(None, (*cores, last)), "tt").norm()
    return Factors(None, (*cores, last * (norm / weight_norm)))


def decompose(weight: Tensor, factorization: str, rank: Shape, *, seed: int = 0) -> Factors:
    """Approximates a weight by a factorized one of the given rank, with TensorLy.

    Tucker: higher-order orthogonal iteration; tensor train: successive truncated SVDs; CP: alternating least squares
    from an SVD. Full rank is exact in all three (for CP by writing the weight fibre by fibre).

    Args:
        weight: of shape (d_1 … d_K), any floating-point type and device.
        factorization: `tucker`, `cp` or `tt`.
        rank: the rank as a tuple.
        seed: for the start of CP columns beyond a mode's size.

    Returns:
        Tensors in float64 on the CPU.
    """
    import tensorly
    from tensorly.decomposition import parafac, tensor_train, tucker

    dims = tuple(weight.shape)
    values = weight.detach().to("cpu", torch.float64).numpy()
    if factorization == "cp" and rank == rank_limits(dims[:1], dims[1:], "cp"):
        return Factors(None, _fibres(weight.detach().to("cpu", torch.float64)))
    with tensorly.backend_context("numpy", local_threadsafe=True):
        if factorization == "tucker":
            core, factors = tucker(values, rank=list(rank), init="svd", n_iter_max=50, tol=1e-6)
            return Factors(_tensor(core), tuple(_tensor(f) for f in factors))
        if factorization == "tt":
            return Factors(None, tuple(_tensor(g) for g in tensor_train(values, rank=[1, *rank, 1]).factors))
        with warnings.catch_warnings():
            # CP may have more terms than a mode has entries: the further columns are drawn at random.
            warnings.filterwarnings("ignore", message="Trying to compute SVD with n_eigenvecs")
            weights, factors = parafac(values, rank=rank[0], init="svd", n_iter_max=200, tol=1e-8, random_state=seed)
    columns = [_tensor(f) for f in factors]
    share = _tensor(weights).abs() ** (1 / len(columns))
    columns = [u * share for u in columns]
    columns[0] = columns[0] * _tensor(weights).sign()
    return Factors(None, tuple(_balanced(columns)))


def plan_layer(
    in_shape: Shape, out_shape: Shape, factorization: str, rank: Shape, *, batch: int, costs: CostModel
) -> Plan:
    """Plans the product of an input with a factorized weight.

    Args:
        in_shape: sizes of the input modes.
        out_shape: sizes of the output modes.
        factorization: `tucker`, `cp` or `tt`.
        rank: the rank as a tuple.
        batch: expected batch size.
        costs: prices to plan with.

    Returns:
        A plan for the operands (x of shape (batch, *in_shape), core if any, *factors), with the result as a
        (batch, outputs) matrix.
    """
    dims = (*in_shape, *out_shape)
    modes = tuple(range(1, len(dims) + 1))
    inputs, outputs = modes[: len(in_shape)], modes[len(in_shape) :]
    bonds = tuple(range(len(dims) + 1, len(dims) + 1 + len(rank)))
    shapes = factor_shapes(dims, factorization, rank)
    operands = [Operand((BATCH, *inputs), (-1, *in_shape))]
    foldable: frozenset[int] = frozenset()
    if factorization == "tucker":
        operands.append(Operand(bonds, rank))
        operands += [Operand((m, b), s) for m, b, s in zip(modes, bonds, shapes, strict=True)]
        foldable = frozenset(range(2, 2 + len(dims)))
    elif factorization == "cp":
        operands += [Operand((m, bonds[0]), s) for m, s in zip(modes, shapes, strict=True)]
    else:
        operands += [Operand((*bonds[max(k - 1, 0) : k], m, *bonds[k : k + 1]), shapes[k]) for k, m in enumerate(modes)]
    return plan_contraction(tuple(operands), (batch, *dims, *rank), (BATCH, *outputs), foldable, costs)


def _orthonormal(matrix: Tensor) -> Tensor:
    """Haar-distributed orthonormal columns (rows, if there are fewer) from a Gaussian matrix."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.t()
    q, r = torch.linalg.qr(tall)
    columns: Tensor = q * r.diagonal().sign()
    return columns if tall is matrix else columns.t().contiguous()


def _fibres(weight: Tensor) -> tuple[Tensor, ...]:
    """The exact CP form: one term per fibre along the longest mode, the other factors selecting its place."""
    longest = max(range(weight.dim()), key=lambda k: weight.shape[k])
    others = [k for k in range(weight.dim()) if k != longest]
    places = torch.cartesian_prod(*(torch.arange(weight.shape[k]) for k in others)).reshape(-1, len(others))
    factors: dict[int, Tensor] = {longest: weight.movedim(longest, 0).reshape(weight.shape[longest], -1)}
    for column, k in enumerate(others):
        factors[k] = torch.nn.functional.one_hot(places[:, column], weight.shape[k]).t().to(weight.dtype)
    return tuple(_balanced([factors[k] for k in range(weight.dim())]))


def _balanced(columns: Sequence[Tensor]) -> list[Tensor]:
    """Spreads the norm of every CP term evenly over its factors, so that no factor learns faster than another."""
    norms = torch.stack([u.norm(dim=0) for u in columns])
    share = norms.prod(0) ** (1 / len(columns))
    return [u / norm.clamp_min(torch.finfo(u.dtype).tiny) * share for u, norm in zip(columns, norms, strict=True)]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())
