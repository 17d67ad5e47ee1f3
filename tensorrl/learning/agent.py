"""The agent: acts on the newest stack, and turns one sampled batch into one update."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorrl.learning.replay import Batch
from tensorrl.learning.targets import categorical_losses, categorical_projection, huber_losses
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.optimizers.capture import Capture
from tensorrl.optimizers.kfac import KFAC


def make_target(network: QNetwork) -> QNetwork:
    """A copy of a network that learns nothing itself."""
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    return target


class Agent:
    """A Q-network, its target and its optimizer, with the exploration that goes with them.

    Args:
        network: learns, and acts.
        target: bootstraps; a copy of `network`.
        optimizer: over the network's parameters.
        target_interval: updates between copies of the network to the target.
        gradient_norm: largest global L2 norm of a gradient.
        seed: source of all randomness of acting and learning.
    """

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        target_interval: int = 2_000,
        gradient_norm: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.network, self.target, self.optimizer = network, target, optimizer
        self.target_interval, self.gradient_norm = target_interval, gradient_norm
        device = network.support.device
        self.device = device
        self.updates = 0
        self.loss_sum = torch.zeros((), device=device)
        self.loss_count = 0
        self._observes = False
        self._row_numbers = torch.empty(0)
        self.explorer = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1])))
        self.generator = torch.Generator(device).manual_seed(seed)
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._target_pairs = (
            [p.detach() for p in network.parameters()],
            [p.detach() for p in target.parameters()],
        )

    def begin_step(self) -> None:
        """Draws the noise that acting and learning share for one agent step (NoisyNet only)."""
        if self.network.is_noisy:
            self.network.draw_noise(self.generator)

    def explore(self, epsilon: float) -> int | None:
        """Draws a random action with probability ε; None says to choose the best."""
        if epsilon > 0 and self.explorer.random() < epsilon:
            return int(self.explorer.integers(self.network.spec.actions))
        return None

    @torch.no_grad()
    def choose(self, stacks: Tensor) -> Tensor:
        """The greedy actions (n,) for n stacks, stored or prepared."""
        return self.network.q_values(self.network(stacks)).argmax(1)

    def update(self, batch: Batch) -> Tensor:
        """Makes one update and returns the unweighted losses (batch,) that become priorities."""
        self.begin_update()
        ahead = self.network.prepare(batch.next_stacks)
        losses = self.apply_update(batch, ahead, self.choose(ahead))
        self.end_update()
        return losses

    def begin_update(self) -> bool:
        """Does what an update decides on the host; returns whether the rest is work on tensors alone.

        It is not where K-FAC observes curvature.
        """
        self._observes = isinstance(self.optimizer, KFAC) and self.optimizer.curvature_due
        if isinstance(self.optimizer, KFAC) and not self._observes:
            self.optimizer.prepare()
        return not self._observes

    def apply_update(self, batch: Batch, ahead: Tensor, choices: Tensor) -> Tensor:
        """The part of `update` that works on tensors: between `begin_update` and `end_update`.

        Args:
            batch: what to learn from.
            ahead: its next stacks, prepared.
            choices: (batch,) the network's greedy actions there.

        Returns:
            (batch,) unweighted losses.
        """
        network, optimizer = self.network, self.optimizer
        if self.device.type == "cuda" and network.is_noisy:
            # Weights formed while acting belong to another recording.
            network.form_noise()
        targets = self.targets(batch, ahead, choices)
        with self._curvature() as capture:
            predictions: Tensor = network(batch.stacks)[self._rows(batch), batch.actions]
            losses = self._losses(predictions, targets)
            loss = (batch.weights * losses).mean()
            if capture is not None:
                capture.observe(_rows_of(predictions), loss=loss, weights=batch.weights)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        self._clip_gradient()
        if isinstance(optimizer, KFAC):
            if self._observes:
                optimizer.prepare()
            optimizer.apply()
            if optimizer.fit_due:
                with torch.no_grad():
                    moved = network(batch.stacks)[self._rows(batch), batch.actions]
                    optimizer.fit_step(_rows_of(predictions), _rows_of(moved))
        else:
            optimizer.step()
        self.loss_sum += loss.detach()
        if network.spec.atoms > 1:
            return losses.detach()
        errors: Tensor = (predictions - targets).detach().abs()
        return errors

    def end_update(self) -> None:
        """Counts the update, and copies the network to the target when it is time."""
        self.updates += 1
        self.loss_count += 1
        if self.updates % self.target_interval == 0:
            self.copy_to_target()

    def _clip_gradient(self) -> None:
        """Scales the gradient to a global L2 norm of `gradient_norm` at most, as `clip_grad_norm_` does."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # On a GPU asking would mean waiting for the answer; there every gradient is multiplied, by 1 at most.
        if self.device.type == "cuda" or not norm <= self.gradient_norm:
            torch._foreach_mul_(gradients, (self.gradient_norm / (norm + 1e-6)).clamp(max=1.0))

    def _losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        if self.network.spec.atoms > 1:
            return categorical_losses(predictions, targets)
        return huber_losses(predictions, targets)

    def _curvature(self) -> AbstractContextManager[Capture | None]:
        """Where K-FAC watches the forward pass; nothing with another optimizer."""
        return self.optimizer.curvature() if self._observes and isinstance(self.optimizer, KFAC) else nullcontext()

    @torch.no_grad()
    def targets(self, batch: Batch, ahead: Tensor, choices: Tensor) -> Tensor:
        """Double Q-learning targets (van Hasselt et al. 2016): distributions (batch, atoms), or values (batch,).

        The network has chosen the actions, the target network says what they are worth; see `apply_update`.
        """
        target = self.target
        if target.is_noisy:
            target.draw_noise(self.generator)
        bootstraps: Tensor = target(ahead)[self._rows(batch), choices]
        if target.spec.atoms > 1:
            return categorical_projection(bootstraps.softmax(1), batch.returns, batch.discounts, target.support)
        return batch.returns + batch.discounts * bootstraps

    def _rows(self, batch: Batch) -> Tensor:
        if len(self._row_numbers) != len(batch.actions):
            self._row_numbers = torch.arange(len(batch.actions), device=self.device)
        return self._row_numbers

    @torch.no_grad()
    def copy_to_target(self) -> None:
        """Copies the network's parameters to the target."""
        torch._foreach_copy_(self._target_pairs[1], self._target_pairs[0])

    def take_mean_loss(self) -> float | None:
        """Mean loss since the last call, or None where no update was made."""
        if self.loss_count == 0:
            return None
        mean = float(self.loss_sum) / self.loss_count
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def get_state(self) -> dict[str, Any]:
        """Weights, target, optimizer, counters and generators, as nested dicts of tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "generator": self.generator.get_state(),
            "explorer": self.explorer.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` gave.

        Raises:
            RuntimeError: the state is that of another network.
        """
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.network.forget_noise()
        self.target.forget_noise()
        self.updates = state["updates"]
        self.loss_sum = state["loss_sum"].to(self.device).clone()
        self.loss_count = state["loss_count"]
        self.generator.set_state(state["generator"].cpu())
        self.explorer.bit_generator.state = state["explorer"]


def _rows_of(predictions: Tensor) -> Tensor:
    """A row for each example, (batch, outputs), where plain Q-values (batch,) have none."""
    return predictions if predictions.dim() > 1 else predictions[:, None]
