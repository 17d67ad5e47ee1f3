"""Prioritized replay of single frames with n-step returns, on any device, without Python loops.

What is sampled (`SumBlocks`, a distribution over slots) is kept apart from what is stored (`Replay`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tensorrl.learning.distribution import SumBlocks, WholeSumBlocks, put, zeros
from tensorrl.learning.recording import Recorder
from tensorrl.learning.transfer import Arriving, Transfer, Write

_SMALLEST = 1e-8


class Batch(NamedTuple):
    """Transitions for one update; s_tm1, a_tm1, the n-step return, its discount and s_t."""

    slots: Tensor
    """(batch,) int64, where each transition lies in replay."""
    stacks: Tensor
    """(batch, stack, *stored frame)."""
    actions: Tensor
    """(batch,) int64."""
    returns: Tensor
    """(batch,) float32, discounted sum of clipped rewards over m ≤ n steps."""
    discounts: Tensor
    """(batch,) float32, γ^m, or 0 where the episode ended on the way."""
    next_stacks: Tensor
    """(batch, stack, *stored frame), m steps later."""
    weights: Tensor
    """(batch,) float32, importance weights divided by the largest of the batch."""
    ahead: Tensor | None = None
    """(batch + 1, stack, *stored frame): `next_stacks` and after them the newest stack, in one piece."""


class Replay:
    """The last `capacity` transitions, one frame each; a stack is gathered when it is sampled.

    A transition can be sampled as soon as its n-step return is known: after n further steps, or at the end of its
    episode, where the return is truncated rather than the state skipped. A lost life ends an episode for learning
    (`terminal`) while the game, and with it the stack of frames, goes on. A game cut off by its frame limit is no
    terminal: its last states bootstrap from the frame on which it was cut.

    The frames of a stack lie side by side: a game begins with blank frames for what came before it, so that a stack
    is a window on the frames and a batch is gathered in long copies, which memory gives faster than many short ones.

    Args:
        capacity: slots; one for each agent step, `stack` for each game's beginning, and one for each game cut off.
        frame_shape: shape of a stored frame.
        frame_dtype: its dtype.
        source_shape: shape of a frame as it arrives, in uint8; by default it arrives as it is stored.
        encode: makes stored frames (n, *frame_shape) of (n, *source_shape).
        stack: frames in an observation; those before a game's start are zero.
        n_step: n.
        discount: γ.
        exponent: ω; priorities are loss^ω.
        device: where everything lies.
        recorder: makes recordings; by default one for the device.
    """

    def __init__(
        self,
        capacity: int,
        frame_shape: tuple[int, ...],
        frame_dtype: torch.dtype = torch.uint8,
        *,
        source_shape: tuple[int, ...] | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        stack: int = 4,
        n_step: int = 20,
        discount: float = 0.99,
        exponent: float = 0.5,
        device: torch.device | str = "cpu",
        recorder: Recorder | None = None,
    ) -> None:
        if capacity < n_step + stack + 2:
            raise ValueError(f"replay capacity {capacity} is too small for n_step {n_step} and stack {stack}")
        self.capacity, self.stack, self.n_step, self.discount = capacity, stack, n_step, discount
        self.exponent, self.device = exponent, torch.device(device)
        self.frame_shape = frame_shape
        self.recorder = recorder = Recorder(self.device) if recorder is None else recorder
        self._encode = encode
        # The frame of a slot lies `stack - 1` rows further down, and the last of them once more before the first. The
        # row after them, and the slot after all others, take what is not to be kept.
        self._rows = zeros((capacity + stack, *frame_shape), frame_dtype, self.device)
        self.frames = self._rows[:-1]
        size = math.prod(frame_shape)
        self._windows = self.frames.as_strided((capacity, stack * size), (size, 1))
        self.blank = torch.zeros(capacity, dtype=torch.bool)
        """(capacity,), on the host: which slots stand for what came before a game began."""
        self._actions, self._bootstraps = (
            torch.zeros(capacity + 1, dtype=torch.int64, device=device) for _ in range(2)
        )
        self._returns, self._discounts = (torch.zeros(capacity + 1, device=device) for _ in range(2))
        self.actions, self.bootstraps = self._actions[:-1], self._bootstraps[:-1]
        self.returns, self.discounts = self._returns[:-1], self._discounts[:-1]
        self.distribution = (WholeSumBlocks if recorder.active else SumBlocks)(capacity + 1, device)
        self._sampled = torch.zeros(capacity + 1, dtype=torch.bool, device=device)
        self.sampled = self._sampled[:-1]
        """(capacity,): which slots' transitions an update has learned from."""
        self.max_priority = torch.ones((), dtype=torch.float64, device=device)
        self.newest = torch.zeros(1, dtype=torch.int64, device=device)
        """(1,): the slot of the newest frame."""
        self.writes = 0
        self.count = 0
        self._pending: deque[tuple[int, float]] = deque()
        self._powers = [discount**k for k in range(n_step + 1)]
        self._sampleable = np.zeros(capacity, dtype=np.bool_)
        arriving = (source_shape or frame_shape, torch.uint8 if source_shape else frame_dtype)
        self._transfer = Transfer(
            *arriving, most_finished=n_step, most_stale=stack, spare=(len(self.frames), capacity), recorder=recorder
        )
        self._recorded_write = recorder.record(self._write)
        self._recorded_update = recorder.record(self._update_priorities)

    @property
    def _slot(self) -> int:
        return (self.writes - 1) % self.capacity

    def begin_game(self, frame: Arriving) -> None:
        """Starts a game with its first frame, as it arrives, after `stack - 1` blank ones."""
        for arriving in (*(None,) * (self.stack - 1), frame):
            write = Write(self._slot)
            self._add_frame(write, arriving)
            self._send(write)

    def add(self, action: int, reward: float, frame: Arriving, *, terminal: bool, over: bool) -> None:
        """Adds the transition from the newest frame.

        Args:
            action: what was done.
            reward: clipped reward.
            frame: the frame that followed, as it arrives.
            terminal: whether the episode ended for learning: a life or the game lost.
            over: whether the game is over; with `terminal` false it was cut off. `begin_game` must follow.
        """
        slot = self._slot
        write = Write(slot, action=(slot, action))
        self._pending.append((slot, reward))
        if not over or not terminal:
            self._add_frame(write, frame)
        if terminal or over:
            while self._pending:
                self._finish_oldest(write, bootstrap=slot if terminal else self._slot, terminal=terminal)
        elif len(self._pending) == self.n_step:
            self._finish_oldest(write, bootstrap=self._slot, terminal=False)
        self._send(write)

    def _add_frame(self, write: Write, frame: Arriving | None) -> None:
        """Makes a frame, or a blank one, the newest."""
        slot = self.writes % self.capacity
        if self.writes >= self.capacity:
            # The stacks of the next `stack − 1` slots reach back to the frame that goes now.
            stale = [(slot + ahead) % self.capacity for ahead in range(self.stack)]
            self.count -= int(self._sampleable[stale].sum())
            self._sampleable[stale] = False
            write.stale = stale
        write.rows, write.frame, write.newest = self._places(slot), frame, slot
        self.blank[slot] = frame is None
        self.writes += 1

    def _send(self, write: Write) -> None:
        self._transfer.send(write)
        self._recorded_write(self._transfer)

    def _write(self, sent: Transfer) -> None:
        """Does what was sent, by work on tensors alone."""
        frame = sent.frame[None]
        stored = frame if self._encode is None else self._encode(frame)
        # Blank frames are zero as they are stored.
        self._put(self._rows, sent.rows, (stored * sent.keep).expand(len(sent.rows), *self.frame_shape))
        self._put(self._actions, sent.action_slot, sent.action)
        self._put(self._returns, sent.finished, sent.returns)
        self._put(self._discounts, sent.finished, sent.discounts)
        self._put(self._bootstraps, sent.finished, sent.bootstraps)
        self.distribution.set(sent.changed, sent.sampleable * self.max_priority)
        self._sampled.index_fill_(0, sent.stale, False)
        self.newest.copy_(sent.newest)

    def _put(self, target: Tensor, places: Tensor, values: Tensor) -> None:
        if self.recorder.active:
            put(target, places, values)
        else:
            target[places] = values

    def _places(self, slot: int) -> tuple[int, int]:
        """Rows of `frames` where a slot's frame lies: the last slots' twice, for windows that span the ring's end."""
        own = slot + self.stack - 1
        return own, own - self.capacity if own >= self.capacity else own

    def read_frames(self, first: int, end: int) -> Tensor:
        """The frames from the `first` written to before the `end`-th, (end − first, *stored frame)."""
        slots = torch.arange(first, end, device=self.device) % self.capacity
        return self.frames.index_select(0, slots + self.stack - 1)

    def restore_frames(self, first: int, frames: Tensor) -> None:
        """Puts back frames (n, *stored frame), the first of which was the `first` written; blank ones stay blank."""
        slots = torch.arange(first, first + len(frames), device=self.device) % self.capacity
        frames = frames.to(self.device)
        frames[self.blank.to(self.device)[slots]] = 0
        self.frames[slots + self.stack - 1] = frames
        spanning = slots + self.stack - 1 >= self.capacity
        self.frames[slots[spanning] + self.stack - 1 - self.capacity] = frames[spanning]

    def _finish_oldest(self, write: Write, *, bootstrap: int, terminal: bool) -> None:
        """Makes the oldest pending transition sampleable, with the rewards that are pending as its return."""
        value = sum(power * reward for power, (_, reward) in zip(self._powers, self._pending, strict=False))
        length = len(self._pending)
        slot, _ = self._pending.popleft()
        write.finished.append((slot, value, 0.0 if terminal else self._powers[length], bootstrap))
        self._sampleable[slot] = True
        self.count += 1

    def check_sampleable(self) -> None:
        """Refuses to sample from nothing.

        Raises:
            ValueError: no transition's n-step return is known yet.
        """
        if self.count == 0:
            raise ValueError("replay holds no transition with a known n-step return yet")

    def _finish_overdue(self) -> None:
        """Makes the oldest pending transition sampleable, with the first n rewards as its return."""
        n, pending = self.n_step, list(self._pending)
        slot = pending[0][0]
        self._pending.popleft()
        self.returns[slot] = sum(self._powers[k] * reward for k, (_, reward) in enumerate(pending[:n]))
        self.discounts[slot] = self._powers[n]
        self.bootstraps[slot] = pending[n][0] if len(pending) > n else self._slot
        self.distribution.set(torch.tensor([slot], device=self.device), self.max_priority)
        self._sampleable[slot] = True
        self.count += 1

    def latest_stack(self) -> Tensor:
        """The newest observation, (1, stack, *stored frame)."""
        return self._gather(self.newest)

    def _gather(self, slots: Tensor) -> Tensor:
        """Stacks (batch, stack, *stored frame) of slots (batch,)."""
        return self._windows.index_select(0, slots).view(len(slots), self.stack, *self.frame_shape)

    def sample(self, batch: int, beta: float | Tensor, generator: torch.Generator) -> Batch:
        """Samples transitions in proportion to priority, with importance weights (N P)^−β / max.

        Args:
            batch: how many.
            beta: strength of the correction, 0 to 1.
            generator: source of the draw, on this replay's device.

        Raises:
            ValueError: no transition can be sampled yet.
        """
        self.check_sampleable()
        uniforms = torch.rand(batch, dtype=torch.float64, generator=generator, device=self.device)
        slots, priorities = self.distribution.sample(uniforms)
        # N and the total mass cancel in the division by the largest weight, which belongs to the smallest priority.
        weights = (priorities.min() / priorities).pow_(beta).float()
        stacks = self._gather(torch.cat((slots, self.bootstraps.index_select(0, slots), self.newest)))
        return Batch(
            slots=slots,
            stacks=stacks[:batch],
            actions=self.actions.index_select(0, slots),
            returns=self.returns.index_select(0, slots),
            discounts=self.discounts.index_select(0, slots),
            next_stacks=stacks[batch : 2 * batch],
            weights=weights,
            ahead=stacks[batch:],
        )

    def transitions(self, slots: Tensor) -> Batch:
        """The transitions of slots (batch,), each weighing 1."""
        stacks = self._gather(torch.cat((slots, self.bootstraps[slots])))
        return Batch(
            slots=slots,
            stacks=stacks[: len(slots)],
            actions=self.actions[slots],
            returns=self.returns[slots],
            discounts=self.discounts[slots],
            next_stacks=stacks[len(slots) :],
            weights=torch.ones(len(slots), device=self.device),
        )

    def update_priorities(self, slots: Tensor, losses: Tensor) -> None:
        """Sets priorities to loss^ω for slots (batch,) and their unweighted losses (batch,)."""
        self._recorded_update(slots, losses)

    def _update_priorities(self, slots: Tensor, losses: Tensor) -> None:
        priorities = losses.double().clamp_(min=_SMALLEST).pow_(self.exponent)
        self.distribution.set(slots, priorities)
        self.sampled.index_fill_(0, slots, True)
        torch.maximum(self.max_priority, priorities.max(), out=self.max_priority)

    def get_state(self) -> dict[str, Any]:
        """Everything but the frames, of the slots in use: tensors, and plain values under "plain"."""
        used = min(self.writes, self.capacity)
        return {
            "blank": self.blank[:used].to(torch.uint8),
            "actions": self.actions[:used].to(torch.uint8),
            "returns": self.returns[:used],
            "discounts": self.discounts[:used],
            "bootstraps": self.bootstraps[:used].to(torch.int32),
            "sampled": self.sampled[:used].to(torch.uint8),
            "priorities": self.distribution.priorities.view(-1)[:used],
            "max_priority": self.max_priority,
            "plain": {
                "writes": self.writes,
                "count": self.count,
                "pending": [list(item) for item in self._pending],
                "capacity": self.capacity,
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` gave; the frames are put back after it, by `restore_frames`.

        Returns that are known stay as they are, also those over another n or discount.

        Raises:
            ValueError: the state is that of a replay of another capacity, and has come round or is too large for this.
        """
        plain = state["plain"]
        if plain["capacity"] != self.capacity and plain["writes"] > min(plain["capacity"], self.capacity):
            raise ValueError(f"state of {plain['capacity']} slots that does not fit {self.capacity} slots")
        used = min(plain["writes"], self.capacity)
        for name in ("blank", "actions", "returns", "discounts", "bootstraps"):
            getattr(self, name)[:used].copy_(state[name])
        # Of states from before this was kept, nothing counts as held out.
        self.sampled[:used] = state["sampled"].to(self.sampled) if "sampled" in state else True
        # Slots beyond those may have been in use when this was called: nothing of them must be drawn.
        self.distribution.priorities.zero_()
        self._sampleable[:] = False
        self.distribution.restore(state["priorities"])
        self._sampleable[:used] = (state["priorities"] > 0).numpy(force=True)
        self.max_priority.copy_(state["max_priority"])
        self.writes, self.count = plain["writes"], plain["count"]
        self.newest.fill_(self._slot)
        self._pending = deque((int(slot), float(reward)) for slot, reward in plain["pending"])
        # Of a state with a larger n: what is overdue by this one's is known.
        while len(self._pending) >= self.n_step:
            self._finish_overdue()
