"""What an agent does in one step, in tensors that stay in place: so that a GPU can replay it as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tensorrl.learning.agent import Agent
from tensorrl.learning.replay import Replay

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
        self._learn = Recorded(self._learn_from_a_sample, device, generator)

    def act(self, epsilon: float) -> int:
        """Draws the noise of this step and chooses an action for the newest stack, ε-greedily."""
        explored = self.agent.explore(epsilon)
        return int(self._choose()) if explored is None else explored

    def learn(self, beta: float) -> None:
        """Makes one update from a sample of replay, with importance weights to the power of `beta`."""
        if self.replay.count == 0:
            raise ValueError("replay holds no transition with a known n-step return yet")
        self._beta.fill_(beta)
        if self.agent.begin_update():
            self._learn()
        else:
            self._learn_from_a_sample()
        self.agent.end_update()

    def _choose_greedily(self) -> Tensor:
        self.agent.begin_step()
        return self.agent.choose(self.replay.latest_stack())

    def _learn_from_a_sample(self) -> Tensor:
        agent, replay = self.agent, self.replay
        batch = replay.sample(self.batch_size, self._beta, agent.generator)
        losses = agent.apply_update(batch)
        replay.update_priorities(batch.slots, losses)
        return losses
