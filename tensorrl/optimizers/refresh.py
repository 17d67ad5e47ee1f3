"""When freshly computed inverses come into use: at once, or a fixed number of steps later from another thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from tensorrl.optimizers.curvature import inverse
from tensorrl.optimizers.stacks import BlockStack, Inverses


def _inverses(stacks: Sequence[BlockStack], damping: float, relative: bool) -> list[Inverses]:
    with torch.no_grad():
        found = [stack.factored(damping, relative=relative) for stack in stacks]
        parts = [part for pair in found if pair is not None for part in pair]
        # Asked once for all of them, because each question waits for the GPU.
        singular = torch.stack([part.singular.any() for part in parts]).tolist() if parts else []
        whole = iter([inverse(part, sound=not bad) for part, bad in zip(parts, singular, strict=True)])
        return [
            stack.of_observed((next(whole), next(whole)))
            if pair is not None
            else (stack.row_inverses.clone(), stack.column_inverses.clone())
            for stack, pair in zip(stacks, found, strict=True)
        ]


class InverseRefresh:
    """Refreshes the inverses of stacks of blocks, on the step or off its critical path.

    Args:
        stacks: whose inverses to keep fresh.
        overlap: steps between the start of a refresh and its inverses' first use; 0 computes them on the spot. A number
            of steps and not "when it is ready", so that a run can be repeated and resumed exactly.
        relative: whether damping is relative to each block's mean curvature.
    """

    def __init__(self, stacks: Sequence[BlockStack], overlap: int, *, relative: bool = False) -> None:
        self._stacks, self._overlap, self._relative = stacks, overlap, relative
        self._executor: ThreadPoolExecutor | None = None
        self._pending: tuple[int, Future[list[Inverses]] | list[Inverses]] | None = None

    def start(self, step: int, damping: float, *, at_once: bool = False) -> None:
        """Begins a refresh with the present factors and drops one that is still under way."""
        if at_once or not self._overlap:
            self._install(_inverses(self._stacks, damping, self._relative))
            self._pending = None
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="kfac-inverses")
        copies = [stack.snapshot() for stack in self._stacks]
        self._pending = (step + self._overlap, self._executor.submit(_inverses, copies, damping, self._relative))

    def install_if_due(self, step: int) -> None:
        """Puts a refresh's inverses in use once its steps are over, waiting for them if they are not ready."""
        if self._pending is not None and step >= self._pending[0]:
            self._install(self._result())
            self._pending = None

    def state(self) -> dict[str, Any] | None:
        """Returns the refresh under way, finished, and the step it is for; None if there is none."""
        if self._pending is None:
            return None
        return {"due": self._pending[0], "inverses": [[rows, columns] for rows, columns in self._result()]}

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Puts back what `state` returned."""
        if state is None:
            self._pending = None
            return
        likes = [stack.steps for stack in self._stacks]
        inverses = [
            (torch.as_tensor(rows).to(like), torch.as_tensor(columns).to(like))
            for (rows, columns), like in zip(state["inverses"], likes, strict=True)
        ]
        self._pending = (int(state["due"]), inverses)

    def close(self) -> None:
        """Ends the thread, if there is one."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor, self._pending = None, None

    def _result(self) -> list[Inverses]:
        assert self._pending is not None
        result = self._pending[1]
        return result.result() if isinstance(result, Future) else result

    def _install(self, inverses: list[Inverses]) -> None:
        for stack, pair in zip(self._stacks, inverses, strict=True):
            stack.install(pair)
