"""Layers as users call and wrap them: what K-FAC takes, what goes to the fallback, and what is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kfac_problems import half_square
from kfac_steps import parameters_of, step
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers import coverage, kfac
from tensorrl.optimizers.kfac import KFAC

_WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": torch.nn.utils.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", amount=0.3),
}


def _first_layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"linear": nn.Linear(8, 5), "conv": nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 5, 2))}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("wrap", sorted(_WRAPS))
def test_a_layer_whose_weight_is_computed_goes_to_the_fallback_or_is_one_line(wrap: str, kind: str) -> None:
    first = _first_layers()[kind]
    _WRAPS[wrap](first if kind == "linear" else first[1])
    net = nn.Sequential(first, nn.Flatten(), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(InputError, match="computed from other parameters") as refused:
        KFAC(net, lr=0.1)
    assert "\n" not in str(refused.value)
    optimizer, x = KFAC(net, lr=0.1, fallback="adam"), torch.randn(16, 8)
    assert list(optimizer.factors()) == ["3"]
    before = parameters_of(net)
    for _ in range(2):
        step(optimizer, net, x, half_square)
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_a_regression_layer_with_a_parametrised_factor_and_a_grouped_convolution_do_too() -> None:
    layer = TensorRegression((4, 2), (6,), rank=(2, 2, 3))
    nn.utils.parametrize.register_parametrization(layer, "factor_2", nn.Softplus())
    grouped = nn.Conv2d(4, 4, 3, groups=2)
    for bad, message in ((layer, "factor_2 is computed"), (grouped, "groups=1")):
        with pytest.raises(InputError, match=message):
            KFAC(bad, lr=0.1)
    net = nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (4, 2)), layer)
    optimizer = KFAC(net, lr=0.1, fallback="adam")
    assert list(optimizer.factors()) == ["0"]
    step(optimizer, net, torch.randn(4, 8), half_square)


def test_what_has_no_weights_yet_or_is_never_called_is_told() -> None:
    with pytest.raises(InputError, match="LazyLinear: has no weights yet"):
        KFAC(nn.LazyLinear(3), lr=0.1)
    net = nn.ModuleList([nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)])

    def model(x: Tensor) -> Tensor:
        return net[1](net[0](x, x, x, need_weights=False)[0])[:, 0]

    with pytest.raises(InputError, match="without calling it"):
        KFAC(net, lr=0.1)
    optimizer, before = KFAC(net, lr=0.1, fallback="adam"), parameters_of(net)
    for _ in range(2):
        step(optimizer, model, torch.randn(8, 3, 4), half_square)
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


class _Calls(nn.Module):
    """Two layers, called in one of the ways that give the same outputs."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.second = nn.Linear(5, 4).double(), TensorRegression((4,), (3,), rank=(3, 2)).double()

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "by name":
            return self.second(x=self.first(input=x).tanh())
        if self.way == "checkpointed":
            return checkpoint(lambda x: self.second(self.first(x).tanh()), x, use_reentrant=False)
        if self.way == "one by one":
            return torch.stack([self.second(self.first(row).tanh()) for row in x])
        if self.way == "wrapped":
            return nn.DataParallel(nn.Sequential(self.first, nn.Tanh(), self.second))(x)
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize("way", ["by name", "checkpointed", "one by one", "wrapped"])
def test_however_layers_are_called_the_curvature_is_the_same(way: str) -> None:
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    factors = []
    for kind in ("plainly", way):
        net = _Calls(kind)
        optimizer = KFAC(net, lr=0.1, fisher="empirical")
        with optimizer.curvature(batch_size=6) as capture:
            capture.observe(loss=half_square(net(x)))
        factors.append(optimizer.factors())
    for name, pair in factors[0].items():
        for one, two in zip(pair, factors[1][name], strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore:KFAC. no curvature observed of 4")
def test_steps_have_the_same_bits_where_parameters_lie_whole_beside_the_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, and as on a CPU: a weight beside its bias, weights without one, a parameter without a gradient."""

    def trained(dense: bool) -> dict[str, Tensor]:
        def lay_out(*args: Any, **options: Any) -> Any:
            return coverage.lay_out(*args, **{**options, "dense": dense})

        torch.manual_seed(0)
        unused = nn.Linear(2, 2)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.Flatten(),
            nn.Linear(48, 6, bias=False),
            TensorRegression((2, 3), (4,), rank=2),
            unused,
        )
        model[3].register_forward_pre_hook(lambda _, x: (x[0].view(-1, 2, 3),))
        model.forward = lambda x: model[3](model[2](model[1](model[0](x))))  # type: ignore[method-assign]
        with monkeypatch.context() as patch:
            patch.setattr(kfac, "lay_out", lay_out)
            optimizer = KFAC(model, lr=0.1, momentum=0.9, weight_decay=1e-3, trust_region=0.1)
        for _ in range(3):
            step(optimizer, model, torch.randn(8, 2, 6, 6), half_square)
        return parameters_of(model)

    whole, beside = trained(True), trained(False)
    assert [name for name in whole if not torch.equal(whole[name], beside[name])] == []
    assert len(whole) > 8
