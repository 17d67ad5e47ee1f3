"""K-FAC as one of PyTorch's optimizers: its state, its hooks, its groups, and how misuse is told."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kfac_problems import half_square
from kfac_steps import observe, parameters_of, step
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers import blocks
from tensorrl.optimizers.blocks import LinearCurvature, register_block
from tensorrl.optimizers.damping import LevenbergMarquardt
from tensorrl.optimizers.kfac import KFAC


def _small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2),
        nn.ReLU(inplace=True),
        TensorRegression((4, 2, 2), (6,), rank=(2, 2, 2, 3)),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


def _batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(16, 1, 4, 4, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]


def _train(optimizer: KFAC, net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        with optimizer.curvature() as capture:
            logits = net(x)
            loss = F.cross_entropy(logits, y)
            capture.observe(logits, loss=loss)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if optimizer.damping_due:
            with torch.no_grad():
                optimizer.adapt_damping(loss, F.cross_entropy(net(x), y))
    return losses


def _as_torch_saves(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _as_numpy(tree: Any) -> Any:
    """What a checkpoint that keeps arrays instead of tensors gives back."""
    if isinstance(tree, dict):
        return {key: _as_numpy(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_as_numpy(value) for value in tree]
    return tree.numpy() if isinstance(tree, Tensor) else np.int64(tree) if type(tree) is int else tree


@pytest.mark.parametrize("saved_after", [1, 7, 11])
@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("damping", [0.01, LevenbergMarquardt(initial=0.1, interval=2)])
@pytest.mark.parametrize("through", [_as_torch_saves, _as_numpy])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    through: Callable[[dict[str, Any]], dict[str, Any]], damping: Any, overlap: int, saved_after: int
) -> None:
    options = {"lr": 0.05, "damping": damping, "curvature_interval": 3, "inverse_interval": 5, "overlap": overlap}
    batches, net = _batches(18), _small_net()
    optimizer = KFAC(net, **options)
    _train(optimizer, net, batches[:saved_after])
    state = through(optimizer.state_dict())
    resumed_net = _small_net()
    resumed_net.load_state_dict(net.state_dict())
    resumed = KFAC(resumed_net, **options)
    resumed.load_state_dict(state)
    losses = [_train(*pair, batches[saved_after:]) for pair in ((optimizer, net), (resumed, resumed_net))]
    assert losses[0] == losses[1]
    for one, two in zip(net.parameters(), resumed_net.parameters(), strict=True):
        assert torch.equal(one, two)
    ours, theirs = optimizer.state_dict()["kfac"], resumed.state_dict()["kfac"]
    for name, block in ours["blocks"].items():
        for key, value in block.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs["blocks"][name][key]))
    assert {key: ours[key] for key in ("steps", "observations", "damping")} == {
        key: theirs[key] for key in ("steps", "observations", "damping")
    }


def test_a_state_is_a_copy_and_foreign_ones_are_refused() -> None:
    net = _small_net()
    optimizer = KFAC(net, lr=0.1)
    _train(optimizer, net, _batches(1))
    state = optimizer.state_dict()
    kept = state["kfac"]["blocks"]["4"]["row_factors"].clone()
    _train(optimizer, net, _batches(12))
    assert torch.equal(state["kfac"]["blocks"]["4"]["row_factors"], kept)
    other = nn.Linear(2, 2)
    with pytest.raises(InputError, match="blocks differ"):
        KFAC(other, lr=0.1).load_state_dict(state)
    with pytest.raises(InputError, match="not of KFAC"):
        KFAC(other, lr=0.1).load_state_dict(torch.optim.SGD(other.parameters(), lr=0.1).state_dict())


def test_refreshing_on_another_thread_takes_inverses_over_on_the_same_step_every_time() -> None:
    def run(overlap: int) -> list[float]:
        net = _small_net()
        optimizer = KFAC(net, lr=0.1, overlap=overlap, curvature_interval=2, inverse_interval=4)
        losses = _train(optimizer, net, _batches(15))
        optimizer.close()
        return losses

    assert run(2) == run(2)
    assert run(2)[:3] == run(0)[:3]  # the refresh of step 2 comes into use at step 4
    assert run(2) != run(0)


def test_hooks_live_only_inside_an_active_curvature_context() -> None:
    net, (x, _) = _small_net(), _batches(1)[0]
    optimizer = KFAC(net, lr=0.1, curvature_interval=2)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in net.modules())

    assert hooks() == 0
    with optimizer.curvature() as capture:
        assert capture.active
        assert hooks() == 3
        logits = net(x)
        capture.observe(logits)
    assert hooks() == 0
    logits.sum().backward()
    optimizer.step()
    with optimizer.curvature() as capture:
        assert not capture.active
        assert hooks() == 0
        capture.observe(net(x))
    net(x).sum().backward()
    optimizer.step()
    with pytest.raises(KeyError), optimizer.curvature():
        raise KeyError
    assert hooks() == 0
    optimizer.curvature().__enter__()
    assert hooks() == 3
    optimizer.close()
    assert hooks() == 0
    with pytest.raises(InputError, match="after close"):
        optimizer.step()


def test_observing_leaves_gradients_and_passes_without_gradients_alone() -> None:
    net, (x, _) = _small_net(), _batches(1)[0]
    optimizer, reference = KFAC(net, lr=0.1), KFAC(net, lr=0.1)
    with optimizer.curvature() as capture:
        with torch.no_grad():
            net(100 * x)
        capture.observe(net(x))
    assert all(p.grad is None for p in net.parameters())
    with reference.curvature() as capture:
        capture.observe(net(x))
    for name, factors in reference.factors().items():
        for one, two in zip(factors, optimizer.factors()[name], strict=True):
            assert torch.equal(one, two)


def test_curvature_is_due_every_interval_and_until_first_seen() -> None:
    net = _small_net()
    optimizer, due = KFAC(net, lr=0.1, curvature_interval=4), []
    for batch in _batches(9):
        due.append(optimizer.curvature_due)
        _train(optimizer, net, [batch])
    assert due == [True, False, False, False, True, False, False, False, True]


def test_schedulers_closures_and_groups_work_as_with_any_optimizer() -> None:
    net, (x, y) = _small_net(), _batches(1)[0]
    frozen_lr = parameters_of(net)
    optimizer = KFAC(
        net,
        lr=0.1,
        groups=[{"params": [*net[0].parameters(), *net[2].parameters()]}, {"params": net[4].parameters(), "lr": 0.0}],
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda k: 0.5**k, lambda k: 1.0])

    def closure() -> Tensor:
        return observe(optimizer, net, x, lambda logits: F.cross_entropy(logits, y))

    first = optimizer.step(closure)
    assert isinstance(first, Tensor)
    assert torch.equal(net[4].weight, frozen_lr["4.weight"])
    assert not torch.equal(net[0].weight, frozen_lr["0.weight"])
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.0]
    for _ in range(20):
        last = optimizer.step(closure)
    assert last < first


def test_each_group_takes_its_own_learning_rate_as_a_number_or_a_tensor() -> None:
    results = []
    for lr in (0.2, torch.tensor(0.2)):
        net, (x, _) = _small_net(), _batches(1)[0]
        before = parameters_of(net)
        options = {"kl_clip": None, "momentum": 0.0, "damping": 0.1}
        optimizer = KFAC(
            net, lr=lr, groups=[{"params": net[:3].parameters()}, {"params": net[4].parameters(), "lr": 0.4}], **options
        )
        step(optimizer, net, x, half_square)
        results.append({name: p.detach() - before[name] for name, p in net.named_parameters()})
    net, (x, _) = _small_net(), _batches(1)[0]
    step(KFAC(net, lr=0.1, **options), net, x, half_square)
    for name, p in net.named_parameters():
        torch.testing.assert_close(results[0][name], results[1][name])
        torch.testing.assert_close(results[0][name], (p.detach() - before[name]) * (4 if name.startswith("4") else 2))


def test_parameters_without_a_block_are_an_error_that_names_them_or_the_fallback_s() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    with pytest.raises(InputError, match=r"1\.weight, 1\.bias: no curvature block"):
        KFAC(net, lr=0.1)
    with pytest.raises(InputError, match="'adam'"):
        KFAC(net, lr=0.1, fallback="adma")
    with pytest.raises(InputError, match="nothing to do"):
        KFAC(nn.LayerNorm(3), lr=0.1, fallback="sgd")
    before = parameters_of(net)
    optimizer = KFAC(net, lr=0.1, fallback=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    x = torch.randn(8, 4)
    step(optimizer, net, x, half_square)
    # Adam's first step is its learning rate times the gradient's sign, its ε aside.
    expected = before["1.bias"] - 0.02 * net[1].bias.grad.sign()
    torch.testing.assert_close(net[1].bias.detach(), expected, rtol=0, atol=1e-5)
    assert not torch.equal(net[0].weight, before["0.weight"])

    for _ in range(2):
        step(optimizer, net, x, half_square)
    twin = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    twin.load_state_dict(net.state_dict())
    resumed = KFAC(twin, lr=0.1, fallback="adam")
    resumed.load_state_dict(_as_torch_saves(optimizer.state_dict()))
    for one, model in ((optimizer, net), (resumed, twin)):
        one.param_groups[1]["lr"] = 0.01  # as a scheduler or RLlib would
        step(one, model, x, half_square)
    assert torch.equal(net[1].weight, twin[1].weight)
    assert torch.equal(net[0].weight, twin[0].weight)


class _Scale(nn.Module):
    """A layer type of a user's own: no nn.Linear, but linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def test_a_registered_layer_type_has_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_REGISTRY", dict(blocks._REGISTRY))
    layer = _Scale()
    with pytest.raises(InputError, match="nothing to do"):
        KFAC(layer, lr=0.1, fallback="sgd")
    register_block(_Scale, LinearCurvature)
    assert list(KFAC(layer, lr=0.1).factors()) == ["module"]


@pytest.mark.gpu
def test_a_captured_cuda_graph_applies_steps_with_refreshed_inverses_and_changed_learning_rate() -> None:
    def run(captured: bool) -> list[Tensor]:
        net = _small_net().cuda()
        batches = [(x.cuda(), y.cuda()) for x, y in _batches(9)]
        lr, x, y = torch.tensor(0.05, device="cuda"), batches[0][0].clone(), batches[0][1].clone()
        optimizer = KFAC(net, lr=lr, curvature_interval=3, inverse_interval=3)

        def backward() -> None:
            F.cross_entropy(net(x), y).backward()

        def observed() -> None:
            with optimizer.curvature() as capture:
                capture.observe(net(x))

        observed()
        optimizer.zero_grad()
        backward()
        optimizer.prepare()
        graph = torch.cuda.CUDAGraph()
        if captured:
            before = parameters_of(net)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    optimizer.zero_grad()
                    backward()
                    optimizer.apply()
            torch.cuda.current_stream().wait_stream(stream)
            optimizer.zero_grad()
            with torch.cuda.graph(graph):
                backward()
                optimizer.apply()
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    parameter.copy_(before[name])
            for flat in optimizer._blocks._flats:
                flat.momenta.zero_()
        for k, batch in enumerate(batches):
            x.copy_(batch[0])
            y.copy_(batch[1])
            lr.fill_(0.05 / (1 + k))
            observed()
            optimizer.prepare()
            if captured:
                graph.replay()
            else:
                optimizer.zero_grad()
                backward()
                optimizer.apply()
        return [p.detach().clone() for p in net.parameters()]

    for one, two in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"damping": -1.0}, "damping"),
        ({"factor_decay": 1.0}, "factor_decay"),
        ({"curvature_interval": 0}, "curvature_interval"),
        ({"inverse_interval": 0}, "inverse_interval"),
        ({"overlap": 100}, "overlap"),
        ({"kl_clip": 0.0}, "kl_clip"),
        ({"fisher": "sampeld"}, "did you mean 'sampled'"),
        ({"sharing": "expnd"}, "did you mean 'expand'"),
        ({"likelihood": "gausian"}, "did you mean 'gaussian'"),
        ({"groups": [{"params": [nn.Parameter(torch.zeros(2))]}]}, "does not have"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KFAC(nn.Linear(2, 2), **{"lr": 0.1, **options})


def test_misuse_is_told() -> None:
    layer, x = nn.Linear(2, 3), torch.randn(4, 2)
    optimizer = KFAC(layer, lr=0.1)
    layer(x).sum().backward()
    with pytest.raises(InputError, match="no curvature observed"):
        optimizer.step()
    with pytest.raises(InputError, match="without a call of observe"), optimizer.curvature():
        layer(x)
    with pytest.raises(InputError, match="needs the model's outputs"), optimizer.curvature() as capture:
        capture.observe(loss=layer(x).sum())
    with pytest.raises(InputError, match="no layer with curvature ran"), optimizer.curvature() as capture:
        capture.observe(torch.randn(4, 3, requires_grad=True))
    with pytest.raises(InputError, match="not a multiple"), optimizer.curvature(batch_size=3) as capture:
        capture.observe(layer(x))
    with pytest.raises(InputError, match="fixed when it is made"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(InputError, match="different groups"):
        KFAC(layer, lr=0.1, groups=[{"params": [layer.weight]}, {"params": [layer.bias]}])
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="shared by 0 and 1"):
        KFAC(tied, lr=0.1)
    with pytest.raises(InputError, match="groups=1"):
        KFAC(nn.Conv2d(4, 4, 3, groups=2), lr=0.1)
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(optimizer)
