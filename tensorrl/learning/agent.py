"""The agent: acts on the newest stack, and turns one sampled batch into one update."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tensorrl import system
from tensorrl.learning.averaging import Average
from tensorrl.learning.recording import Recorder
from tensorrl.learning.replay import Batch, Replay
from tensorrl.learning.resets import Resets, draw_anew
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.protocol import AgentOptimizer

AVERAGE = "average"
"""Where an agent's state holds the average that acts, if there is one."""


class Lookahead(NamedTuple):
    """The network's outputs, with its weights while acting, for a batch's next stacks and the newest stack."""

    stacks: Tensor
    """(batch, ...), the next stacks, prepared."""
    choices: Tensor
    """(batch,), its greedy actions there."""
    action: Tensor
    """(), the greedy action for the newest stack, of the network that acts."""


def make_target(network: QNetwork) -> QNetwork:
    """A copy of a network that learns nothing itself."""
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    return target


class Agent:
    """A Q-network, its target and its optimizer, with the exploration that goes with them.

    An agent step with an update is `look`, `act` and `update`; one without is `act` alone. What they do with tensors is
    recorded where the device allows it (`tensorrl.learning.recording`).

    Args:
        network: learns, and acts unless an average does. Double Q-learning chooses its actions by it.
        target: bootstraps; a copy of `network`.
        optimizer: over the network's parameters.
        target_interval: updates between copies of the network to the target.
        gradient_norm: largest global L2 norm of a gradient.
        resets: when the last layers begin anew; None for never.
        average: of the network, which acts in its place; None where the network itself acts.
        seed: source of all randomness of acting and learning.
        recorder: makes recordings; by default one for the network's device.
    """

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        optimizer: AgentOptimizer,
        *,
        target_interval: int = 2_000,
        gradient_norm: float = 10.0,
        resets: Resets | None = None,
        average: Average | None = None,
        seed: int = 0,
        recorder: Recorder | None = None,
    ) -> None:
        self.network, self.target, self.optimizer = network, target, optimizer
        self.target_interval, self.gradient_norm, self.resets = target_interval, gradient_norm, resets
        self.average = average
        self.device = device = network.support.device
        self.recorder = Recorder(device) if recorder is None else recorder
        self.updates = 0
        self.reseeded = False
        """Whether the state last taken was of another kind of device, and the draws began anew from seed and update."""
        self.loss_sum = torch.zeros((), device=device)
        self.loss_count = 0
        self._one = torch.ones((), device=device)
        self.explorer = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1])))
        self.generator = torch.Generator(device).manual_seed(seed)
        self.recorder.register(self.generator)
        self._beta = torch.zeros((), dtype=torch.float64, device=device)
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._target_pairs = (
            [p.detach() for p in network.parameters()],
            [p.detach() for p in target.parameters()],
        )
        self._target_layers = [layer for layer in target.modules() if isinstance(layer, TensorRegression)]
        self._hold_target()
        self._recorded_look = self.recorder.record(self.look_at_sample)
        self._recorded_choose = self.recorder.record(self.choose_for_newest)
        self._recorded_learn = self.recorder.record(self.learn)

    @property
    def acting(self) -> QNetwork:
        """The network that acts, in training and in evaluation."""
        return self.network if self.average is None else self.average.network

    def look(self, replay: Replay, batch_size: int, beta: float) -> tuple[Batch, Lookahead]:
        """Draws this step's noise and the batch of the update to come, and looks ahead from it.

        The next stacks and the newest stack go through the network in one pass. On a GPU the next call overwrites what
        this one returned.

        Args:
            replay: on the agent's device.
            batch_size: transitions of the update.
            beta: exponent of the importance weights.

        Raises:
            ValueError: replay holds no transition that can be sampled.
        """
        replay.check_sampleable()
        self._beta.fill_(beta)
        return self._recorded_look(replay, batch_size)

    def act(self, replay: Replay, epsilon: float, lookahead: Lookahead | None = None) -> int:
        """Chooses an action for the newest stack, ε-greedily.

        Args:
            replay: holds the newest stack.
            epsilon: probability of a random action.
            lookahead: what `look` gave in this step; None draws the step's noise now.
        """
        explored = self.explore(epsilon)
        if explored is not None:
            return explored
        return self.recorder.read(self._recorded_choose(replay) if lookahead is None else lookahead.action)

    def update(self, batch: Batch, lookahead: Lookahead | None = None) -> Tensor:
        """Makes one update: targets, loss, gradient, clipped, one step of the optimizer.

        Args:
            batch: what to learn from.
            lookahead: what `look` gave beside it; by default the network looks now.

        Returns:
            (batch,) unweighted losses (or sizes of errors, see `ValueHead.errors`), which become priorities.
        """
        if lookahead is None:
            lookahead = self.look_at(batch)
        if self.optimizer.curvature_due:
            # The host decides what curvature steps do, so they stay outside recordings.
            losses = self.learn(batch, lookahead, observed=True)
        else:
            self.optimizer.prepare()
            losses = self._recorded_learn(batch, lookahead)
        self.updates += 1
        self.loss_count += 1
        if self.updates % self.target_interval == 0:
            self.copy_to_target()
        if self.resets is not None and self.resets.due(self.updates):
            self.reset(self.resets.names)
        return losses

    def learn(self, batch: Batch, lookahead: Lookahead, *, observed: bool = False) -> Tensor:
        """The part of `update` that works on tensors alone, unless it is `observed` by the optimizer."""
        network, optimizer, head = self.network, self.optimizer, self.network.head
        if self.recorder.active and network.is_noisy:
            # Those formed while acting belong to another recording, and have no gradient.
            network.form_noise()
        targets = self.targets(batch, lookahead)
        with optimizer.curvature() if observed else nullcontext() as observer:
            predictions = network.chosen(batch.stacks, batch.actions, repeatable=self.recorder.active)
            losses = head.losses(predictions, targets)
            loss = (batch.weights * losses).mean()
            if observer is not None:
                observer.observe(_rows_of(predictions), loss=loss, weights=batch.weights)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward(self._one)
        self._clip_gradient()
        if observed:
            optimizer.prepare()
        optimizer.apply()
        for _ in range(optimizer.fits):
            with torch.no_grad():
                moved = network.chosen(batch.stacks, batch.actions, repeatable=self.recorder.active)
            optimizer.fit_step(_rows_of(predictions), _rows_of(moved))
        if self.average is not None:
            self.average.follow()
        self.loss_sum += loss.detach()
        return head.errors(predictions, targets, losses)

    @torch.no_grad()
    def targets(self, batch: Batch, lookahead: Lookahead) -> Tensor:
        """Double Q-learning targets (van Hasselt et al. 2016): distributions (batch, atoms), or values (batch,).

        The network has chosen the actions; the target network gives their values.
        """
        target = self.target
        if target.is_noisy:
            target.draw_noise(self.generator)
        bootstraps = target.chosen(lookahead.stacks, lookahead.choices, repeatable=self.recorder.active)
        return target.head.targets(
            bootstraps, batch.returns, batch.discounts, target.support, repeatable=self.recorder.active
        )

    def look_at_sample(self, replay: Replay, batch_size: int) -> tuple[Batch, Lookahead]:
        """The part of `look` that works on tensors alone."""
        self.begin_step()
        batch = replay.sample(batch_size, self._beta, self.generator)
        return batch, self.look_at(batch)

    def look_at(self, batch: Batch) -> Lookahead:
        """Passes a batch's next stacks, and the newest stack where it holds that, through the network."""
        stacks = self.network.prepare(batch.next_stacks if batch.ahead is None else batch.ahead)
        size = len(batch.actions)
        if self.average is not None:
            newest = self.choose(stacks[-1:], self.acting)[0]
            return Lookahead(stacks[:size], self.choose(stacks[:size]), newest)
        actions = self.choose(stacks)
        return Lookahead(stacks[:size], actions[:size], actions[-1])

    def choose_for_newest(self, replay: Replay) -> Tensor:
        """Draws the noise of this step and chooses greedily for the newest stack, ()."""
        self.begin_step()
        return self.choose(replay.latest_stack(), self.acting)[0]

    @torch.no_grad()
    def choose(self, stacks: Tensor, network: QNetwork | None = None) -> Tensor:
        """The greedy actions (n,) for n stacks, stored or prepared; by the network that learns, or another one."""
        network = self.network if network is None else network
        return network.q_values(network(stacks)).argmax(1)

    def begin_step(self) -> None:
        """Draws the noise that acting and learning share for one agent step (NoisyNet only); an average has its own."""
        if self.network.is_noisy:
            # Where passes are recorded one by one, none may leave an autograd graph to another.
            with torch.no_grad() if self.recorder.active else nullcontext():
                self.network.draw_noise(self.generator)
                if self.average is not None:
                    self.average.network.draw_noise(self.generator)

    def explore(self, epsilon: float) -> int | None:
        """Draws a random action with probability ε; None says to choose the best."""
        if epsilon > 0 and self.explorer.random() < epsilon:
            return int(self.explorer.integers(self.network.spec.actions))
        return None

    def _clip_gradient(self) -> None:
        """Scales the gradient to a global L2 norm of `gradient_norm` at most, as `clip_grad_norm_` does."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.recorder.active:
            # A branch on the norm would wait for its value, so every gradient is divided, by at least 1.
            torch._foreach_div_(gradients, (norm * (1 / self.gradient_norm)).clamp_(min=1.0))
        elif not norm <= self.gradient_norm:
            torch._foreach_mul_(gradients, (self.gradient_norm / (norm + 1e-6)).clamp(max=1.0))

    @torch.no_grad()
    def copy_to_target(self) -> None:
        """Copies the network's parameters to the target."""
        torch._foreach_copy_(self._target_pairs[1], self._target_pairs[0])
        self._hold_target()

    def reset(self, names: Sequence[str]) -> None:
        """Draws layers anew, in the target and the average too, and begins the optimizer's state for them anew.

        In the program of Nikishin et al. the target is the network itself, so that it is reset as well. The seed comes
        from the generator of exploration, which is the same on every device and part of the state.

        Args:
            names: of the layers.
        """
        draw_anew(self.network, names, int(self.explorer.integers(2**63)))
        fresh, *followers = (
            [p.detach() for name in names for p in getattr(network, name).parameters()]
            for network in (self.network, self.target, *(() if self.average is None else (self.acting,)))
        )
        for follower in followers:
            torch._foreach_copy_(follower, fresh)
        self._hold_target()
        self.optimizer.restart([p for name in names for p in getattr(self.network, name).parameters()])

    def _hold_target(self) -> None:
        """Builds the target's factorised weights where passes are recorded: they last for thousands of updates."""
        if self.recorder.active:
            for layer in self._target_layers:
                layer.hold_weight()

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
            **({} if self.average is None else {AVERAGE: self.acting.state_dict()}),
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
        if self.average is not None:
            # A state of an agent without an average, as RLlib may put back: it begins at the network.
            self.acting.load_state_dict(state.get(AVERAGE, state["network"]))
            self.acting.forget_noise()
        self.optimizer.load_state_dict(state["optimizer"])
        self._hold_target()
        self.network.forget_noise()
        self.target.forget_noise()
        self.updates = state["updates"]
        self.loss_sum = state["loss_sum"].to(self.device).clone()
        self.loss_count = state["loss_count"]
        self.reseeded = not system.restore_generator(self.generator, state["generator"], self.updates)
        self.explorer.bit_generator.state = state["explorer"]
        self.recorder.forget()


def _rows_of(predictions: Tensor) -> Tensor:
    """A row for each example, (batch, outputs), where plain Q-values (batch,) have none."""
    return predictions if predictions.dim() > 1 else predictions[:, None]
