"""What an agent does in one step, in tensors that stay in place: so that a GPU can replay it as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tensorrl.learning.agent import Agent
from tensorrl.learning.replay import Batch, Replay

WARM_UPS = 3
"""Calls on a side stream before a recording, in which libraries choose kernels and optimizers make their state."""


class Recorded:
    """A function without arguments, called as it is on a CPU, recorded once and replayed as a CUDA graph on a GPU.

    A hundred small kernels cost a launch each from Python, one launch as a graph. Every call does the function's work
    exactly once: the first few run it on a side stream, the next one records, and a recording is replayed at once.
    What the function reads and writes must stay in place; what Python decides in it is decided when it is recorded.

    Args:
        function: its result, if any, is a tensor that each call overwrites.
        device: where it works.
        generator: what it draws from, on that device.
    """

    def __init__(self, function: Callable[[], Tensor], device: torch.device, generator: torch.Generator) -> None:
        self.function, self.device, self.generator = function, device, generator
        self.graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0
        self._result = torch.empty(0)

    def __call__(self) -> Tensor:
        """Does the function's work once and returns its result."""
        if self.device.type != "cuda":
            return self.function()
        if self.graph is None and self._calls < WARM_UPS:
            self._calls += 1
            return self._beside()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph):
                self._result = self.function()
        self.graph.replay()
        return self._result

    def _beside(self) -> Tensor:
        present, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(present)
        with torch.cuda.stream(side):
            result = self.function()
        present.wait_stream(side)
        return result


class Stepper:
    """Acting and learning of an agent with its replay, each recorded where the device allows it.

    Where an update is due, its batch is drawn before acting, and its next stacks and the newest go through the network
    in one pass: they tell the actions of the double Q-learning targets and the one to take.

    K-FAC's curvature steps and refreshes of inverses are the host's to decide and stay outside of the recording.

    Args:
        agent: acts and learns.
        replay: on the agent's device.
        batch_size: transitions of an update.
    """

    def __init__(self, agent: Agent, replay: Replay, batch_size: int) -> None:
        self.agent, self.replay, self.batch_size = agent, replay, batch_size
        self._beta = torch.zeros((), dtype=torch.float64, device=agent.device)
        self.forget()

    def forget(self) -> None:
        """Drops recordings: the agent's or replay's tensors are others now, as after a restore."""
        device, generator = self.agent.device, self.agent.generator
        self._choose = Recorded(self._choose_greedily, device, generator)
        self._look = Recorded(self._look_ahead, device, generator)
        self._learn = Recorded(self._learn_from_sample, device, generator)
        self._drawn: tuple[Batch, Tensor, Tensor] | None = None

    def act(self, epsilon: float, *, beta: float | None = None) -> int:
        """Draws the noise of this step and chooses an action for the newest stack, ε-greedily.

        Args:
            epsilon: probability of a random action.
            beta: exponent of the importance weights of the update that `learn` is to make next; None where none is.

        Raises:
            ValueError: an update is wanted and replay holds no transition that can be sampled.
        """
        explored = self.agent.explore(epsilon)
        if beta is not None:
            self._beta.fill_(beta)
            greedy = self._look()
        elif explored is None:
            greedy = self._choose()
        return int(greedy) if explored is None else explored

    def learn(self) -> None:
        """Makes the update that `act` was told of."""
        if self.agent.begin_update():
            self._learn()
        else:
            self._learn_from_sample()
        self.agent.end_update()

    def _choose_greedily(self) -> Tensor:
        self.agent.begin_step()
        return self.agent.choose(self.replay.latest_stack())[0]

    def _look_ahead(self) -> Tensor:
        agent = self.agent
        agent.begin_step()
        batch = self.replay.sample(self.batch_size, self._beta, agent.generator)
        assert batch.ahead is not None
        ahead = agent.network.prepare(batch.ahead)
        actions = agent.choose(ahead)
        self._drawn = batch, ahead[:-1], actions[:-1]
        return actions[-1]

    def _learn_from_sample(self) -> Tensor:
        assert self._drawn is not None, "learn() without act(beta=...) before"
        batch, ahead, choices = self._drawn
        losses = self.agent.apply_update(batch, ahead, choices)
        self.replay.update_priorities(batch.slots, losses)
        return losses
