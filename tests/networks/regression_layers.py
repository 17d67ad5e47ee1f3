"""Regression layers that tests share, and TensorLy's word on their weights."""

from __future__ import annotations

import tensorly as tl
import torch
from hypothesis import strategies as st
from torch import Tensor

from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import FACTORIZATIONS, rank_limits

HIDDEN = ((64, 3, 3), (256,))


OUTPUT = ((256,), (6, 51))


AGENT_LAYERS = [
    ("tucker", *HIDDEN, (23, 3, 3, 91)),
    ("tucker", *OUTPUT, (54, 3, 18)),
    ("cp", *HIDDEN, (90,)),
    ("cp", *OUTPUT, (70,)),
    ("tt", *HIDDEN, (20, 59, 78)),
    ("tt", *OUTPUT, (78, 16)),
]


def tensorlys_weight(layer: TensorRegression) -> Tensor:
    """The reconstruction by TensorLy, differentiable in the layer's parameters."""
    factors = list(layer.factors)
    with tl.backend_context("pytorch", local_threadsafe=True):
        if layer.factorization == "tucker":
            return tl.tucker_to_tensor((layer.core, factors))
        if layer.factorization == "cp":
            return tl.cp_to_tensor((None, factors))
        return tl.tt_to_tensor(factors)


def relative_error(value: Tensor, expected: Tensor) -> float:
    with torch.no_grad():
        return float((value - expected).norm() / expected.norm().clamp_min(1e-30))


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@st.composite
def layers(draw: st.DrawFn) -> TensorRegression:
    in_shape, out_shape = draw(shapes), draw(st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple))
    factorization = draw(st.sampled_from(FACTORIZATIONS))
    rank = tuple(draw(st.integers(1, min(limit, 6))) for limit in rank_limits(in_shape, out_shape, factorization))
    return TensorRegression(
        in_shape, out_shape, factorization=factorization, rank=rank, bias=draw(st.booleans()), dtype=torch.float64
    )
