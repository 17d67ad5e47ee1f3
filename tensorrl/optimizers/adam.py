"""Adam, stepping without PyTorch's bookkeeping between one step and the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tensorrl import system
from tensorrl.optimizers.protocol import FirstOrder


class FusedAdam(FirstOrder, torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`, to the bit, whose lists of tensors are made once instead of at every step.

    With a few hundred thousand parameters PyTorch's own step spends as long on gathering its state as on the update.

    On a CPU, moments below 1.2e-38 become 0. Averages of gradients of dead units decay to such numbers and stay there;
    in an agent with NoisyNet a tenth of all did, and a step took five times as long. They move no parameter.

    For Adam of one group whose parameters all have gradients, with weight decay of either kind (`weight_decay`,
    `decoupled_weight_decay`); everything else goes through PyTorch's step.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, fused=True, **options)
        self._lists: tuple[list[Tensor], ...] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; see `torch.optim.Adam.step`."""
        group = self.param_groups[0]
        if self._lists is None or closure is not None or not self._is_plain(group):
            result = super().step(closure)
            self._lists = self._gather() if len(self.param_groups) == 1 else None
            return result
        params, averages, squares, counts = self._lists
        grads = [p.grad for p in params if p.grad is not None]
        if len(grads) < len(params):
            return super().step()
        torch._foreach_add_(counts, 1)
        beta1, beta2 = group["betas"]
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        with system.subnormals_as_zero(params[0].device):
            kernel(
                params, grads, averages, squares, [], counts,
                lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"],
                amsgrad=False, maximize=False,
            )  # fmt: skip
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            # Older GPU checkpoints have True here, and PyTorch would warn. Fused steps count on the device anyway.
            group["capturable"] = False
        self._lists = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; several are stepped by PyTorch's own step."""
        super().add_param_group(param_group)
        self._lists = None

    def _is_plain(self, group: dict[str, Any]) -> bool:
        return not (group["amsgrad"] or group["maximize"])

    def _gather(self) -> tuple[list[Tensor], ...] | None:
        params = self.param_groups[0]["params"]
        states = [self.state[p] for p in params]
        if not all(states):
            return None
        return (params, *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")))
