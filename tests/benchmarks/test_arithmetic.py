"""The multiply-adds of an update are counted right: by PyTorch's counter and opt_einsum's orders."""

from __future__ import annotations

import math
from collections.abc import Iterator

import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor
from benchmarks.arithmetic import (
    BATCH,
    cheapest_products,
    layer_network,
    multiply_adds_of_update,
    products_of_update,
)
from benchmarks.ours import Trial
from tensorrl.networks.spec import NetworkSpec
from tensorrl.trial import variants
from tensorrl.trial.settings import network_spec

ACTIONS = 6


def _spec(variant: str) -> NetworkSpec:
    return network_spec(variants.resolve(variant), ACTIONS)


class PlainDense(nn.Module):
    """A dense dueling network in PyTorch's own layers, on the pixels that matter."""

    def __init__(self, convolutions: nn.Sequential, features: int, hidden: int, atoms: int) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.streams = nn.ModuleList(
            nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
            for outputs in (atoms, ACTIONS * atoms)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.convolutions(pixels).flatten(1)
        return torch.cat([stream(features) for stream in self.streams], 1)


@pytest.mark.parametrize(
    ("variant", "side", "plain"),
    [
        (
            "denoised",
            75,
            PlainDense(nn.Sequential(nn.Conv2d(4, 32, 5, 5), nn.Conv2d(32, 64, 5, 5)), 576, 256, 51),
        ),
        (
            "pong-dqn",
            84,
            PlainDense(
                nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)), 3136, 512, 1
            ),
        ),
    ],
)
def test_multiply_adds_of_a_dense_update_are_those_pytorch_counts(variant: str, side: int, plain: PlainDense) -> None:
    pixels = torch.zeros(8, 4, side, side)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            plain(pixels)
            plain(pixels)
        plain(pixels).sum().backward()
    assert multiply_adds_of_update(_spec(variant), batch=8) == counter.get_total_flops() // 2


def test_noise_adds_no_matrix_products() -> None:
    assert products_of_update(_spec("rainbow")) == products_of_update(_spec("denoised"))


@given(
    factorization=st.sampled_from(["tucker", "tt", "cp"]),
    in_shape=st.lists(st.integers(2, 12), min_size=1, max_size=3),
    out_shape=st.lists(st.integers(2, 12), min_size=1, max_size=2),
    rank=st.integers(1, 5),
)
def test_a_factorised_layers_count_is_never_above_an_order_found_by_opt_einsum(
    factorization: str, in_shape: list[int], out_shape: list[int], rank: int
) -> None:
    modes = len(in_shape) + len(out_shape)
    ranks = {"tucker": (rank,) * modes, "tt": (rank,) * (modes - 1), "cp": (rank,)}[factorization]
    operands, output, sizes = layer_network(in_shape, out_shape, factorization, ranks)
    sizes[BATCH] = 32
    shapes = [tuple(sizes[label] for label in operand) for operand in operands]
    path, _ = opt_einsum.contract_path(f"{','.join(operands)}->{output}", *shapes, shapes=True, optimize="optimal")
    found = sum(product.multiply_adds for product in cheapest_products("", operands, output, sizes))
    # Not always equal: opt_einsum does not know that an update repeats what holds the batch more often.
    assert found <= sum(_price_of_path(list(operands), output, sizes, path))


def _price_of_path(
    operands: list[str], output: str, sizes: dict[str, int], path: list[tuple[int, ...]]
) -> Iterator[int]:
    """Multiply-adds over an update of each step of a path: all labels of the pair, as often as it is done."""
    for step in path:
        pair = [operands.pop(position) for position in sorted(step, reverse=True)]
        labels = set("".join(pair))
        yield math.prod(sizes[label] for label in labels) * (3 + 2 if BATCH in labels else 2 + 2)
        operands.append("".join(sorted(labels & set("".join(operands) + output))))


def test_a_full_tucker_layer_is_cheapest_as_its_dense_weight_or_cheaper() -> None:
    """At full rank the weight can be built first: then one product of dense size, and what building costs."""
    operands, output, sizes = layer_network((8, 3, 3), (16,), "tucker", (8, 3, 3, 16))
    sizes[BATCH] = 10_000
    products = cheapest_products("", operands, output, sizes)
    (largest,) = [product for product in products if product.forward == 3]
    assert (largest.rows, largest.inner, largest.columns) in {(10_000, 72, 16), (16, 72, 10_000)}


def test_the_products_timed_alone_are_all_of_an_updates_arithmetic() -> None:
    products = products_of_update(_spec("trl-5x"), batch=4)
    with floor.count_flops() as counter:
        floor.seconds_of_products(products, lambda: 0.0)
    # Once to warm up, once timed.
    assert counter.get_total_flops() == 2 * 2 * multiply_adds_of_update(_spec("trl-5x"), batch=4)


def test_an_update_executes_no_less_than_its_floor_and_little_more() -> None:
    trial = Trial("trl-10x", "pong", warm_up=40, seed=0)
    try:
        trial.advance(41)
        executed = floor.executed_multiply_adds(trial.training)
        step, phases = floor.phases_of_step(trial.training, 3)
    finally:
        trial.close()
    least = multiply_adds_of_update(trial.training.agent.network.spec)
    assert least <= executed <= 1.1 * least
    assert sum(phases.values()) == pytest.approx(step)
    assert phases["update"] > 0
    assert "update" not in vars(trial.training.agent)  # the timers are gone


def test_operators_are_told_apart_by_name() -> None:
    expected = {
        "aten::mm": "matrix products",
        "mkldnn::_linear_pointwise": "matrix products",
        "aten::mul_": "elementwise and sums",
        "aten::_fused_adam_": "optimizer and clipping",
        "aten::_foreach_norm": "optimizer and clipping",
        "aten::to": "copies, conversions, gathers",
        "aten::t": "allocations and views",
        "aten::_log_softmax_backward_data": "softmax",
        "autograd::engine::evaluate_function: MmBackward0": "autograd's engine",
        "Optimizer.step#Adam.step": "Python between operators",
    }
    assert {name: floor.kind_of(name) for name in expected} == expected
