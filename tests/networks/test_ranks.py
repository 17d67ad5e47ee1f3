from __future__ import annotations

import math

import numpy as np
import pytest
import tensorly as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.random import random_cp, random_tt, random_tucker

from tensorrl.errors import InputError
from tensorrl.networks.ranks import resolve_rank, solve_ranks
from tensorrl.networks.shapes import FACTORIZATIONS, LayerShape, coefficients_of, full_rank, rank_limits, useful_rank

# Learned scalars of the noisy baseline agent by number of actions (NoisyNet, dense heads), and of its convolutions.
RAINBOW = {3: 750_200, 4: 776_414, 6: 828_842, 9: 907_484, 18: 1_143_410}
CONVOLUTIONS = 54_496


def agent(actions: int) -> list[LayerShape]:
    return [
        LayerShape("value_hidden", (64, 3, 3), (256,)),
        LayerShape("advantage_hidden", (64, 3, 3), (256,)),
        LayerShape("value_output", (256,), (51,)),
        LayerShape("advantage_output", (256,), (actions, 51)),
    ]


def nature(actions: int) -> list[LayerShape]:
    return [
        LayerShape("hidden", (64, 7, 7), (512,)),
        LayerShape("value_output", (512,), (1,)),
        LayerShape("advantage_output", (512,), (actions,)),
    ]


def total(layers: list[LayerShape], factorization: str, ranks: dict[str, tuple[int, ...]]) -> int:
    return sum(coefficients_of(s.in_shape, s.out_shape, factorization, ranks[s.name], s.bias) for s in layers)


def test_coefficients_equal_the_sizes_of_tensorlys_tensors() -> None:
    with tl.backend_context("numpy", local_threadsafe=True):
        core, factors = random_tucker((5, 4, 3), rank=[3, 2, 2])
        assert coefficients_of((5, 4), (3,), "tucker", (3, 2, 2), bias=False) == core.size + sum(
            f.size for f in factors
        )
        _, factors = random_cp((5, 4, 3), rank=7)
        assert coefficients_of((5,), (4, 3), "cp", (7,)) == sum(f.size for f in factors) + 12
        cores = random_tt((5, 4, 3), rank=[1, 4, 2, 1]).factors
        assert coefficients_of((5, 4), (3,), "tt", (4, 2)) == sum(g.size for g in cores) + 3


def test_dense_coefficients_of_the_agents_layers_give_the_published_count() -> None:
    assert {a: sum(s.dense_coefficients for s in agent(a)) + CONVOLUTIONS for a in RAINBOW} == {
        3: 402_348,
        4: 415_455,
        6: 441_669,
        9: 480_990,
        18: 598_953,
    }


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("compression", [2.5, 5, 10])
@pytest.mark.parametrize("actions", sorted(RAINBOW))
def test_agents_ratio_is_its_name_within_half_a_percent(actions: int, compression: float, factorization: str) -> None:
    layers = agent(actions)
    budget = int(RAINBOW[actions] / compression) - CONVOLUTIONS
    ranks = solve_ranks(layers, factorization=factorization, coefficients=budget)
    used = total(layers, factorization, ranks)
    assert budget * 0.995 < used <= budget
    assert RAINBOW[actions] / (used + CONVOLUTIONS) == pytest.approx(compression, rel=0.003)
    for layer in layers:
        rank, limits = ranks[layer.name], rank_limits(layer.in_shape, layer.out_shape, factorization)
        assert all(1 <= r <= limit for r, limit in zip(rank, limits, strict=True))
        assert useful_rank(layer.in_shape, layer.out_shape, factorization, rank) == rank


@pytest.mark.parametrize("compression", [2.5, 5, 10])
@pytest.mark.parametrize("actions", sorted(RAINBOW))
def test_one_scale_serves_all_layers(actions: int, compression: float) -> None:
    budget = int(RAINBOW[actions] / compression) - CONVOLUTIONS
    ranks = solve_ranks(agent(actions), factorization="tucker", coefficients=budget)
    value, advantage = ranks["value_hidden"], ranks["advantage_hidden"]
    assert all(abs(v - a) <= 3 for v, a in zip(value, advantage, strict=True))
    # Rounding up moves a ratio by less than one column, spending the remainder by a column or two.
    scales = [value[0] / 64, value[3] / 256, advantage[0] / 64, advantage[3] / 256]
    scales += [ranks["value_output"][1] / 51, ranks["advantage_output"][2] / 51]
    assert max(scales) - min(scales) < 3 / 51
    # Modes of three are kept whole: a rank of one there would cap every other rank of the layer.
    assert value[1:3] == advantage[1:3] == (3, 3)


def test_without_the_exception_modes_of_three_follow_the_scale_too() -> None:
    budget = RAINBOW[6] // 5 - CONVOLUTIONS
    ranks = solve_ranks(agent(6), factorization="tucker", coefficients=budget, whole_below=1)
    rank = ranks["value_hidden"]
    scale = rank[0] / 64
    assert 1 / 3 < scale < 2 / 3
    assert rank[1:3] == (2, 2)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("actions", [3, 6, 18])
@pytest.mark.parametrize("compression", [1.5, 2, 3, 4, 5])
def test_nature_networks_budget_is_met(actions: int, compression: float, factorization: str) -> None:
    layers, convolutions = nature(actions), 77_984
    dense = sum(s.dense_coefficients for s in layers) + convolutions
    budget = int(dense / compression) - convolutions
    used = total(layers, factorization, solve_ranks(layers, factorization=factorization, coefficients=budget))
    assert budget * 0.99 < used <= budget


def test_search_is_deterministic_and_does_not_depend_on_fixed_order() -> None:
    fixed = {"value_output": (5, 5), "value_hidden": (16, 3, 3, 24)}
    results = [
        solve_ranks(agent(6), factorization="tucker", coefficients=60_000, fixed=f)
        for f in (fixed, dict(reversed(list(fixed.items()))), dict(fixed))
    ]
    assert results[0] == results[1] == results[2]
    assert list(results[0]) == [s.name for s in agent(6)]


def test_fixed_ranks_are_kept_and_counted() -> None:
    ranks = solve_ranks(
        agent(6), factorization="tucker", coefficients=60_000, fixed={"value_hidden": (16, 3, 3, 24), "value_output": 4}
    )
    assert ranks["value_hidden"] == (16, 3, 3, 24)
    assert ranks["value_output"] == (4, 4)
    assert 0.98 * 60_000 <= total(agent(6), "tucker", ranks) <= 60_000


def test_all_ranks_fixed_must_still_meet_the_budget() -> None:
    layer = [LayerShape("only", (10,), (10,))]
    assert coefficients_of((10,), (10,), "tucker", (3, 3)) == 79
    assert solve_ranks(layer, factorization="tucker", coefficients=79, fixed={"only": 3}) == {"only": (3, 3)}
    with pytest.raises(InputError, match="smallest possible 79, largest 79"):
        solve_ranks(layer, factorization="tucker", coefficients=200, fixed={"only": 3})


def test_impossible_budget_names_the_smallest_and_largest_possible() -> None:
    layers = [LayerShape("a", (4, 3), (5,)), LayerShape("b", (5,), (2,), bias=False)]
    smallest = (1 + 4 + 3 + 5 + 5) + (1 + 5 + 2)
    largest = (4 * 3 * 5 + 16 + 9 + 25 + 5) + (2 * 2 + 10 + 4)
    for budget in (smallest - 1, 2 * largest):
        with pytest.raises(InputError, match=rf"smallest possible {smallest}, largest {largest}"):
            solve_ranks(layers, factorization="tucker", coefficients=budget)
    ranks = solve_ranks(layers, factorization="tucker", coefficients=smallest)
    assert ranks == {"a": (1, 1, 1), "b": (1, 1)}
    ranks = solve_ranks(layers, factorization="tucker", coefficients=largest)
    assert ranks == {"a": (4, 3, 5), "b": (2, 2)}


def test_a_gap_between_possible_totals_is_refused_with_the_nearest() -> None:
    layer = [LayerShape("output", (1000,), (2,), bias=False)]
    one, two = 1 + 1002, 4 + 2004
    with pytest.raises(InputError, match=rf"nearest below is {one:,}"):
        solve_ranks(layer, factorization="tucker", coefficients=two - 500)


def test_bad_layers_and_names_are_refused() -> None:
    with pytest.raises(InputError, match="'a' occurs twice"):
        solve_ranks([LayerShape("a", (3,), (3,))] * 2, factorization="tucker", coefficients=20)
    with pytest.raises(InputError, match="none given"):
        solve_ranks([], factorization="tucker", coefficients=20)
    with pytest.raises(InputError, match="did you mean 'value_output'"):
        solve_ranks(agent(6), factorization="tucker", coefficients=60_000, fixed={"value_outputs": 3})
    with pytest.raises(InputError, match="did you mean 'tucker'"):
        solve_ranks(agent(6), factorization="tuker", coefficients=60_000)


small_dims = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(small_dims, small_dims, st.booleans()), min_size=1, max_size=3),
    st.sampled_from(FACTORIZATIONS),
    st.floats(0, 1),
)
def test_any_budget_is_met_or_refused(
    shapes: list[tuple[tuple[int, ...], tuple[int, ...], bool]], factorization: str, position: float
) -> None:
    layers = [LayerShape(f"layer{k}", i, o, bias) for k, (i, o, bias) in enumerate(shapes)]
    full = {s.name: full_rank(s.in_shape, s.out_shape, factorization) for s in layers}
    low = total(layers, factorization, {name: (1,) * len(rank) for name, rank in full.items()})
    budget = round(low + position * (total(layers, factorization, full) - low))
    try:
        ranks = solve_ranks(layers, factorization=factorization, coefficients=budget)
    except InputError as error:
        assert "nearest below" in str(error)  # noqa: PT017
        return
    assert 0.98 * budget <= total(layers, factorization, ranks) <= budget
    for layer in layers:
        limits = rank_limits(layer.in_shape, layer.out_shape, factorization)
        assert all(1 <= r <= limit for r, limit in zip(ranks[layer.name], limits, strict=True))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple), st.data(), st.integers(0, 2**32 - 1))
def test_useful_tucker_rank_is_the_rank_of_a_random_tensors_unfoldings(
    dims: tuple[int, ...], data: st.DataObject, seed: int
) -> None:
    rank = tuple(data.draw(st.integers(1, d)) for d in dims)
    core = np.random.default_rng(seed).normal(size=rank)
    unfoldings = [np.moveaxis(core, k, 0).reshape(rank[k], -1) for k in range(len(dims))]
    expected = tuple(int(np.linalg.matrix_rank(u)) for u in unfoldings)
    assert useful_rank(dims[:1], dims[1:], "tucker", rank) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple), st.data(), st.integers(0, 2**32 - 1))
def test_useful_tensor_train_rank_is_the_rank_of_a_random_tensors_unfoldings(
    dims: tuple[int, ...], data: st.DataObject, seed: int
) -> None:
    rank = tuple(data.draw(st.integers(1, limit)) for limit in rank_limits(dims[:1], dims[1:], "tt"))
    generator = np.random.default_rng(seed)
    bonds = (1, *rank, 1)
    weight = np.ones((1, 1))
    for k, d in enumerate(dims):
        weight = (weight @ generator.normal(size=(bonds[k], d * bonds[k + 1]))).reshape(-1, bonds[k + 1])
    expected = tuple(
        int(np.linalg.matrix_rank(weight.reshape(math.prod(dims[:k]), -1), tol=1e-9)) for k in range(1, len(dims))
    )
    assert useful_rank(dims[:1], dims[1:], "tt", rank) == expected


def test_ranks_are_accepted_in_every_form() -> None:
    hidden = ((64, 3, 3), (256,))
    assert resolve_rank(20, *hidden, "tucker") == (20, 3, 3, 20)
    assert resolve_rank([16, 3, 3, 24], *hidden, "tucker") == (16, 3, 3, 24)
    assert resolve_rank("full", *hidden, "tucker") == (64, 3, 3, 256)
    assert resolve_rank("full", (2,), (9,), "tucker") == (2, 2)
    assert resolve_rank("full", *hidden, "tt") == (64, 192, 256)
    assert resolve_rank("full", *hidden, "cp") == (576,)
    assert resolve_rank(90, *hidden, "cp") == resolve_rank((90,), *hidden, "cp") == (90,)
    assert resolve_rank(70, *hidden, "tt") == (64, 70, 70)
    for factorization in FACTORIZATIONS:
        rank = resolve_rank(0.2, *hidden, factorization)
        assert coefficients_of(*hidden, factorization, rank) == pytest.approx(147_712 / 5, rel=0.02)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, "0 .allowed: 1 to 8"),
        (-1, "-1 .allowed"),
        (9, "9 .allowed: 1 to 8"),
        (True, "True is not a whole number"),
        (0.0, "fraction 0.0"),
        (1.5, "fraction 1.5"),
        (float("nan"), "fraction nan"),
        ("half", "'half' .allowed"),
        ((2, 2), "2 entries, not 3"),
        ((2, 0, 2), "entry 1 is 0 .allowed: 1 to 3"),
        ((2, 4, 2), "entry 1 is 4 .allowed: 1 to 3"),
        ((2, 1.5, 2), "1.5 is not a whole number"),
        (None, "None is not a whole number"),
    ],
)
def test_bad_ranks_are_refused(rank: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_rank(rank, (4, 3), (8,), "tucker")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (2.0,), (True,)])
def test_bad_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"in_shape: .* is not a shape"):
        rank_limits(shape, (3,), "tucker")
    with pytest.raises(InputError, match=r"out_shape: .* is not a shape"):
        resolve_rank(1, (3,), shape, "cp")
