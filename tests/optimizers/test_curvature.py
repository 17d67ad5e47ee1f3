from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kfac_steps import kron_solve, observe, parameters_of, plain, step
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.networks import matmul
from tensorrl.networks.matmul import packed, suits_onednn, times_transposed
from tensorrl.optimizers.curvature import bias_factors, damped_inverse, damping_split, kronecker_factors
from tensorrl.optimizers.kronecker import gram, sandwich

DAMPING = 0.03


def _half_square(outputs: Tensor) -> Tensor:
    """A loss that is a mean over the batch and whose gradient depends on every output."""
    return 0.5 * ((outputs - torch.sin(outputs.detach() + 1)) ** 2).flatten(1).sum(1).mean()


def _output_gradients(outputs: Tensor) -> Tensor:
    """The gradients of `_half_square`'s examples, written out."""
    return (outputs - torch.sin(outputs + 1)).detach()


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


def _step_matrix(before: dict[str, Tensor], layer: nn.Module, bias: bool) -> Tensor:
    """−Δθ of a layer as one matrix (out, in + bias)."""
    weight = (before["weight"] - layer.weight.detach()).flatten(1)
    return torch.cat([weight, (before["bias"] - layer.bias.detach())[:, None]], 1) if bias else weight


@given(
    batch=st.integers(2, 6),
    fan_in=st.integers(1, 6),
    fan_out=st.integers(1, 6),
    middle=st.integers(0, 3),
    bias=st.booleans(),
)
def test_a_linear_layer_steps_by_the_written_out_formula(
    batch: int, fan_in: int, fan_out: int, middle: int, bias: bool
) -> None:
    torch.manual_seed(batch + 10 * fan_in + 100 * fan_out)
    layer = nn.Linear(fan_in, fan_out, bias=bias).double()
    x = torch.randn(batch, *((middle,) if middle else ()), fan_in, dtype=torch.float64)
    before, optimizer = parameters_of(layer), plain(layer, damping=DAMPING)
    step(optimizer, layer, x, _half_square)

    rows = x.reshape(batch, -1, fan_in)
    gradients = _output_gradients(F.linear(rows, before["weight"], before.get("bias")))
    rows = _with_ones(rows) if bias else rows
    a = torch.einsum("npi,npj->ij", rows, rows) / (batch * rows.shape[1])
    g = torch.einsum("npi,npj->ij", gradients, gradients) / batch
    torch.testing.assert_close(optimizer.factors()["module"].inputs, a)
    torch.testing.assert_close(optimizer.factors()["module"].outputs, g)
    gradient = torch.einsum("npo,npi->oi", gradients, rows) / batch
    torch.testing.assert_close(_step_matrix(before, layer, bias), kron_solve(a, g, gradient, DAMPING))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": (2, 3), "dilation": (2, 1), "padding": "same"},
        {"kernel_size": 3, "stride": 2, "padding": 2, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
    ],
)
def test_a_convolution_steps_by_the_written_out_formula(options: dict[str, object], sharing: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, **options).double()
    bias = layer.bias is not None
    x = torch.randn(4, 2, 6, 5, dtype=torch.float64)
    before, optimizer = parameters_of(layer), plain(layer, damping=DAMPING, sharing=sharing)
    outputs = layer(x).detach()
    step(optimizer, layer, x, _half_square)

    # The patch a pixel sees is the gradient of its value by the kernel: no unfolding, no padding of our own.
    patches = torch.zeros(4, *outputs.shape[2:], 2 * layer.kernel_size[0] * layer.kernel_size[1], dtype=torch.float64)
    for n in range(4):
        for row in range(outputs.shape[2]):
            for column in range(outputs.shape[3]):
                layer.zero_grad()
                layer(x[n : n + 1])[0, 0, row, column].backward()
                patches[n, row, column] = layer.weight.grad[0].flatten()
    gradients = torch.einsum("nohw->nhwo", _output_gradients(outputs))
    rows = _with_ones(patches) if bias else patches
    gradient = torch.einsum("nhwo,nhwi->oi", gradients, rows) / 4
    if sharing == "expand":
        a = torch.einsum("nhwi,nhwj->ij", rows, rows) / rows.shape[:3].numel()
        g = torch.einsum("nhwi,nhwj->ij", gradients, gradients) / 4
    else:
        a = torch.einsum("ni,nj->ij", rows.mean((1, 2)), rows.mean((1, 2))) / 4
        g = torch.einsum("ni,nj->ij", gradients.sum((1, 2)), gradients.sum((1, 2))) / 4
    torch.testing.assert_close(optimizer.factors()["module"].inputs, a)
    torch.testing.assert_close(optimizer.factors()["module"].outputs, g)
    torch.testing.assert_close(_step_matrix(before, layer, bias), kron_solve(a, g, gradient, DAMPING))


class _PatchConv(nn.Conv2d):
    takes_patches = True

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.weight.flatten(1), self.bias)


def test_a_convolution_that_takes_patches_equals_the_one_that_takes_pixels() -> None:
    torch.manual_seed(0)
    pixels = nn.Conv2d(2, 3, 2, stride=2).double()
    patches = _PatchConv(2, 3, 2, stride=2).double()
    patches.load_state_dict(pixels.state_dict())
    x = torch.randn(5, 2, 6, 4, dtype=torch.float64)
    step(plain(pixels, damping=DAMPING), pixels, x, _half_square)
    step(plain(patches, damping=DAMPING), patches, F.unfold(x, 2, stride=2).mT, _half_square)
    torch.testing.assert_close(patches.weight, pixels.weight)
    torch.testing.assert_close(patches.bias, pixels.bias)


def test_a_layer_called_twice_shares_its_weight_over_both_calls() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    together, apart = plain(layer), plain(layer)
    observe(together, layer, x, _half_square)
    observe(apart, lambda x: torch.stack([layer(x[:, 0]), layer(x[:, 1])], 1), x, _half_square)
    for one, two in zip(together.factors()["module"], apart.factors()["module"], strict=True):
        torch.testing.assert_close(one, two)


def test_a_dimension_folded_into_the_batch_counts_as_positions() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2).double(), torch.randn(5, 4, 3, dtype=torch.float64)
    unfolded, folded = plain(layer), plain(layer)
    observe(unfolded, layer, x, _half_square)
    with folded.curvature(batch_size=5) as capture:
        capture.observe(loss=_half_square(layer(x.flatten(0, 1)).view(5, 4, 2)))
    for one, two in zip(unfolded.factors()["module"], folded.factors()["module"], strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("positions", [(), (5,)])
def test_an_in_place_activation_does_not_change_what_is_observed(positions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, *positions, 3, dtype=torch.float64)
    found = []
    for inplace in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 2)).double()
        optimizer = plain(model)
        observe(optimizer, model, x, _half_square)
        found.append(optimizer.factors())
    for name in ("0", "2"):
        assert found[0][name].outputs.trace() > 0
        for one, two in zip(found[0][name], found[1][name], strict=True):
            torch.testing.assert_close(one, two)


def test_moving_averages_weigh_observations_by_the_younger_of_1_over_k_and_the_decay() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2, bias=False).double()
    optimizer = plain(layer, factor_decay=0.6, curvature_interval=1, lr=0.0)
    batches = torch.randn(4, 3, 2, dtype=torch.float64)
    for x in batches:
        step(optimizer, layer, x, _half_square)
    second_moments = torch.einsum("bni,bnj->bij", batches, batches) / 3
    weights = [0.5 * 0.6 * 0.6, 0.5 * 0.6 * 0.6, 0.4 * 0.6, 0.4]  # decays 0, 1/2, min(2/3, 0.6), 0.6
    expected = sum(w * a for w, a in zip(weights, second_moments, strict=True))
    torch.testing.assert_close(optimizer.factors()["module"].inputs, expected)


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), scale=st.floats(0.01, 100), damping=st.floats(0.001, 10))
def test_the_damping_split_keeps_its_product_and_ignores_how_factors_are_scaled(
    rows: int, columns: int, scale: float, damping: float
) -> None:
    torch.manual_seed(rows + 10 * columns)
    a, g = (gram(torch.randn(7, n, dtype=torch.float64))[None] for n in (rows, columns))
    to_a, to_g = damping_split(a, g, damping)
    torch.testing.assert_close(to_a * to_g, torch.full_like(to_a, damping))
    scaled_a, scaled_g = damping_split(a * scale, g / scale, damping)
    torch.testing.assert_close(scaled_a / scale, to_a)
    torch.testing.assert_close(scaled_g * scale, to_g)


def test_singular_factors_get_the_pseudo_inverse_and_sound_ones_beside_them_their_inverse() -> None:
    torch.manual_seed(0)
    singular = gram(torch.randn(2, 5, dtype=torch.float64))
    sound = gram(torch.randn(9, 5, dtype=torch.float64))
    inverses = damped_inverse(torch.stack([singular, sound]), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(inverses[0], torch.linalg.pinv(singular, hermitian=True), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(inverses[1], torch.linalg.inv(sound))
    assert torch.equal(damped_inverse(torch.zeros(1, 3, 3), torch.zeros(1)), torch.zeros(1, 3, 3))


def test_bias_factors_are_exact_for_vectors_and_for_independent_outer_products() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(6, 4, dtype=torch.float64)
    assert torch.equal(bias_factors(vectors).inputs, torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(bias_factors(vectors).outputs, torch.einsum("ni,nj->ij", vectors, vectors) / 6)
    left, right = torch.randn(3, 2, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    # All pairs of left and right parts: independent by construction.
    outer = torch.einsum("xi,yj->xyij", left, right).flatten(0, 1)
    columns, rows = bias_factors(outer)
    exact = torch.einsum("nij,nkl->ijkl", outer, outer) / len(outer)
    torch.testing.assert_close(torch.einsum("ik,jl->ijkl", rows, columns), exact)


@pytest.mark.parametrize("shape", [(300, 200, 100), (7, 5, 3)])
@pytest.mark.parametrize("by_onednn", [True, False])
def test_products_equal_plain_ones_on_either_kernel(
    shape: tuple[int, int, int], by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_ONEDNN", by_onednn)
    torch.manual_seed(0)
    m, k, n = shape
    left, right = torch.randn(m, k), torch.randn(n, k)
    torch.testing.assert_close(
        times_transposed(left, right).double(), left.double() @ right.double().T, rtol=0, atol=1e-3
    )
    torch.testing.assert_close(gram(left).double(), left.double().T @ left.double(), rtol=0, atol=1e-3)
    middle, rows, columns = torch.randn(2, m, n), torch.randn(2, m, m), torch.randn(2, n, n)
    rows, columns = rows + rows.mT, columns + columns.mT
    out = torch.empty_like(middle)
    sandwich(rows, middle, columns, out)
    expected = torch.einsum("bij,bjk,bkl->bil", rows.double(), middle.double(), columns.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-2)
    ready = [packed(matrix, m) for matrix in columns]
    again = torch.empty_like(out)
    sandwich(rows, middle, columns, again, packed=ready)
    assert torch.equal(out, again)
    assert [part is not None for part in ready] == [suits_onednn(columns, m * n * n)] * 2


def test_reduce_of_one_position_is_expand() -> None:
    torch.manual_seed(0)
    a, g = torch.randn(4, 1, 3), torch.randn(4, 1, 2)
    expand, reduce = (kronecker_factors(a, g, sharing=sharing, bias=True) for sharing in ("expand", "reduce"))
    assert all(torch.equal(one, two) for one, two in zip(expand, reduce, strict=True))
