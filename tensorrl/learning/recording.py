"""Functions of tensors that stay in place: called as they are on a CPU, replayed as CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

WARM_UPS = 3
"""Calls on a side stream before a recording, in which libraries choose kernels and optimizers make their state."""


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
        self._generators: list[torch.Generator] = []
        self._made: list[Recorded[Any, Any]] = []

    def register(self, generator: torch.Generator) -> None:
        """Says that recorded functions draw from `generator`, which is on the recorder's device."""
        self._generators.append(generator)

    def record(self, function: Callable[P, R]) -> Recorded[P, R]:
        """A function that does the same, recorded once it has been called a few times on the same arguments."""
        made = Recorded(function, self)
        self._made.append(made)
        return made

    def forget(self) -> None:
        """Drops what is recorded: tensors are others now, as after a restore."""
        for made in self._made:
            made.forget()

    def warm_up(self, function: Callable[[], R]) -> R:
        """Calls a function on a side stream, as PyTorch asks for before a capture."""
        present, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(present)
        with torch.cuda.stream(side):
            result = function()
        present.wait_stream(side)
        return result

    def capture(self, function: Callable[[], R]) -> tuple[Callable[[], None], R]:
        """Records a function without doing its work; returns what replays it, and its result, which stays in place."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            result = function()
        return graph.replay, result


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
        self._replay: Callable[[], None] | None = None
        self._result: R | None = None
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
            self._replay, self._result = self.recorder.capture(lambda: self.function(*args, **kwargs))
        elif not same:
            return self.recorder.warm_up(lambda: self.function(*args, **kwargs))
        self._replay()
        return self._result  # type: ignore[return-value]


def _is(one: Any, other: Any) -> bool:
    return one is other
