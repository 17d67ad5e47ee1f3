"""A CUDA graph on a CPU: operators are recorded once with the tensors they touch, and replayed on those same tensors.

What Python decides while a function is recorded is frozen, as in a CUDA graph, and a host sync raises. So a trial whose
functions are recorded here, and which ends at the bits of one that calls them, holds what a GPU's recordings need.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tensorrl.learning.recording import Recorder

# Operators that launch no kernel: they take memory, or look at some in another way.
FREE = frozenset(
    {"alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided"}
    | {"set_", "resize_", "_record_function_enter_new", "_record_function_exit"}
)
SYNCS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"})


class HostSync(RuntimeError):
    """A value was asked for while a function was recorded."""


def name_of(function: Any) -> str:
    return function._schema.name.split("::")[1]


def storages(tree: Any) -> set[int]:
    return {leaf.untyped_storage()._cdata for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


class Operators(TorchDispatchMode):
    """Counts the operators that launch kernels, by name, and keeps their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if launches(function, args, kwargs or {}, out):
            self.names[name_of(function)] += 1
            self.seen.append((function, args, kwargs or {}))
        return out


def launches(function: Any, args: Any, kwargs: Any, out: Any) -> bool:
    """Whether an operator launches a kernel: it is no view and does not only take memory."""
    if name_of(function) in FREE:
        return False
    if function._schema.is_mutable or name_of(function) in SYNCS:
        return True
    return not storages(out) <= storages((args, kwargs))


class Tape(TorchDispatchMode):
    """Keeps every operator of a function, and does them again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor] | None]] = []
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if name_of(function) in SYNCS:
            raise HostSync(f"{name_of(function)}: a value was asked for inside a recording")
        out = function(*args, **kwargs)
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if launches(function, args, kwargs, out):
            self.names[name_of(function)] += 1
        if function._schema.is_mutable:
            self.calls.append((function, args, kwargs, None))
        elif not storages(outs) <= storages((args, kwargs)):
            self.calls.append((function, args, kwargs, outs))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, outs in self.calls:
            again = function(*args, **kwargs)
            if outs is not None:
                found = [leaf for leaf in tree_leaves(again) if isinstance(leaf, torch.Tensor)]
                for old, new in zip(outs, found, strict=True):
                    old.copy_(new)


class OperatorRecorder(Recorder):
    """Records on a CPU.

    Args:
        replays: whether functions are replayed, or only called as a GPU would call them before it records.
    """

    def __init__(self, *, replays: bool = True) -> None:
        super().__init__(torch.device("cpu"))
        self.active, self.replays = True, replays
        self.tapes: dict[str, Tape] = {}

    def warm_up(self, function):
        return function()

    def capture(self, function, name):
        if not self.replays:
            return function
        tape = Tape()
        # A recording on a GPU does not do the work; here it does, so the first replay has nothing to do.
        with tape:
            result = function()
        self.tapes[name] = tape
        fresh = [True]

        def replay():
            if not (fresh and fresh.pop()):
                tape.replay()
            return result

        return replay
