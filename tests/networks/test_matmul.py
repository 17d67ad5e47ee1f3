import pytest
import torch
from torch.nn import functional as F

from tensorrl.networks import matmul
from tensorrl.networks.matmul import ONEDNN_FROM, linear, suits_onednn, times_transposed


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"], autouse=True)
def by_onednn(request, monkeypatch):
    """Large products by either library, whatever the processor's maker is."""
    monkeypatch.setattr(matmul, "_ONEDNN", request.param)
    return request.param


@pytest.mark.parametrize("shape", [(4, 300, 100), (400, 64), (2, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_its_gradients_equal_the_exact_ones(shape, bias, by_onednn):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(96, shape[-1], generator=generator)
    offset = torch.randn(96, generator=generator) if bias else None
    large = x.numel() * 96 >= ONEDNN_FROM
    assert large == (shape != (2, 8))
    assert suits_onednn(x, x.numel() * 96) == (large and by_onednn)

    def run(dtype, function):
        leaves = [t.detach().clone().to(dtype).requires_grad_() for t in (x, weight, offset) if t is not None]
        out = function(*leaves) if bias else function(*leaves, None)
        (out * torch.arange(96).to(dtype)).sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    for ours, exact in zip(run(torch.float32, linear), run(torch.float64, F.linear), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


def test_large_products_under_function_transforms_equal_plain_ones():
    x, weight = torch.randn(400, 64), torch.randn(96, 64)
    expected = torch.func.grad(lambda w: F.linear(x, w).square().sum())(weight)
    got = torch.func.grad(lambda w: linear(x, w, None).square().sum())(weight)
    torch.testing.assert_close(got, expected)


def test_rows_with_gaps_between_them_are_multiplied_too():
    wide, weight = torch.randn(64, 1024), torch.randn(256, 512)
    left = wide[:, :512]
    torch.testing.assert_close(times_transposed(left, weight), left.contiguous() @ weight.T, rtol=1e-4, atol=1e-3)
