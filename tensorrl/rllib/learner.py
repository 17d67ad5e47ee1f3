"""The learner: our loss and our update under RLlib's Learner."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_MAX_KEY, QF_MEAN_KEY, QF_MIN_KEY, TD_ERROR_MEAN_KEY
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER, LR_KEY
from ray.rllib.utils.metrics import TD_ERROR_KEY
from torch import Tensor

from tensorrl import games
from tensorrl.learning.agent import Agent
from tensorrl.rllib.module import OUTPUTS, RainbowModule
from tensorrl.rllib.own_module import ModuleAgent, ModuleNetwork
from tensorrl.trial.diagnostics import unsampled
from tensorrl.trial.training import Training, make_agent, make_optimizer


class RainbowLearner(DQNTorchLearner):  # type: ignore[misc]
    """Learns by `Agent.update`, one update an agent step; `compute_loss_for_module` is the same loss for RLlib's path.

    Attributes:
        agent: network, target and optimizer of the default module, as one.
    """

    agent: Agent
    _network: Any
    _given: list[dict[str, Any]]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers the optimizer that the settings name."""
        module = self._module[module_id].unwrapped()
        if isinstance(module, RainbowModule):
            self._network = module.network
        else:
            self._network = ModuleNetwork(module, games.get(self.config.env).actions)
        optimizer = make_optimizer(self.config.settings, self._network, self.config.seed)
        self._given = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        self.register_optimizer(
            module_id=module_id,
            optimizer=optimizer,
            params=list(self._network.parameters()),
            lr_or_lr_schedule=self.config.lr,
        )

    def build(self) -> None:
        """Builds module, target and optimizer, and the agent they make up."""
        super().build()
        module = self._module[DEFAULT_MODULE_ID].unwrapped()
        optimizer, settings, seed = self.get_optimizer(DEFAULT_MODULE_ID), self.config.settings, self.config.seed
        if isinstance(module, RainbowModule):
            self.agent = make_agent(module.network, module.target, optimizer, settings, seed, average=module.average)
        else:
            self.agent = ModuleAgent(self._network, optimizer, settings, seed)

    def keep_options(self) -> None:
        """Sets the optimizer's learning rate, weight decay, ε and momentum to the config's, whatever a restored state
        brought."""
        for group, given in zip(self.get_optimizer().param_groups, self._given, strict=True):
            group.update(given)

    def take_figures(self, training: Training) -> dict[str, float]:
        """What was learned since the last call, under RLlib's names; the rate alone where no update was made."""
        agent = self.agent
        loss = agent.take_mean_loss()
        found = {f"{DEFAULT_OPTIMIZER}_{LR_KEY}": float(self.get_optimizer().param_groups[0]["lr"])}
        if loss is None:
            return found
        gradients = [parameter.grad for parameter in agent.network.parameters() if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return {
            **found,
            "loss": loss,
            self.TOTAL_LOSS_KEY: loss,
            f"gradients_{DEFAULT_OPTIMIZER}_global_norm": float(norm),
            **self._values(training),
        }

    @torch.no_grad()
    def _values(self, training: Training) -> dict[str, float]:
        """Means over the newest transitions that can be sampled, of the mean network; nothing is drawn for them."""
        agent, replay = self.agent, training.replay
        slots = unsampled(replay)[0][-training.settings.batch_size :]
        if not len(slots):
            return {}
        network, target = agent.network, agent.target
        modes = network.training, target.training
        network.eval(), target.eval()
        try:
            batch = replay.transitions(slots)
            rows = torch.arange(len(slots), device=slots.device)
            ahead = agent.look_at(batch)
            chosen = network.q_values(network(batch.stacks))[rows, batch.actions]
            bootstrap = network.q_values(target(ahead.stacks))[rows, ahead.choices]
            errors = (batch.returns + batch.discounts * bootstrap - chosen).abs()
        finally:
            network.train(modes[0]), target.train(modes[1])
        return {
            TD_ERROR_MEAN_KEY: float(errors.mean()),
            QF_MEAN_KEY: float(chosen.mean()),
            QF_MAX_KEY: float(chosen.max()),
            QF_MIN_KEY: float(chosen.min()),
        }

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Importance-weighted mean of the losses of a train batch.

        The batch holds n-step returns as "rewards" and "actions"; and "discounts" (γ^m, 0 at a terminal) and "weights",
        or, as RLlib makes it of episodes, "n_step" and "terminateds".
        """
        network = self.agent.network
        rows = torch.arange(len(batch[Columns.ACTIONS]), device=network.support.device)
        actions, returns = batch[Columns.ACTIONS].long(), batch[Columns.REWARDS].float()
        discounts, weights = batch.get("discounts"), batch.get("weights")
        if discounts is None:
            steps = batch.get("n_step", torch.ones_like(returns))
            discounts = config.gamma ** steps.float() * (~batch[Columns.TERMINATEDS].bool()).float()
        weights = torch.ones_like(returns) if weights is None else weights.float()
        head, predictions = network.head, fwd_out[OUTPUTS][rows, actions]
        targets = head.targets(fwd_out["target_next"], returns, discounts.float(), network.support)
        losses = head.losses(predictions, targets)
        errors = head.errors(predictions, targets, losses)
        self.metrics.log_value((module_id, TD_ERROR_KEY), errors, reduce="item_series")
        loss: Tensor = (weights * losses).mean()
        return loss
