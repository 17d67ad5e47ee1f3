"""The weights of regression layers: by decomposition, at the start, and how many they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from regression_layers import AGENT_LAYERS, OUTPUT, relative_error, tensorlys_weight
from torch import Tensor, nn

from tensorrl.networks.factorizations import factor_shapes
from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import FACTORIZATIONS, full_rank


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize(
    ("in_shape", "out_shape"), [((8, 3, 3), (20,)), ((16,), (3, 5)), ((2,), (9,)), ((30,), (4,)), ((4, 2), (3, 2))]
)
def test_full_rank_decomposition_equals_the_dense_layer(
    in_shape: tuple[int, ...], out_shape: tuple[int, ...], factorization: str
) -> None:
    linear = nn.Linear(math.prod(in_shape), math.prod(out_shape), dtype=torch.float64)
    layer = TensorRegression.from_linear(linear, in_shape, out_shape, factorization=factorization, rank="full")
    assert layer.rank == full_rank(in_shape, out_shape, factorization)
    x = torch.randn(11, *in_shape, dtype=torch.float64)
    assert relative_error(layer(x), linear(x.flatten(1)).reshape(11, *out_shape)) < 1e-10


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("rank", [1, 4])
def test_truncated_decomposition_of_a_matrix_is_the_best_possible(factorization: str, rank: int) -> None:
    linear = nn.Linear(12, 9, dtype=torch.float64)
    layer = TensorRegression.from_linear(linear, factorization=factorization, rank=rank)
    values = np.linalg.svd(linear.weight.detach().numpy(), compute_uv=False)
    error = float((layer.weight - linear.weight.t()).norm().detach())
    assert error == pytest.approx(float(np.sqrt((values[rank:] ** 2).sum())), rel=1e-6)
    assert torch.equal(layer.bias, linear.bias)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_decomposition_recovers_a_low_rank_weight(factorization: str) -> None:
    rank = {"tucker": (3, 2, 2, 4), "cp": 3, "tt": (2, 3, 3)}[factorization]
    source = TensorRegression((8, 3, 3), (10,), factorization=factorization, rank=rank, dtype=torch.float64)
    copied = TensorRegression.from_weight(
        source.weight, (8, 3, 3), (10,), factorization=factorization, rank=rank, bias=source.bias
    )
    assert relative_error(copied.weight, source.weight) < 1e-3


def test_decomposition_neither_takes_random_numbers_nor_depends_on_them() -> None:
    linear = nn.Linear(18, 10)
    state = torch.get_rng_state()
    layers = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        layers.append(TensorRegression.from_linear(linear, (2, 9), factorization="cp", rank=12))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("rank", [1, 2, 0.3, "full"])
def test_initial_weight_has_the_dense_layers_mean_square(factorization: str, rank: int | float | str) -> None:
    for in_shape, out_shape in (((64, 3, 3), (32,)), ((40,), (3, 11)), ((5, 4, 3), (2, 3))):
        layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank, dtype=torch.float64)
        mean_square = float(tensorlys_weight(layer).square().mean().detach())
        assert mean_square == pytest.approx(1 / (3 * math.prod(in_shape)), rel=1e-9)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_initial_outputs_vary_as_the_dense_layers(factorization: str) -> None:
    ratios = []
    for in_shape, out_shape in (((64, 3, 3), (256,)), ((256,), (51,)), ((256,), (6, 51)), ((32, 4, 4), (128,))):
        for rank in (0.05, 0.2, 0.4):
            x = torch.randn(256, *in_shape)
            linear = nn.Linear(math.prod(in_shape), math.prod(out_shape))
            layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank)
            ratios.append(float((layer(x).var() / linear(x.flatten(1)).var()).detach()))
            assert layer.bias is not None
            assert float(layer.bias.abs().max().detach()) <= 1 / math.sqrt(math.prod(in_shape))
    assert 0.9 < sum(ratios) / len(ratios) < 1.1
    assert all(0.8 < ratio < 1.25 for ratio in ratios)


def test_initial_values_come_from_the_generator_alone() -> None:
    def make(seed: int) -> list[Tensor]:
        layer = TensorRegression(*OUTPUT, rank=5, generator=torch.Generator().manual_seed(seed))
        return [p.detach() for p in layer.parameters()]

    state = torch.get_rng_state()
    first, again, other = make(3), make(3), make(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("factorization", "in_shape", "out_shape", "rank"), AGENT_LAYERS)
def test_coefficients_count_the_learned_parameters_and_public_structure_holds(
    factorization: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...]
) -> None:
    layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank)
    assert layer.coefficients == sum(p.numel() for p in layer.parameters())
    assert isinstance(layer.factors, tuple)
    assert all(isinstance(f, nn.Parameter) for f in layer.factors)
    dims = (*in_shape, *out_shape)
    assert tuple(tuple(f.shape) for f in layer.factors) == factor_shapes(dims, factorization, rank)
    assert (layer.core is None) == (factorization != "tucker")
    assert layer.core is None or tuple(layer.core.shape) == rank
    assert layer.bias is not None
    assert tuple(layer.bias.shape) == out_shape
    assert f"coefficients={layer.coefficients}" in repr(layer)
    assert TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank, bias=False).bias is None
