"""The learner: our loss and our update under RLlib's Learner."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER, LR_KEY
from ray.rllib.utils.metrics import TD_ERROR_KEY
from torch import Tensor

from tensorrl.learning.agent import Agent
from tensorrl.rllib.module import OUTPUTS, RainbowModule
from tensorrl.trial.training import Training, make_agent, make_optimizer


class RainbowLearner(DQNTorchLearner):  # type: ignore[misc]
    """Learns by `Agent.update`, one update an agent step; `compute_loss_for_module` is the same loss for RLlib's path.

    Attributes:
        agent: network, target and optimizer of the default module, as one.
    """

    agent: Agent

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers the optimizer that the settings name."""
        module: RainbowModule = self._module[module_id]
        self.register_optimizer(
            module_id=module_id,
            optimizer=make_optimizer(module.settings, module.network, module.model_config["seed"]),
            params=list(module.network.parameters()),
            lr_or_lr_schedule=module.settings.learning_rate,
        )

    def build(self) -> None:
        """Builds module, target and optimizer, and the agent they make up."""
        super().build()
        module: RainbowModule = self._module[DEFAULT_MODULE_ID].unwrapped()
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        self.agent = make_agent(module.network, module.target, optimizer, module.settings, module.model_config["seed"])

    def keep_rate(self) -> None:
        """Sets the optimizer's learning rate to the config's, whatever a restored state brought."""
        for group in self.agent.optimizer.param_groups:
            group["lr"] = self.config.lr

    def take_figures(self, training: Training) -> dict[str, float]:
        """What was learned since the last call, under RLlib's names; nothing where no update was made."""
        loss = training.agent.take_mean_loss()
        found = {f"{DEFAULT_OPTIMIZER}_{LR_KEY}": float(self.agent.optimizer.param_groups[0]["lr"])}
        if loss is None:
            return found
        return {**found, "loss": loss, self.TOTAL_LOSS_KEY: loss}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Importance-weighted mean of the losses of a train batch.

        The batch holds n-step returns as "rewards", "discounts" (γ^m, 0 at a terminal), "actions" and "weights".
        """
        network = self.module[module_id].unwrapped().network
        rows = torch.arange(len(batch[Columns.ACTIONS]), device=network.support.device)
        actions = batch[Columns.ACTIONS].long()
        returns, discounts = batch[Columns.REWARDS].float(), batch["discounts"].float()
        head, predictions = network.head, fwd_out[OUTPUTS][rows, actions]
        targets = head.targets(fwd_out["target_next"], returns, discounts, network.support)
        losses = head.losses(predictions, targets)
        errors = head.errors(predictions, targets, losses)
        self.metrics.log_value((module_id, TD_ERROR_KEY), errors, reduce="item_series")
        loss: Tensor = (batch["weights"].float() * losses).mean()
        return loss
