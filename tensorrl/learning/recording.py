"""Functions of tensors that stay in place: called as they are on a CPU, replayed as CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

WARM_UPS = 3
"""Calls on the side stream before a recording, in which libraries choose kernels and optimizers make their state."""


class Recorder:
    """Makes the recordings of one trial.

    Attributes:
        active: whether functions are recorded on its device. Where they are, nothing in them may wait for a value.
        device: where the functions work.

    Args:
        device: a CUDA device, or any other, where functions are called as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.active = device, device.type == "cuda"
        self._answer: Tensor | None = None
        if self.active:
            # One for all: cuBLAS keeps a workspace of 32 MiB for every stream that it has worked on.
            self._side = torch.cuda.Stream(device)
            self._answer = torch.zeros((), dtype=torch.int64, pin_memory=True)
            self._answered = torch.cuda.Event(blocking=True)
        self._generators: list[torch.Generator] = []
        self._made: list[Recorded[Any, Any]] = []
        self._fetched: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def register(self, generator: torch.Generator) -> None:
        """Says that recorded functions draw from `generator`, which is on the recorder's device."""
        self._generators.append(generator)

    def record(self, function: Callable[P, R]) -> Recorded[P, R]:
        """A function that does the same, recorded once it has been called a few times on the same arguments."""
        made = Recorded(function, self)
        self._made.append(made)
        return made

    def forget(self) -> None:
        """Drops all recordings, because the tensors were replaced, as after a restore."""
        for made in self._made:
            made.forget()

    def warm_up(self, function: Callable[[], R]) -> R:
        """Calls a function on the side stream, as PyTorch asks for before a capture."""
        present = torch.cuda.current_stream(self.device)
        self._side.wait_stream(present)
        with torch.cuda.stream(self._side):
            result = function()
        present.wait_stream(self._side)
        return result

    def capture(self, function: Callable[[], R], name: str) -> Callable[[], R]:
        """Records a function, called `name`, without doing its work.

        Returns:
            A callable that does the work and returns the function's result, which stays in place.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._side):
            result = function()

        def replay() -> R:
            graph.replay()
            return result

        return replay

    def read(self, value: Tensor) -> int:
        """A whole number (0-dim) from the device, after all work before it."""
        if self._answer is None:
            return int(value)
        self._answer.copy_(value, non_blocking=True)
        self._answered.record()
        # Sleeps while it waits: a spinning core would be lost to another trial's emulator.
        self._answered.synchronize()
        return int(self._answer)

    def fetch(self, values: Tensor) -> npt.NDArray[Any]:
        """Values from the device, after all work before them. The next call for a shape overwrites what this gave."""
        if values.device.type != "cuda":
            return values.numpy()
        key = values.shape, values.dtype
        if key not in self._fetched:
            self._fetched[key] = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        fetched = self._fetched[key]
        fetched.copy_(values, non_blocking=True)
        self._answered.record()
        self._answered.synchronize()
        return fetched.numpy()


class Stage:
    """A few bytes that the host writes and the device reads, sent by one copy that nobody waits for.

    Attributes:
        host: (bytes,) uint8; write to it after `wait`.
        device: (bytes,) uint8, on the recorder's device: what was last sent.
    """

    def __init__(self, size: int, recorder: Recorder) -> None:
        self.device = torch.zeros(size, dtype=torch.uint8, device=recorder.device)
        self._memory = self.device
        self._sent: torch.cuda.Event | None = None
        if recorder.active:
            on_gpu = recorder.device.type == "cuda"
            self._memory = torch.zeros(size, dtype=torch.uint8, pin_memory=on_gpu)
            self._sent = torch.cuda.Event(blocking=True) if on_gpu else None
        self.host: npt.NDArray[np.uint8] = self._memory.numpy()

    def wait(self) -> None:
        """Waits until what was sent last has left the host's memory, as it nearly always has."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self) -> None:
        """Starts the copy to the device; where that is the host's own memory there is nothing to do."""
        if self._memory is not self.device:
            self.device.copy_(self._memory, non_blocking=True)
        if self._sent is not None:
            self._sent.record()


class Recorded(Generic[P, R]):
    """A function that is recorded once and replayed; made by `Recorder.record`.

    A hundred small kernels cost a launch each from Python, one launch as a graph. Every call does the function's work
    exactly once. It is recorded once it has been called with the same arguments, the very same objects, several times.
    Called with others it does its work without a recording. What Python decides in it is decided when it is recorded.

    Args:
        function: its result holds tensors that each replay overwrites.
        recorder: makes the recording, on devices where there are any.
    """

    def __init__(self, function: Callable[P, R], recorder: Recorder) -> None:
        self.function, self.recorder = function, recorder
        self.forget()

    @property
    def is_recorded(self) -> bool:
        """Whether calls replay a recording by now."""
        return self._replay is not None

    def forget(self) -> None:
        """Drops the recording."""
        self._replay: Callable[[], R] | None = None
        self._arguments: tuple[Any, ...] = ()
        self._calls = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Does the function's work once and returns its result."""
        if not self.recorder.active:
            return self.function(*args, **kwargs)
        arguments = (*args, *kwargs.values())
        same = len(arguments) == len(self._arguments) and all(map(_is, arguments, self._arguments))
        if self._replay is None:
            self._arguments = arguments
            self._calls += 1
            if not same or self._calls <= WARM_UPS:
                return self.recorder.warm_up(lambda: self.function(*args, **kwargs))
            self._replay = self.recorder.capture(lambda: self.function(*args, **kwargs), self.function.__name__)
        elif not same:
            return self.recorder.warm_up(lambda: self.function(*args, **kwargs))
        return self._replay()


def _is(one: Any, other: Any) -> bool:
    return one is other
