"""What an agent asks of its optimizer, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Observer(Protocol):
    """An observer of a forward pass, such as `tensorrl.optimizers.capture.Capture`."""

    def observe(
        self, outputs: Tensor | None = None, *, loss: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Reads what it needs of the pass: outputs (batch, ...), the scalar loss, the examples' weights (batch,)."""


class AgentOptimizer(Protocol):
    """An optimizer whose step has a part for the host and a part for the device.

    A step is: if `curvature_due`, a forward pass inside `curvature()`, which its observer watches; `backward()`;
    `prepare()`; `apply()`. On other steps `prepare()` may come before the forward pass, and what is between it and the
    end of `apply()` is work on tensors alone, which a CUDA graph can hold.
    """

    @property
    def curvature_due(self) -> bool:
        """Whether the coming step is to observe curvature."""

    def curvature(self) -> AbstractContextManager[Observer]:
        """The context of the coming step's forward pass, where `curvature_due`."""

    def prepare(self) -> None:
        """Does what a step decides on the host: schedules, counters, what is refreshed only now and then."""

    def apply(self) -> Any:
        """Does what a step does on the device: moves the parameters along their gradients."""

    @property
    def fits(self) -> int:
        """How often to call `fit_step` after a step; the same for every step of a run."""

    def fit_step(self, before: Tensor, after: Tensor) -> Any:
        """Takes the predictions (batch, outputs) on the step's batch before and after it."""

    def figures(self) -> dict[str, float]:
        """Figures of the last step, for reports; they may wait for the device."""

    def restart(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begins the state of some parameters anew, in place, as after a reset of their layers."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state, in tensors, numbers and names."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned."""


class FirstOrder:
    """Makes a `torch.optim.Optimizer` an `AgentOptimizer` that decides nothing on the host; to be inherited first.

    >>> from torch.optim import RMSprop
    >>> class AgentRMSprop(FirstOrder, RMSprop): ...
    """

    curvature_due = False
    fits = 0

    def curvature(self) -> AbstractContextManager[Observer]:
        """A context that watches nothing."""
        return nullcontext(_Blind())

    def prepare(self) -> None:
        """Nothing."""

    def apply(self) -> Any:
        """Takes the optimizer's own step."""
        return self.step()  # type: ignore[attr-defined]

    def fit_step(self, before: Tensor, after: Tensor) -> Any:
        """Nothing."""

    def figures(self) -> dict[str, float]:
        """None."""
        return {}

    def restart(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sets their state to 0, where moments, momenta and counts begin."""
        forget(self.state, parameters)  # type: ignore[attr-defined]


@torch.no_grad()
def forget(state: Mapping[Any, dict[str, Any]], parameters: Iterable[nn.Parameter]) -> None:
    """Sets the state that a `torch.optim.Optimizer` has of some parameters to 0, in place, for CUDA graphs."""
    for parameter in parameters:
        found = state.get(parameter, {})
        for name, value in found.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, int | float):
                found[name] = type(value)(0)


class _Blind:
    def observe(
        self, outputs: Tensor | None = None, *, loss: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Nothing."""
