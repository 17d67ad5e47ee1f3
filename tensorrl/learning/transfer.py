"""What one agent step writes to replay, brought to the device in one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tensorrl.learning.recording import Recorder, Stage

Arriving = Tensor | npt.NDArray[np.uint8]
"""A frame as it arrives, on the host or as a tensor."""


@dataclass
class Write:
    """One step's writes, as the host knows them.

    Attributes:
        newest: slot of the newest frame.
        action: slot of the transition whose action is known now, and that action.
        rows: where a frame is written, twice the same where it lies once; None where none is.
        frame: as it arrives; None for a blank one.
        stale: slots that can no longer be sampled.
        finished: (slot, return, discount, bootstrap slot) of transitions that can be sampled from now on.
    """

    newest: int
    action: tuple[int, int] | None = None
    rows: tuple[int, int] | None = None
    frame: Arriving | None = None
    stale: Sequence[int] = ()
    finished: list[tuple[int, float, float, int]] = field(default_factory=list)


class Transfer:
    """A step's writes in tensors of fixed shapes that stay in place; unused entries go to a spare row and slot.

    Args:
        shape: of a frame as it arrives.
        dtype: likewise.
        most_finished: transitions that one step can finish, n.
        most_stale: slots that one frame can make stale.
        spare: a row and a slot that nobody reads.
        recorder: of the replay.

    Attributes:
        frame: as it arrives.
        keep: (1,), in the frame's type: 0 for a blank frame, else 1.
        rows: (2,) int64.
        action_slot: (1,) int64.
        action: (1,) int64.
        newest: (1,) int64.
        stale: (most_stale,) int64, slots.
        finished: (most_finished,) int64, slots.
        bootstraps: (most_finished,) int64.
        returns: (most_finished,) float32.
        discounts: (most_finished,) float32.
        changed: (most_stale + most_finished,) int64, slots whose priority changes.
        sampleable: (most_stale + most_finished,) float64, 1 where it becomes the largest, else 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        most_finished: int,
        most_stale: int,
        spare: tuple[int, int],
        recorder: Recorder,
    ) -> None:
        n, stale, size = most_finished, most_stale, math.prod(shape)
        fields: dict[str, tuple[torch.dtype, int]] = {
            "changed": (torch.int64, stale + n),
            "bootstraps": (torch.int64, n),
            "rows": (torch.int64, 2),
            "action_slot": (torch.int64, 1),
            "action": (torch.int64, 1),
            "newest": (torch.int64, 1),
            "sampleable": (torch.float64, stale + n),
            "returns": (torch.float32, n),
            "discounts": (torch.float32, n),
            "keep": (dtype, 1),
            "frame": (dtype, size),
        }
        sizes = {name: count * kind.itemsize for name, (kind, count) in fields.items()}
        self._stage = Stage(sum(-(-size // 8) * 8 for size in sizes.values()), recorder)
        on_host = torch.from_numpy(self._stage.host)
        host: dict[str, Tensor] = {}
        device: dict[str, Tensor] = {}
        start = 0
        for name, (kind, _) in fields.items():
            end = start + sizes[name]
            host[name], device[name] = (memory[start:end].view(kind) for memory in (on_host, self._stage.device))
            start = -(-end // 8) * 8
        self._host: dict[str, npt.NDArray[Any]] = {name: tensor.numpy() for name, tensor in host.items()}
        self._host["frame"] = self._host["frame"].reshape(shape)
        self.frame, self.keep, self.rows, self.newest = (
            device["frame"].view(shape), device["keep"], device["rows"], device["newest"],
        )  # fmt: skip
        self.action_slot, self.action = device["action_slot"], device["action"]
        self.changed, self.sampleable = device["changed"], device["sampleable"]
        self.stale, self.finished = device["changed"][:stale], device["changed"][stale:]
        self.bootstraps = device["bootstraps"]
        self.returns, self.discounts = device["returns"], device["discounts"]
        self._stale, self._spare_row, self._spare_slot = stale, *spare

    def send(self, write: Write) -> None:
        """Writes the step to pinned memory and sends it."""
        host, stale = self._host, self._stale
        self._stage.wait()
        host["newest"][0] = write.newest
        host["rows"][:] = self._spare_row if write.rows is None else write.rows
        host["action_slot"][0], host["action"][0] = write.action or (self._spare_slot, 0)
        host["changed"].fill(self._spare_slot)
        host["changed"][: len(write.stale)] = write.stale
        host["sampleable"].fill(0)
        for k, (slot, value, discount, bootstrap) in enumerate(write.finished):
            host["changed"][stale + k], host["bootstraps"][k] = slot, bootstrap
            host["returns"][k], host["discounts"][k] = value, discount
            host["sampleable"][stale + k] = 1
        host["keep"][0] = write.frame is not None
        if write.frame is not None:
            frame = write.frame
            host["frame"][...] = frame.numpy(force=True) if isinstance(frame, Tensor) else frame
        self._stage.send()
