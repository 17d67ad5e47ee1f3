from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import opt_einsum
import pytest
import tltorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regression_layers import AGENT_LAYERS, layers, relative_error, tensorlys_weight
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from tensorrl.errors import InputError
from tensorrl.networks.contraction import contract
from tensorrl.networks.factorizations import plan_layer
from tensorrl.networks.planning import CPU, CUDA, CostModel
from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import FACTORIZATIONS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def dense_output(layer: TensorRegression, x: Tensor, weight: Tensor) -> Tensor:
    flat = x.reshape(-1, math.prod(layer.in_shape)) @ weight.reshape(math.prod(layer.in_shape), -1)
    out = flat.reshape(*x.shape[: x.dim() - len(layer.in_shape)], *layer.out_shape)
    return out if layer.bias is None else out + layer.bias


@settings(max_examples=80, deadline=None)
@given(layers(), st.lists(st.integers(1, 12), max_size=2))
def test_output_and_all_gradients_equal_contraction_with_tensorlys_weight(
    layer: TensorRegression, leading: list[int]
) -> None:
    x = torch.randn(*leading, *layer.in_shape, dtype=torch.float64, requires_grad=True)
    tensors = [x, *layer.parameters()]
    out, expected = layer(x), dense_output(layer, x, tensorlys_weight(layer))
    assert out.shape == (*leading, *layer.out_shape)
    assert out.is_contiguous()
    assert relative_error(out, expected) < 1e-10
    cotangent = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, tensors, cotangent), torch.autograd.grad(expected, tensors, cotangent), strict=True
    ):
        assert relative_error(ours, theirs) < 1e-10
    assert relative_error(layer.weight, tensorlys_weight(layer)) < 1e-12


@pytest.mark.parametrize("batch", [1, 5, 32, 96, 1500])
@pytest.mark.parametrize(("factorization", "in_shape", "out_shape", "rank"), AGENT_LAYERS)
def test_agents_layers_are_right_at_every_planned_batch(
    factorization: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...], batch: int
) -> None:
    layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank, dtype=torch.float64)
    x = torch.randn(batch, *in_shape, dtype=torch.float64)
    expected = dense_output(layer, x, tensorlys_weight(layer))
    assert relative_error(layer(x), expected) < 1e-10
    for costs in (CPU, CUDA):
        plan = plan_layer(in_shape, out_shape, factorization, layer.rank, batch=batch, costs=costs)
        operands = (x, *layer.factors) if layer.core is None else (x, layer.core, *layer.factors)
        assert relative_error(contract(plan, operands), (expected - layer.bias).reshape(batch, -1)) < 1e-10


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "rank"), [((8, 3, 3), (10,), (4, 3, 2, 5)), ((6,), (4, 5), (3, 2, 4))]
)
def test_tucker_equals_tensorly_torchs_layer_with_the_same_factors(
    in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...]
) -> None:
    layer = TensorRegression(in_shape, out_shape, rank=rank, dtype=torch.float64)
    theirs = tltorch.TRL(in_shape, out_shape, bias=True, factorization="tucker", rank=rank, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.core.copy_(layer.core)
        for mine, other in zip(layer.factors, theirs.weight.factors, strict=True):
            other.copy_(mine)
        theirs.bias.copy_(layer.bias)
    x = torch.randn(7, *in_shape, dtype=torch.float64)
    assert relative_error(layer(x), theirs(x)) < 1e-10


def test_cp_and_tensor_train_equal_tensorly_torchs_layer_with_the_same_factors() -> None:
    for factorization, rank in (("cp", 5), ("tt", (1, 4, 6, 3, 1))):
        theirs = tltorch.TRL((6, 3, 2), (5,), bias=True, factorization=factorization, rank=rank, dtype=torch.float64)
        theirs.weight.normal_(0, 0.1)
        ours = rank if isinstance(rank, int) else rank[1:-1]
        layer = TensorRegression((6, 3, 2), (5,), factorization=factorization, rank=ours, dtype=torch.float64)
        with torch.no_grad():
            for mine, other in zip(layer.factors, theirs.weight.factors, strict=True):
                mine.copy_(other)
            if factorization == "cp":
                layer.factors[0].mul_(theirs.weight.weights)
            layer.bias.copy_(theirs.bias)
        x = torch.randn(7, 6, 3, 2, dtype=torch.float64)
        assert relative_error(layer(x), theirs(x)) < 1e-10


@pytest.mark.parametrize(("factorization", "in_shape", "out_shape", "rank"), AGENT_LAYERS)
def test_no_tensor_as_large_as_the_weight_is_formed_in_the_agents_layers(
    factorization: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...]
) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank)
    with Largest() as seen:
        layer(torch.randn(32, *in_shape)).sum().backward()
    assert seen.numel < math.prod(in_shape) * math.prod(out_shape)


def test_plan_rebuilds_the_weight_only_where_that_is_cheaper() -> None:
    def products_with_the_batch(modes: int, rank: int, batch: int) -> int:
        plan = plan_layer((modes,), (modes,), "tucker", (rank, rank), batch=batch, costs=CPU)
        touched = {0}
        for position, step in enumerate(plan.steps):
            if step.left in touched or step.right in touched:
                touched.add(4 + position)
        return len(touched) - 1

    # Full rank and many examples: everything is folded into one matrix first. Low rank: at least two thin products.
    assert products_with_the_batch(modes=64, rank=64, batch=1024) == 1
    assert products_with_the_batch(modes=512, rank=8, batch=1024) >= 2
    assert products_with_the_batch(modes=512, rank=8, batch=1) >= 2


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "rank"),
    [
        ((64, 3, 3), (256,), (20, 3, 3, 64)),
        ((9, 8), (7, 6), (2, 5, 3, 4)),
        ((64, 7, 7), (512,), (32, 4, 4, 248)),
        ((5, 4, 3), (6, 7), (2, 2, 2, 3, 3)),
    ],
)
@pytest.mark.parametrize("batch", [1, 32, 1024])
def test_cheapest_order_has_as_few_multiply_adds_as_opt_einsums_optimum(
    in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...], batch: int
) -> None:
    only_multiply_adds = CostModel(
        product=0,
        elementwise=0,
        view=0,
        multiply_add=1,
        lanes=1,
        traffic=0,
        narrow=0,
        wide=1,
        transposed=0,
        scattered=0,
    )
    dims = (*in_shape, *out_shape)
    modes, bonds = "abcdefgh"[: len(dims)], "ABCDEFGH"[: len(dims)]
    terms = ["z" + modes[: len(in_shape)], bonds, *(m + b for m, b in zip(modes, bonds, strict=True))]
    equation = ",".join(terms) + "->z" + modes[len(in_shape) :]
    arrays = [np.empty(s) for s in ((batch, *in_shape), rank, *zip(dims, rank, strict=True))]
    _, path = opt_einsum.contract_path(equation, *arrays, optimize="optimal")
    plan = plan_layer(in_shape, out_shape, "tucker", rank, batch=batch, costs=only_multiply_adds)
    assert plan.cost == pytest.approx(float(path.opt_cost) / 2, rel=1e-12)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_function_transforms_agree_with_loops(factorization: str) -> None:
    layer = TensorRegression((3, 2), (2, 3), factorization=factorization, rank=2, dtype=torch.float64)
    parameters = dict(layer.named_parameters())
    x = torch.randn(4, 3, 2, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).pow(3).sum()

    per_example = vmap(grad(loss), (None, 0))(parameters, x)
    for k in range(len(x)):
        layer.zero_grad()
        layer(x[k]).pow(3).sum().backward()
        for name, parameter in parameters.items():
            assert relative_error(per_example[name][k], parameter.grad) < 1e-12
    jacobian = jacrev(layer)(x[0])
    assert relative_error(jacobian, layer.weight.permute(2, 3, 0, 1)) < 1e-12
    # Each output is linear in each parameter, so its second derivative in one parameter alone is zero.
    curvature = hessian(lambda bias: loss({**parameters, "bias": bias}, x[0]))(layer.bias.detach())
    out = layer(x[0]).detach()
    assert relative_error(curvature.reshape(6, 6), torch.diag(6 * out.flatten())) < 1e-12


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_gradients_can_be_differentiated_again(factorization: str) -> None:
    layer = TensorRegression((3, 2), (4,), factorization=factorization, rank=2, dtype=torch.float64)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradgradcheck(run, (x, *values))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_compiles_into_one_graph_for_any_batch(factorization: str) -> None:
    torch._dynamo.reset()
    layer = TensorRegression((6, 3, 3), (4, 5), factorization=factorization, rank=3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for batch in (32, 200):
        x = torch.randn(batch, 6, 3, 3)
        assert torch.allclose(compiled(x), layer(x), atol=1e-6)


@pytest.mark.parametrize(("factorization", "in_shape", "out_shape", "rank"), AGENT_LAYERS)
def test_bfloat16_is_close_to_double_precision(
    factorization: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...]
) -> None:
    layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank, dtype=torch.bfloat16)
    x = torch.randn(16, *in_shape, dtype=torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    expected = copy.deepcopy(layer).double()(x.double())
    assert relative_error(out.double(), expected) < 0.02
    out.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_memory_order_of_the_input_does_not_matter() -> None:
    layer = TensorRegression((8, 3, 3), (5,), rank=3, dtype=torch.float64)
    x = torch.randn(4, 8, 3, 3, dtype=torch.float64)
    assert relative_error(layer(x.contiguous(memory_format=torch.channels_last)), layer(x)) < 1e-13


@pytest.mark.parametrize("batch", [1, 32, 1024])
def test_output_is_contiguous_whatever_order_the_plan_ends_in(batch: int) -> None:
    layer = TensorRegression((8,), (4, 1, 5), rank=2)
    assert layer(torch.zeros(batch, 8)).is_contiguous()


def test_no_examples_give_no_outputs() -> None:
    layer = TensorRegression((8, 3, 3), (5, 2), rank=3)
    out = layer(torch.zeros(0, 8, 3, 3))
    assert out.shape == (0, 5, 2)
    out.sum().backward()
    assert float(layer.core.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_state_survives_copying_pickling_and_loading(factorization: str) -> None:
    layer = TensorRegression((4, 3), (5,), factorization=factorization, rank=2)
    x = torch.randn(3, 4, 3)
    expected = layer(x)
    fresh = TensorRegression((4, 3), (5,), factorization=factorization, rank=2)
    assert not torch.equal(fresh(x), expected)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)


def test_bad_shapes_are_refused_in_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"in_shape: \(3, 0\) is not a shape"):
        TensorRegression((3, 0), (5,), rank=2)
    with pytest.raises(InputError, match=r"unknown factorization 'cpd'; did you mean 'cp'"):
        TensorRegression((3, 2), (5,), factorization="cpd", rank=2)
    with pytest.raises(InputError, match=r"entry 1 is 4 \(allowed: 1 to 2\)"):
        TensorRegression((3, 2), (5,), rank=(2, 4, 2))
    layer = TensorRegression((4, 3), (5,), rank=2)
    for bad in ((7, 3, 4), (7, 12), (3,), ()):
        with pytest.raises(InputError, match=r"does not end in \(4, 3\)"):
            layer(torch.zeros(bad))
    with pytest.raises(InputError, match="does not multiply to the linear layer's 12 features"):
        TensorRegression.from_linear(nn.Linear(12, 5), (5, 3), rank=2)
    with pytest.raises(InputError, match="does not multiply to the linear layer's 5 features"):
        TensorRegression.from_linear(nn.Linear(12, 5), (4, 3), (3, 2), rank=2)
    with pytest.raises(InputError, match=r"weight: shape \(5, 12\)"):
        TensorRegression.from_weight(torch.zeros(5, 12), (12,), (5,), rank=2)
    with pytest.raises(InputError, match=r"bias: shape \(4,\) does not match"):
        TensorRegression.from_weight(torch.zeros(12, 5), (12,), (5,), rank=2, bias=torch.zeros(4))


@pytest.mark.gpu
@pytest.mark.parametrize(("factorization", "in_shape", "out_shape", "rank"), AGENT_LAYERS)
def test_forward_and_backward_replay_from_a_captured_graph(
    factorization: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], rank: tuple[int, ...]
) -> None:
    layer = TensorRegression(in_shape, out_shape, factorization=factorization, rank=rank, device="cuda")
    x = torch.randn(32, *in_shape, device="cuda", requires_grad=True)
    captured = torch.cuda.make_graphed_callables(layer, (x,))
    for _ in range(2):
        x = torch.randn(32, *in_shape, device="cuda", requires_grad=True)
        layer.zero_grad()
        out = captured(x)
        out.square().sum().backward()
        expected = dense_output(layer, x, layer.weight)
        assert relative_error(out, expected) < 1e-2
        assert layer.bias is not None
        assert layer.bias.grad is not None
        assert relative_error(layer.bias.grad, 2 * expected.sum(0)) < 1e-2


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_exports_with_a_dynamic_batch(factorization: str) -> None:
    layer = TensorRegression((4, 3), (2, 5), factorization=factorization, rank=2)
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(layer, (torch.randn(5, 4, 3),), dynamic_shapes={"x": {0: batch}}).module()
    for rows in (1, 2, 200):
        x = torch.randn(rows, 4, 3)
        torch.testing.assert_close(exported(x), layer(x))


def test_shapes_are_whole_numbers_of_any_type() -> None:
    layer = TensorRegression((np.int64(4), np.int32(3)), (np.int64(5),), rank=np.int64(2))
    assert (layer.in_shape, layer.out_shape) == ((4, 3), (5,))
    assert {type(size) for size in (*layer.in_shape, *layer.out_shape)} == {int}
    for shape in ((4.0,), (True,), ()):
        with pytest.raises(InputError, match="is not a shape"):
            TensorRegression(shape, (5,), rank=1)
