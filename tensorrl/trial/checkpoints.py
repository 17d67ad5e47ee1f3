"""Checkpoints of a training: atomic, compact, checked, and read without unpickling.

A folder of checkpoints holds one folder per checkpoint, named by its agent steps, and the shared frames:

    checkpoints/
      00010000/state.json           the plain values of the state, and the place of each tensor
      00010000/state.safetensors    its tensors
      00010000/manifest.json        SHA-256 of every file this checkpoint needs, frames included
      frames/0000000000-0000010001.zst   frames of replay, each written once, shared by later checkpoints
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import zstandard
from torch import Tensor

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.learning.agent import AVERAGE
from tensorrl.trial.manifest import FRAMES, MANIFEST, STATE, TENSORS, parse_manifest, segments
from tensorrl.trial.names import inner_path
from tensorrl.trial.training import Training

_LEVEL = 3


class DamagedCheckpoint(Exception):
    """A checkpoint that is incomplete, or whose bytes differ from those that were written."""


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Splits a nested state into plain JSON values (returned) and tensors (collected by their path)."""
    if isinstance(tree, np.ndarray):
        tree = torch.from_numpy(tree)
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous()
        return {"$tensor": path}
    if isinstance(tree, dict):
        if all(isinstance(key, str) for key in tree):
            return {key: pack(value, tensors, f"{path}.{key}") for key, value in tree.items()}
        return {"$items": [[key, pack(value, tensors, f"{path}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [pack(value, tensors, f"{path}.{index}") for index, value in enumerate(tree)]
        return {"$tuple": items} if isinstance(tree, tuple) else items
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a checkpoint cannot hold {type(tree).__name__} at {path}")


def unpack(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuilds the state that `pack` has split."""
    if isinstance(plain, list):
        return [unpack(value, tensors) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if "$tensor" in plain:
        return tensors[plain["$tensor"]]
    if "$tuple" in plain:
        return tuple(unpack(value, tensors) for value in plain["$tuple"])
    if "$items" in plain:
        return {key: unpack(value, tensors) for key, value in plain["$items"]}
    return {key: unpack(value, tensors) for key, value in plain.items()}


def save(training: Training, folder: Path, extra: dict[str, Any] | None = None, *, keep: int | None = 2) -> Path:
    """Writes a checkpoint of `training` into a folder of checkpoints.

    Only frames that no earlier checkpoint in the folder holds are written. The checkpoint appears under its name once
    it is complete.

    Args:
        training: the training, between two agent steps.
        folder: the folder of the trial's checkpoints.
        extra: plain values to store with the state.
        keep: how many of the newest checkpoints to keep; None keeps all.

    Returns:
        The checkpoint's own folder.
    """
    frames = folder / FRAMES
    frames.mkdir(parents=True, exist_ok=True)
    needed = _save_frames(training, frames)
    name = f"{training.steps:08d}"
    state = {"training": training.get_state(), "extra": extra or {}}
    final = folder / name
    with files.replacing(final) as draft:
        _write_state(state, draft, {f"../{FRAMES}/{path.name}": path for path in needed})
        files.remove(final)
    if keep is not None:
        _prune(folder, keep)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def read(checkpoint: Path) -> dict[str, Any]:
    """Reads a checkpoint's state, after checking every byte it needs.

    Returns:
        "training", as `Training.set_state` takes it, and "extra".

    Raises:
        DamagedCheckpoint: a file is missing or differs from what was written.
    """
    try:
        for path, expected in _needed(checkpoint).items():
            if _sha256(path) != expected:
                raise DamagedCheckpoint(f"{path}: bytes differ from what was written")
        plain = json.loads((checkpoint / STATE).read_text())
        tensors = safetensors.torch.load_file(checkpoint / TENSORS)
        state: dict[str, Any] = unpack(plain, tensors)
    except InputError as error:
        raise DamagedCheckpoint(str(error)) from None
    except (OSError, ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise DamagedCheckpoint(f"{checkpoint}: {error}") from None
    return state


def _needed(checkpoint: Path) -> dict[Path, str]:
    """Returns the digests of a checkpoint's files, each of which is a plain file in the folder of checkpoints.

    Raises:
        InputError: the manifest names a file that does not belong to a checkpoint, or a device, a pipe or a link.
        OSError: the manifest or a file cannot be read.
    """
    manifest = inner_path(checkpoint, MANIFEST, where=str(checkpoint))
    needed = {}
    for name, digest in parse_manifest(_plain(manifest).read_bytes(), where=str(manifest)).items():
        above = name.startswith("../")
        path = inner_path(checkpoint / ".." if above else checkpoint, name.removeprefix("../"), where=str(manifest))
        needed[_plain(path)] = digest
    return needed


def _plain(path: Path) -> Path:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    return path


def restore(training: Training, checkpoint: Path) -> dict[str, Any]:
    """Restores `training` to the state in a checkpoint, and returns the checkpoint's "extra".

    Raises:
        DamagedCheckpoint: see `read`; `training` is then unchanged.
    """
    return put_back(training, checkpoint, read(checkpoint))


def put_back(training: Training, checkpoint: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Like `restore`, with a state that `read` returned."""
    training.set_state(state["training"])
    _load_frames(training, checkpoint)
    extra: dict[str, Any] = state["extra"]
    return extra


def acting_network(state: dict[str, Any]) -> dict[str, Tensor]:
    """The parameters of the network that acts, in a state that `read` returned: the average where there is one."""
    agent = state["training"]["agent"]
    found: dict[str, Tensor] = agent[AVERAGE] if AVERAGE in agent else agent["network"]
    return found


def export_network(checkpoint: Path, out: Path) -> None:
    """Writes the parts of a checkpoint that playing needs, its network and "extra", as a separate checkpoint.

    `read` can read it, but training cannot continue from it. Its network is the one that acts.

    Args:
        checkpoint: a full checkpoint.
        out: the folder of the new checkpoint, which must not exist.

    Raises:
        DamagedCheckpoint: see `read`.
    """
    state = read(checkpoint)
    training = state["training"]
    kept = {"training": {"steps": training["steps"], "agent": {"network": acting_network(state)}}}
    _write_state({**kept, "extra": state["extra"]}, out, {})


def _write_state(state: dict[str, Any], folder: Path, frames: dict[str, Path]) -> None:
    """Writes a state and the manifest that names it and the frames it needs."""
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    plain = pack(state, tensors)
    safetensors.torch.save_file(tensors, folder / TENSORS)
    (folder / STATE).write_text(json.dumps(plain))
    needed = {name: folder / name for name in (STATE, TENSORS)} | frames
    manifest = {relative: _sha256(path) for relative, path in needed.items()}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in folder.iterdir():
        files.sync_to_disk(path)


def frame_bytes(training: Training, first: int, end: int) -> bytes:
    """Frames from the `first` written to replay to before the `end`-th, or what its features were made of."""
    if training.sources is not None:
        return training.source_frames(first, end)
    return training.replay.read_frames(first, end).cpu().numpy().tobytes()


def put_frames(training: Training, data: bytearray, first: int, *, begin: int, forgotten: bool) -> None:
    """Puts back frames that `frame_bytes` returned.

    Args:
        training: the training, with its state already set.
        data: the frames, starting with number `first`.
        first: the number of the first frame.
        begin: the number of the first frame that replay lacks.
        forgotten: whether these are the oldest frames that replay holds.
    """
    replay = training.replay
    if training.sources is None:
        frames = torch.frombuffer(data, dtype=replay.frames.dtype).view(-1, *replay.frame_shape)[begin - first :]
    else:
        if forgotten:
            # Frames are counted from the trial's first, also where a ring has forgotten it.
            training.sources[:] = [b""] * first
        frames = training.encode_again(data)[begin - first :]
    replay.restore_frames(begin, frames)


def _save_frames(training: Training, folder: Path) -> list[Path]:
    """Writes the frames that no segment holds yet. Returns the segments with the frames that replay holds now."""
    replay = training.replay
    oldest, end = max(0, replay.writes - replay.capacity), replay.writes
    covered, needed = oldest, []
    # A file that no checkpoint names is left from an interrupted checkpoint, or is foreign; it may be incomplete.
    known = _named(checkpoints(folder.parent)) or set()
    for first, last, path in segments(folder):
        # A run that continues from an older checkpoint leaves segments that extend past the current frame.
        if path.name in known and first <= covered < last <= end:
            needed.append(path)
            covered = last
    if covered < end:
        data = frame_bytes(training, covered, end)
        path = folder / f"{covered:010d}-{end:010d}.zst"
        files.write_bytes(path, zstandard.ZstdCompressor(level=_LEVEL).compress(data))
        needed.append(path)
    return needed


def _load_frames(training: Training, checkpoint: Path) -> None:
    replay, checked = training.replay, {path.name for path in _needed(checkpoint)}
    oldest, end = max(0, replay.writes - replay.capacity), replay.writes
    covered = oldest
    for first, last, path in segments(checkpoint.parent / FRAMES):
        if path.name not in checked or not first <= covered < last <= end:
            continue
        data = bytearray(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
        put_frames(training, data, first, begin=covered, forgotten=covered == oldest)
        covered = last


def _prune(folder: Path, keep: int) -> None:
    for place in (folder, folder / "frames"):
        files.remove_drafts(place)
    kept = checkpoints(folder)
    for old in kept[:-keep]:
        shutil.rmtree(old)
    named = _named(kept[-keep:])
    if named is None:
        return  # which frames a damaged checkpoint needs is unknown, so all stay
    for _, _, path in segments(folder / FRAMES):
        if path.name not in named:
            path.unlink()


def _named(found: Iterable[Path]) -> set[str] | None:
    """Returns the names of all files that checkpoints need; None where the manifest of one is damaged."""
    try:
        return {path.name for checkpoint in found for path in _needed(checkpoint)}
    except (OSError, InputError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
