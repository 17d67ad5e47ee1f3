"""Tensor regression blocks against per-example Jacobians, with the layer written as one einsum over labelled axes.

For every factor the sum is split where the factor acts: `before` it everything that it is applied to, `after` it the
rest. Giving each position its own copy of the factor and differentiating by it is the weight-sharing view that the
Kronecker approximation starts from (Eschenhagen et al. 2023, section 3), by brute force.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kfac_steps import observe, plain
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import rank_limits

N = "n"  # the batch's label


@dataclass
class Labelled:
    tensor: Tensor
    labels: tuple[str, ...]


@dataclass
class Split:
    """One parameter's place: what comes before and after, and its axes in and out."""

    own: Labelled
    into: tuple[str, ...]
    before: list[Labelled]
    after: list[Labelled]

    @property
    def out(self) -> tuple[str, ...]:
        return tuple(label for label in self.own.labels if label not in self.into)


def _einsum(terms: list[Labelled], out: tuple[str, ...]) -> Tensor:
    numbers = {label: k for k, label in enumerate(sorted({label for term in terms for label in term.labels}))}
    operands = [part for term in terms for part in (term.tensor, [numbers[label] for label in term.labels])]
    return torch.einsum(*operands, [numbers[label] for label in out])


def _splits(layer: TensorRegression) -> list[Split]:
    """The splits that `tensorrl.optimizers.modes` documents, in the order of its blocks."""
    modes_in, modes_out = len(layer.in_shape), len(layer.out_shape)
    i = [f"i{k}" for k in range(modes_in)]
    o = [f"o{k}" for k in range(modes_out)]
    factors = [f.detach() for f in layer.factors]
    if layer.factorization == "tucker":
        r, s = [f"r{k}" for k in range(modes_in)], [f"s{k}" for k in range(modes_out)]
        u = [Labelled(factors[k], (i[k], r[k])) for k in range(modes_in)]
        v = [Labelled(factors[modes_in + j], (o[j], s[j])) for j in range(modes_out)]
        core = Labelled(layer.core.detach(), (*r, *s))
        splits = [Split(u[k], (i[k],), u[:k] + u[k + 1 :], [core, *v]) for k in range(modes_in)]
        splits += [Split(v[j], (s[j],), [*u, core], v[:j] + v[j + 1 :]) for j in range(modes_out)]
        return [*splits, Split(core, tuple(r), u, v)]
    if layer.factorization == "cp":
        u = [Labelled(factors[k], (i[k], "r")) for k in range(modes_in)]
        v = [Labelled(factors[modes_in + j], (o[j], "r")) for j in range(modes_out)]
        splits = [Split(u[k], (i[k],), [], u[:k] + u[k + 1 :] + v) for k in range(modes_in)]
        return splits + [Split(v[j], ("r",), u + v[:j] + v[j + 1 :], []) for j in range(modes_out)]
    cores = [
        Labelled(f, (f"b{k}", label, f"b{k + 1}")) for k, (f, label) in enumerate(zip(factors, i + o, strict=True))
    ]
    # The outermost bonds have one value: x carries the first, the last is summed away at the end.
    return [
        Split(core, core.labels[:2] if k < modes_in else core.labels[:1], cores[:k], cores[k + 1 :])
        for k, core in enumerate(cores)
    ]


def _positions_of(layer: TensorRegression, split: Split) -> tuple[str, ...]:
    """What the input of the factor carries besides its own axes, the batch's aside."""
    carried = {f"i{k}" for k in range(len(layer.in_shape))} | ({"b0"} if layer.factorization == "tt" else set())
    kept = set(split.own.labels) | {label for term in split.after for label in term.labels}
    kept |= {f"o{k}" for k in range(len(layer.out_shape))}
    reach = carried | {label for term in split.before for label in term.labels}
    return tuple(sorted((reach & kept) - set(split.own.labels)))


def _brute_force(layer: TensorRegression, split: Split, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (n, positions, in), output gradients (n, positions, out) and per-position Jacobians (n, p, out, in)."""
    lead = [x[:, None]] if layer.factorization == "tt" else [x]
    x_labels = (N, *(["b0"] if layer.factorization == "tt" else []), *(f"i{k}" for k in range(len(layer.in_shape))))
    positions = _positions_of(layer, split)
    inside = _einsum([Labelled(lead[0], x_labels), *split.before], (N, *positions, *split.into))
    sizes = inside.shape[: 1 + len(positions)]
    copies = split.own.tensor.expand(*sizes, *split.own.tensor.shape).clone().requires_grad_()
    spread = Labelled(copies, (N, *positions, *split.own.labels))
    # A label that the factor shares with what follows stays, even where it is also an input (CP's terms).
    passed = _einsum([Labelled(inside, (N, *positions, *split.into)), spread], (N, *positions, *split.out))
    passed.retain_grad()
    outs = tuple(f"o{k}" for k in range(len(layer.out_shape)))
    outputs = _einsum([Labelled(passed, (N, *positions, *split.out)), *split.after], (N, *outs))
    (outputs * g).sum().backward()
    batch, count = sizes[0], math.prod(sizes[1:])
    order = [split.own.labels.index(label) for label in (*split.out, *split.into)]
    lead_axes = list(range(len(sizes)))
    jacobians = copies.grad.permute(*lead_axes, *(len(sizes) + k for k in order))
    fan_in = math.prod(split.own.tensor.shape[split.own.labels.index(label)] for label in split.into)
    return (
        inside.reshape(batch, count, fan_in),
        passed.grad.reshape(batch, count, -1),
        jacobians.reshape(batch, count, -1, fan_in),
    )


@st.composite
def layers(draw: st.DrawFn) -> TensorRegression:
    in_shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    out_shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    factorization = draw(st.sampled_from(["tucker", "cp", "tt"]))
    limits = rank_limits(tuple(in_shape), tuple(out_shape), factorization)
    rank = tuple(draw(st.integers(1, min(limit, 4))) for limit in limits)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return TensorRegression(
        in_shape, out_shape, factorization=factorization, rank=rank, dtype=torch.float64, generator=generator
    )


@settings(max_examples=40)
@given(layer=layers(), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_blocks_equal_per_example_jacobians_shared_over_positions(
    layer: TensorRegression, batch: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *layer.in_shape, dtype=torch.float64, generator=generator)
    g = torch.randn(batch, *layer.out_shape, dtype=torch.float64, generator=generator)
    optimizer = plain(layer)
    observe(optimizer, layer, x, lambda outputs: (outputs * g).flatten(1).sum(1).mean())

    weights = {id(p): name for name, p in layer.named_parameters()}
    per_example = vmap(
        grad(lambda parameters, x, g: (functional_call(layer, parameters, (x[None],))[0] * g).sum()),
        in_dims=(None, 0, 0),
    )({name: p.detach() for name, p in layer.named_parameters()}, x, g)
    trained = [*layer.factors, *([] if layer.core is None else [layer.core])]
    names = [f"module.factors.{k}" for k in range(len(layer.factors))] + ["module.core"]
    for split, parameter, name in zip(_splits(layer), trained, names, strict=False):
        inputs, gradients, jacobians = _brute_force(layer, split, x, g)
        # Each position's Jacobian is an outer product, and they add up to the layer's own, by another route.
        torch.testing.assert_close(jacobians, torch.einsum("npo,npi->npoi", gradients, inputs))
        order = [split.own.labels.index(label) for label in (*split.out, *split.into)]
        own = (
            per_example[weights[id(parameter)]].permute(0, *(1 + k for k in order)).reshape(batch, *jacobians.shape[2:])
        )
        torch.testing.assert_close(jacobians.sum(1), own)
        a = torch.einsum("npi,npj->ij", inputs, inputs) / inputs.shape[:2].numel()
        b = torch.einsum("npi,npj->ij", gradients, gradients) / batch
        torch.testing.assert_close(optimizer.factors()[name].inputs, a)
        torch.testing.assert_close(optimizer.factors()[name].outputs, b)


@settings(max_examples=30)
@given(layer=layers(), seed=st.integers(0, 99))
def test_every_parameter_of_the_layer_has_a_block_and_moves(layer: TensorRegression, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, *layer.in_shape, dtype=torch.float64, generator=generator)
    before = [p.detach().clone() for p in layer.parameters()]
    optimizer = plain(layer, damping=0.1, lr=0.1)
    observe(optimizer, layer, x, lambda outputs: (0.5 * (outputs - 3) ** 2).flatten(1).sum(1).mean())
    optimizer.step()
    moved = [not torch.equal(p.detach(), old) for p, old in zip(layer.parameters(), before, strict=True)]
    assert moved == [bool((p.grad != 0).any()) for p in layer.parameters()]
    assert any(moved)


def test_the_core_of_a_tucker_layer_has_the_exact_block_of_one_example() -> None:
    torch.manual_seed(0)
    layer = TensorRegression((3, 2), (4, 2), rank=(2, 2, 3, 2), dtype=torch.float64)
    x, g = torch.randn(1, 3, 2, dtype=torch.float64), torch.randn(1, 4, 2, dtype=torch.float64)
    optimizer = plain(layer)
    observe(optimizer, layer, x, lambda outputs: (outputs * g).flatten(1).sum(1).mean())
    a, b = optimizer.factors()["module.core"]
    gradient = layer.core.grad.reshape(4, 6)
    exact = torch.einsum("ij,kl->ijkl", gradient, gradient)
    torch.testing.assert_close(torch.einsum("ik,jl->ijkl", a, b), exact)


def test_axes_before_the_modes_are_further_positions() -> None:
    torch.manual_seed(0)
    layer = TensorRegression((3, 2), (2, 2), rank=(2, 2, 2, 1), dtype=torch.float64)
    x = torch.randn(4, 5, 3, 2, dtype=torch.float64)
    folded, unfolded = plain(layer), plain(layer)
    observe(unfolded, layer, x, lambda y: (y**2).flatten(1).sum(1).mean())
    with folded.curvature(batch_size=4) as capture:
        capture.observe(loss=(layer(x.flatten(0, 1)) ** 2).view(4, -1).sum(1).mean())
    for name in ("module.factors.0", "module.factors.3", "module.core"):
        for one, two in zip(unfolded.factors()[name], folded.factors()[name], strict=True):
            torch.testing.assert_close(one, two)
