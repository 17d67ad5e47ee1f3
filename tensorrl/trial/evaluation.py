"""Evaluation of a network: the greedy policy of its mean (no noise), and full games played by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorrl import system
from tensorrl.environments.atari import Frame
from tensorrl.environments.evaluation import BATCH, Episode, EvaluationGames, seats_of
from tensorrl.learning.distribution import put
from tensorrl.learning.recording import Recorder, Stage
from tensorrl.networks.frames import FRAME_SHAPE
from tensorrl.networks.qnetwork import QNetwork

Watch = Callable[[int, npt.NDArray[np.float32]], None]
"""Called with an action and the Q-values (actions,) of all."""


class StackedPolicy:
    """A greedy policy that keeps its own stacks of frames, for evaluation.

    A pass through the network always has `batch` rows, filled up where fewer games wait, and a game has the same one in
    every pass: how products are rounded depends on the size of a batch, with some libraries on a row's place in it too,
    but not on the other rows. So the same games are played however many are played at once.

    While the frames of a game do not change, its action is repeated without a pass: if an agent never presses FIRE, a
    game of Breakout stands still for 27,000 agent steps.

    Args:
        network: in evaluation mode while it is asked.
        seats: games that are played at once.
        batch: rows of a pass.
        recorder: records the pass where the network is on a GPU.
    """

    def __init__(self, network: QNetwork, seats: int, *, batch: int = BATCH, recorder: Recorder | None = None) -> None:
        self.network, self.batch = network, batch
        device, torso, stack = network.support.device, network.torso, network.spec.stack
        self.recorder = Recorder(device) if recorder is None else recorder
        # Rows that fill up a pass have stacks of their own, which nobody looks at.
        places = seats + batch
        self._stacks = torch.zeros(places, stack, *torso.stored_shape, dtype=torso.stored_dtype, device=device)
        self._stage = Stage(batch * (8 + FRAME_SHAPE[0] * FRAME_SHAPE[1]), self.recorder)
        self._places, self._frames = (part.numpy() for part in _parts(torch.from_numpy(self._stage.host), batch))
        self._recorded = self.recorder.record(self.look)
        self._newest: list[Frame | None] = [None] * seats
        self._unchanged = [0] * seats
        self._actions = np.zeros(seats, dtype=np.int64)
        self.q_values: npt.NDArray[np.float32] = np.zeros((seats, network.spec.actions), dtype=np.float32)
        """(seats, actions), what each seat's last action was chosen by."""

    def see(self, seat: int, frame: Frame, *, begins: bool) -> int | None:
        """Takes a seat's newest frame; returns the action where the stack is the one that was last asked about."""
        newest = self._newest[seat]
        if begins:
            self._stacks[seat] = 0
            self._unchanged[seat] = 0
        elif newest is not None and np.array_equal(frame, newest):
            self._unchanged[seat] += 1
        else:
            self._unchanged[seat] = 0
        self._newest[seat] = frame
        return int(self._actions[seat]) if self._unchanged[seat] >= self.network.spec.stack else None

    def choose(self, seats: list[int], rows: list[int]) -> npt.NDArray[np.int64]:
        """Returns the greedy actions (seats,) for the newest stacks of some seats, each at a row of its own."""
        self._stage.wait()
        self._places[:] = np.arange(len(self._newest), len(self._newest) + self.batch)
        self._places[rows] = seats
        for row, seat in zip(rows, seats, strict=True):
            self._frames[row] = self._newest[seat]
        self._stage.send()
        self.q_values[seats] = self.recorder.fetch(self._recorded())[rows]
        self._actions[seats] = self.q_values[seats].argmax(1)
        return self._actions[seats]

    @torch.no_grad()
    def look(self) -> Tensor:
        """The part of `choose` that works on tensors alone: moves stacks on by a frame, and values (batch, actions)."""
        places, frames = _parts(self._stage.device, self.batch)
        stored = self.network.torso.encode(frames)
        stacks = torch.cat((self._stacks.index_select(0, places)[:, 1:], stored[:, None]), 1)
        if self.recorder.active:
            put(self._stacks, places, stacks)
        else:
            self._stacks.index_copy_(0, places, stacks)
        return self.network.q_values(self.network(stacks))


def _parts(sent: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """The places (batch,) int64 and frames (batch, 84, 84) uint8 of what is sent for a pass."""
    return sent[: 8 * batch].view(torch.int64), sent[8 * batch :].view(batch, *FRAME_SHAPE)


class Evaluator:
    """Plays full games with a network's mean; keeps emulators and recordings for the next evaluation.

    Args:
        network: whose parameters stay in place.
        game: ALE's name.
        recorder: of the agent that trains the network, if any.
    """

    def __init__(self, network: QNetwork, game: str, recorder: Recorder | None = None) -> None:
        self.network = network
        self._recorder = Recorder(network.support.device) if recorder is None else recorder
        self._games = EvaluationGames(game)
        self._policies: dict[tuple[int, int], StackedPolicy] = {}

    def play(
        self, *, episodes: int, seed: int, epsilon: float, threads: int = 1, watch: Watch | None = None, **options: Any
    ) -> list[Episode]:
        """Plays full games; see `EvaluationGames.play` for the options.

        Args:
            episodes: how many games.
            seed: of the whole evaluation.
            epsilon: probability of a random action.
            threads: cores for the emulators. The network's passes take one: more do not make 16 rows faster.
            watch: called at every step of the first game.
            options: others of `EvaluationGames.play`.
        """
        size = seats_of(episodes, threads, options.get("at_once")), min(BATCH, episodes)
        if size not in self._policies:
            self._policies[size] = StackedPolicy(self.network, size[0], batch=size[1], recorder=self._recorder)
        policy = self._policies[size]
        if watch is not None:
            options["on_action"] = lambda action: watch(action, policy.q_values[0])
        training = self.network.training
        self.network.eval()
        try:
            with system.one_thread():
                return self._games.play(
                    policy, episodes=episodes, seed=seed, epsilon=epsilon, threads=threads, **options
                )
        finally:
            self.network.train(training)

    def close(self) -> None:
        """Ends the emulators."""
        self._games.close()


def evaluate(network: QNetwork, game: str, **options: Any) -> list[Episode]:
    """Plays one evaluation with a network's mean (no noise); see `Evaluator.play` for the options."""
    with closing(Evaluator(network, game)) as evaluator:
        return evaluator.play(**options)
