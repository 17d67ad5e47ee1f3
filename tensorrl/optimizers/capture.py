"""What curvature steps see: layers' inputs and the gradients at their outputs, by hooks that live only that long."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from tensorrl.errors import InputError
from tensorrl.optimizers.blocks import LayerCurvature
from tensorrl.optimizers.curvature import KroneckerFactors, Sharing

FisherLoss = Callable[[Tensor | None, Tensor | None, Tensor | None], Tensor]
"""(outputs, loss, weights) → the scalar whose gradients at the layers' outputs make the factors."""


class _Call(NamedTuple):
    inputs: Tensor
    output: GradientEdge
    single: bool
    """Whether it took one example, without a batch."""


class Capture:
    """The context of one forward pass whose curvature is to be observed; made by `KFAC.curvature`.

    Forward hooks are registered on entry and removed on exit. They keep each layer's input and the place of its output
    in the graph *before* anything works on it in place, so an in-place ReLU does no harm. A capture that is not
    `active` registers nothing, and its `observe` does nothing.

    Attributes:
        active: whether this step observes curvature.
    """

    def __init__(
        self,
        layers: Mapping[nn.Module, LayerCurvature],
        *,
        active: bool,
        fisher_loss: FisherLoss,
        sharing: Sharing,
        batch_size: int | None,
        absorb: Callable[[dict[LayerCurvature, list[KroneckerFactors]]], None],
        sample: Callable[[LayerCurvature, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.active = active
        self._layers, self._fisher_loss, self._sharing, self._batch_size = layers, fisher_loss, sharing, batch_size
        self._absorb, self._sample = absorb, sample
        self._handles: list[RemovableHandle] = []
        self._calls: list[tuple[LayerCurvature, _Call]] = []
        self._sums: dict[LayerCurvature, list[KroneckerFactors]] = {}
        self._observations = 0
        self._observing = False

    def __enter__(self) -> Capture:
        if self.active:
            self._handles = [layer.register_forward_hook(self._keep, with_kwargs=True) for layer in self._layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        if not self.active or kind is not None:
            return
        if not self._observations:
            raise InputError("curvature(): left without a call of observe(outputs) or observe(loss=loss)")
        self._absorb({layer: [_scaled(f, 1 / self._observations) for f in sums] for layer, sums in self._sums.items()})

    def release(self) -> None:
        """Removes the hooks and forgets what they kept."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._calls = [], []

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Tensor | None:
        # Passes without gradients (a target's) and those that activation checkpointing repeats are not captured.
        if self._observing or not (isinstance(output, Tensor) and output.requires_grad):
            return None
        # Work in place on a view (`F.linear` of three axes returns one) would cut this place out of the graph.
        kept: Tensor = output.clone() if output._is_view() else output
        curvature, given = self._layers[layer], (*inputs, *named.values())[0].detach()
        single = given.dim() == curvature.example_dims
        self._calls.append((curvature, _Call(given[None] if single else given, get_gradient_edge(kept), single)))
        return kept

    def observe(
        self, outputs: Tensor | None = None, *, loss: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Takes gradients at the layers' outputs; parameters' `.grad` stay as they are and the graph is kept.

        Called more than once, e.g. to draw several targets, the factors are averaged.

        Args:
            outputs: the model's outputs, (batch, ...); needed by the sampled Fisher.
            loss: the loss, a mean over the batch; needed by the empirical Fisher.
            weights: (batch,) weights of the examples in the loss; used by the sampled Fisher.
        """
        if not self.active:
            return
        if not self._calls:
            raise InputError("observe(): no layer with curvature ran inside curvature() with gradients enabled")
        edges = [call.output for _, call in self._calls]
        scalar = self._fisher_loss(outputs, loss, weights)
        self._observing = True
        try:
            gradients = torch.autograd.grad(scalar, edges, retain_graph=True, allow_unused=True)
        finally:
            self._observing = False
        with torch.no_grad():
            for layer, (inputs, captured) in self._by_layer(gradients).items():
                self._add(layer, self._layer_factors(layer, inputs, captured))
        self._observations += 1

    def _by_layer(
        self, gradients: tuple[Tensor | None, ...]
    ) -> dict[LayerCurvature, tuple[list[Tensor], list[Tensor]]]:
        found: dict[LayerCurvature, tuple[list[Tensor], list[Tensor]]] = {}
        for (layer, call), gradient in zip(self._calls, gradients, strict=True):
            if gradient is not None:
                inputs, captured = found.setdefault(layer, ([], []))
                inputs.append(call.inputs)
                captured.append(gradient[None] if call.single else gradient)
        return found

    def _layer_factors(
        self, layer: LayerCurvature, inputs: list[Tensor], captured: list[Tensor]
    ) -> list[KroneckerFactors]:
        batch = self._batch_size or len(inputs[0])
        rows = sum(len(x) for x in inputs)
        if rows % batch:
            raise InputError(f"{layer.name}: {rows} rows of input are not a multiple of the batch size {batch}")
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        x, g = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (inputs, captured))
        # The loss is a mean over the batch: `batch` times its gradients are the examples' own. Rows beyond the batch
        # (calls repeated, a sequence folded into it) are positions that share the weight: G sums over them, so that
        # dividing by the rows below must be undone by their number per example.
        x, g = x.to(wide), g.to(wide) * math.sqrt(batch * rows)
        if self._sample is not None:
            self._sample(layer, x, g)
        return layer.factors(x, g, self._sharing)

    def _add(self, layer: LayerCurvature, factors: list[KroneckerFactors]) -> None:
        before = self._sums.get(layer)
        self._sums[layer] = (
            factors
            if before is None
            else [
                KroneckerFactors(a.inputs + b.inputs, a.outputs + b.outputs)
                for a, b in zip(before, factors, strict=True)
            ]
        )


def _scaled(factors: KroneckerFactors, scale: float) -> KroneckerFactors:
    return factors if scale == 1 else KroneckerFactors(factors.inputs * scale, factors.outputs * scale)
