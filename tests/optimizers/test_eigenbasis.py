"""EKFAC: second moments in the eigenbasis, against their definition, example by example, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kfac_steps import check_resume, observe, parameters_of
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.blocks import LayerCurvature, LinearCurvature
from tensorrl.optimizers.kfac import KFAC

OPTIONS: dict[str, Any] = {"lr": 0.1, "damping": 0.02, "kl_clip": None, "momentum": 0.0, "eigenbasis": True}
CNN = {"curvature_interval": 1, "inverse_interval": 1_000, "fisher": "empirical"}


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2, stride=2),
        nn.Tanh(),
        TensorRegression((3, 2, 2), (2, 5), rank=(2, 2, 2, 2, 3)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(10, 4, bias=False),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()


def _batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    draw = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(8, 1, 4, 4, **draw), torch.randint(3, (8,), generator=generator)) for _ in range(count)]


def _observe(optimizer: KFAC, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    observe(optimizer, net, batch[0], lambda logits: F.cross_entropy(logits, batch[1]))


def _bases(optimizer: KFAC) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = optimizer.state_dict()["kfac"]["blocks"]
    return state


def _matrices(optimizer: KFAC, gradients: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    """Each block's matrix (rows, columns) of gradients that are given by parameter."""
    found = {}
    for stack in optimizer._blocks.stacks:
        for block in stack.blocks:
            matrix = torch.zeros(block.rows, block.columns, dtype=torch.float64)
            for view, parameter in zip(block.views(matrix), block.parameters, strict=True):
                view.copy_(gradients[parameter])
            found[block.name] = matrix
    return found


def test_second_moments_are_those_of_single_examples_gradients_and_the_step_divides_by_them() -> None:
    net, optimizer = _net(), None
    optimizer = KFAC(net, **OPTIONS, **CNN)
    # Bases are taken after the 1st, 2nd and 4th observation: the third meets those of the second.
    for batch in _batches(2):
        _observe(optimizer, net, batch)
        optimizer.step()
    before, old = parameters_of(net), _bases(optimizer)
    x, y = _batches(3)[2]
    examples = []
    for row in range(len(x)):
        parameters = list(net.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(net(x[row : row + 1]), y[row : row + 1]), parameters)
        examples.append(_matrices(optimizer, dict(zip(parameters, gradients, strict=True))))
    _observe(optimizer, net, (x, y))
    gradients = _matrices(optimizer, {p: p.grad for p in net.parameters()})  # type: ignore[dict-item, misc]
    optimizer.step()
    now = _bases(optimizer)
    steps = _matrices(optimizer, {p: (p.detach() - before[name]) / -0.1 for name, p in net.named_parameters()})
    assert len(now) == 10
    for name, state in now.items():
        rows, columns = state["row_inverses"], state["column_inverses"]
        assert torch.equal(rows, old[name]["row_inverses"])
        seen = torch.stack([(rows.T @ example[name] @ columns).square() for example in examples]).mean(0)
        wanted = old[name]["scalings"] + (seen - old[name]["scalings"]) / 3
        torch.testing.assert_close(state["scalings"], wanted)
        step = rows @ ((rows.T @ gradients[name] @ columns) / (wanted + 0.02)) @ columns.T
        torch.testing.assert_close(steps[name], step)
        # Orthogonal, and eigenvectors of the factors as they were when the basis was taken.
        torch.testing.assert_close(rows.T @ rows, torch.eye(len(rows), dtype=torch.float64))
        turned = rows.T @ old[name]["row_factors"] @ rows
        torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-10)


def test_a_new_basis_takes_second_moments_along_and_the_first_are_products_of_eigenvalues() -> None:
    net = _net()
    optimizer = KFAC(net, **OPTIONS, **CNN)
    first, second = _batches(2)
    _observe(optimizer, net, first)
    optimizer.step()
    old = _bases(optimizer)
    for state in old.values():
        values = [torch.linalg.eigvalsh(state[name]).clamp(min=0) for name in ("row_factors", "column_factors")]
        torch.testing.assert_close(state["scalings"], torch.outer(*values))
    # Curvature that is diagonal in the old basis, as the same matrix seen from the new one.
    _observe(optimizer, net, second)
    met = _bases(optimizer)
    optimizer.step()
    for name, state in _bases(optimizer).items():
        curvature, turn = (
            torch.kron(parts[name]["row_inverses"], parts[name]["column_inverses"]) for parts in (old, {name: state})
        )
        whole = curvature @ met[name]["scalings"].flatten().diag() @ curvature.T
        torch.testing.assert_close(state["scalings"].flatten(), (turn.T @ whole @ turn).diagonal())


def test_with_one_example_the_basis_has_one_direction_of_curvature() -> None:
    torch.manual_seed(0)
    layer, x, y = nn.Linear(4, 3).double(), torch.randn(1, 4, dtype=torch.float64), torch.tensor([2])
    optimizer = KFAC(layer, fisher="empirical", **OPTIONS)
    observe(optimizer, layer, x, lambda logits: F.cross_entropy(logits, y))
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)  # type: ignore[list-item, index]
    before = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().clone()
    optimizer.step()
    step = (torch.cat([layer.weight, layer.bias[:, None]], 1).detach() - before) / -0.1
    size = float(gradient.square().sum())
    torch.testing.assert_close(step, gradient / (size + 0.02))
    figures = optimizer.figures()
    assert figures["directions"] == pytest.approx(size / (size + 0.02))
    assert figures["step_divergence"] == pytest.approx(0.01 * (size / (size + 0.02)) ** 2 / 2)


@pytest.mark.parametrize("saved_after", [2, 5])
@pytest.mark.parametrize("more", [{}, {"relative_damping": True, "capturable": True, "momentum": 0.9}])
def test_it_resumes_to_the_same_bits(saved_after: int, more: dict[str, Any]) -> None:
    options = {**OPTIONS, "curvature_interval": 2, "inverse_interval": 3, **more}
    batches, nets = _batches(11), (_net(), _net())

    def step(optimizer: KFAC, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        observe(optimizer, net, batch[0], lambda logits: F.cross_entropy(logits, batch[1]))
        optimizer.step()

    whole = check_resume(nets, options, batches, step, saved_after)
    # A layer begun anew stands still without an observation, and has a basis of its own after the next.
    whole.restart(nets[0][7].parameters())
    assert not _bases(whole)["7"]["scalings"].any()
    step(whole, nets[0], batches[0])
    assert _bases(whole)["7"]["scalings"].any()


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(InputError, match="overlap: 1, must be 0 with eigenbasis"):
        KFAC(nn.Linear(2, 2), lr=0.1, eigenbasis=True, overlap=1)
    layer = nn.Linear(2, 2)
    optimizer = KFAC(layer, lr=0.1, eigenbasis=True)
    with pytest.raises(InputError, match="state_dict: module has no reciprocals, it is of other options"):
        optimizer.load_state_dict(KFAC(layer, lr=0.1).state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearCurvature, "examples", LayerCurvature.examples)
        with pytest.raises(InputError, match="eigenbasis needs the method `examples` of LinearCurvature"):
            observe(optimizer, layer, torch.randn(3, 2), lambda outputs: outputs.square().mean())
