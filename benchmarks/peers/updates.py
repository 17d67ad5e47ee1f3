"""Counts the updates of programs that do not count them themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class UpdateCounter:
    """Counts the steps of every optimizer of this process, and the coefficients that the last one moved."""

    def __init__(self) -> None:
        self.updates = 0
        self.coefficients = 0
        self._hook = register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        self.updates += 1
        if self.coefficients == 0:
            self.coefficients = sum(p.numel() for group in optimizer.param_groups for p in group["params"])

    def close(self) -> None:
        """Stops counting."""
        self._hook.remove()
