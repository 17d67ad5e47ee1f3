"""A training's state in memory, for `Algorithm.get_state`, and as files, for RLlib's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard
from ray.rllib.utils.checkpoints import Checkpointable
from torch import Tensor

from tensorrl.errors import InputError
from tensorrl.trial import checkpoints
from tensorrl.trial.training import Training


@contextmanager
def told() -> Iterator[None]:
    """Turns the exception of a state that does not fit into an error of one line.

    Raises:
        InputError: in place of such an exception.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"checkpoint: does not fit this config ({reason[:300]})") from None


def snapshot(training: Training) -> dict[str, Any]:
    """Everything that the rest of a training depends on, as it is now."""
    tensors: dict[str, Tensor] = {}
    plain = checkpoints.pack(training.get_state(), tensors)
    replay = training.replay
    first = max(0, replay.writes - replay.capacity)
    frames = checkpoints.frame_bytes(training, first, replay.writes)
    return {
        "plain": plain,
        "tensors": {name: tensor.clone() for name, tensor in tensors.items()},
        "first": first,
        "frames": zstandard.ZstdCompressor(level=1).compress(frames),
    }


def put_back(training: Training, state: dict[str, Any]) -> None:
    """Restores a training from a snapshot.

    Raises:
        InputError: the snapshot is of another network, game or replay.
    """
    with told():
        # Optimizers keep the tensors they are given, and would change the snapshot.
        tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}
        found = checkpoints.unpack(state["plain"], tensors)
        _keep_streams(training, found)
        training.set_state(found)
        frames, first = bytearray(zstandard.ZstdDecompressor().decompress(state["frames"])), state["first"]
        if frames:
            checkpoints.put_frames(training, frames, first, begin=first, forgotten=True)


def _keep_streams(training: Training, state: dict[str, Any]) -> None:
    """Keeps the seed of the games, like the generators in the state, whatever the config's seed is."""
    training.game.seed = int(state["game"]["seed"])


class TrainingFiles(Checkpointable):  # type: ignore[misc]
    """The training as a component of an RLlib checkpoint: our files, read without unpickling."""

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm

    def save_to_path(self, path: Any = None, **_: Any) -> str:
        """Writes a checkpoint of the training below `path`."""
        checkpoints.save(self._algorithm.training, Path(path))
        return str(path)

    def restore_from_path(self, path: Any, **_: Any) -> None:
        """Takes the newest checkpoint below `path`.

        Raises:
            InputError: it is of another network, game or replay.
        """
        with told():
            newest, training = checkpoints.checkpoints(Path(path))[-1], self._algorithm.training
            state = checkpoints.read(newest)
            _keep_streams(training, state["training"])
            checkpoints.put_back(training, newest, state)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """A snapshot."""
        return snapshot(self._algorithm.training)

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes a snapshot."""
        put_back(self._algorithm.training, state)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Never built on its own."""
        return (), {}
