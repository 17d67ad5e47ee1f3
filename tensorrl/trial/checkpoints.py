"""Checkpoints of a training: atomic, compact, checked, and read without unpickling.

A folder of checkpoints holds one folder a checkpoint, named by its agent steps, and the frames beside them:

    checkpoints/
      00010000/state.json           the plain values of the state, and where each tensor belongs
      00010000/state.safetensors    its tensors
      00010000/manifest.json        SHA-256 of every file this checkpoint needs, frames included
      frames/0000000000-0000010001.zst   frames of replay, each written once, shared by later checkpoints
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import zstandard
from torch import Tensor

from tensorrl import files
from tensorrl.trial.training import Training

_LEVEL = 3


class DamagedCheckpoint(Exception):
    """A checkpoint that is incomplete or whose bytes are not those that were written."""


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
    """Puts together what `pack` took apart."""
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
        training: between agent steps.
        folder: of the trial's checkpoints.
        extra: plain values to keep beside the state.
        keep: how many of the newest checkpoints stay, or None for all.

    Returns:
        The checkpoint's own folder.
    """
    frames = folder / "frames"
    frames.mkdir(parents=True, exist_ok=True)
    segments = _save_frames(training, frames)
    name = f"{training.steps:08d}"
    state = {"training": training.get_state(), "extra": extra or {}}
    final = folder / name
    with files.replacing(final) as draft:
        _write_state(state, draft, {f"../frames/{path.name}": path for path in segments})
        files.remove(final)
    if keep is not None:
        _prune(folder, keep)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
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
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        if not {"state.json", "state.safetensors"} <= manifest.keys():
            raise DamagedCheckpoint(f"{checkpoint}: manifest.json names no state")
        for relative, expected in manifest.items():
            if _sha256(checkpoint / relative) != expected:
                raise DamagedCheckpoint(f"{checkpoint / relative}: bytes differ from what was written")
        plain = json.loads((checkpoint / "state.json").read_text())
        tensors = safetensors.torch.load_file(checkpoint / "state.safetensors")
    except (OSError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise DamagedCheckpoint(f"{checkpoint}: {error}") from None
    state: dict[str, Any] = unpack(plain, tensors)
    return state


def restore(training: Training, checkpoint: Path) -> dict[str, Any]:
    """Puts `training` where the checkpoint was written, and returns its "extra".

    Raises:
        DamagedCheckpoint: see `read`; `training` is untouched then.
    """
    return put_back(training, checkpoint, read(checkpoint))


def put_back(training: Training, checkpoint: Path, state: dict[str, Any]) -> dict[str, Any]:
    """As `restore`, with what `read` gave."""
    training.set_state(state["training"])
    _load_frames(training, checkpoint.parent / "frames")
    extra: dict[str, Any] = state["extra"]
    return extra


def export_network(checkpoint: Path, out: Path) -> None:
    """Writes what playing needs of a checkpoint, its network and "extra", as a checkpoint of its own.

    `read` reads it; no training can go on from it.

    Args:
        checkpoint: a whole one.
        out: folder of the other, which must not exist.

    Raises:
        DamagedCheckpoint: see `read`.
    """
    state = read(checkpoint)
    training = state["training"]
    kept = {"training": {"steps": training["steps"], "agent": {"network": training["agent"]["network"]}}}
    _write_state({**kept, "extra": state["extra"]}, out, {})


def _write_state(state: dict[str, Any], folder: Path, frames: dict[str, Path]) -> None:
    """Writes a state and the manifest that names it and the frames it needs."""
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    plain = pack(state, tensors)
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(plain))
    needed = {name: folder / name for name in ("state.json", "state.safetensors")} | frames
    manifest = {relative: _sha256(path) for relative, path in needed.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in folder.iterdir():
        files.sync_to_disk(path)


def _segments(frames: Path) -> list[tuple[int, int, Path]]:
    found = []
    for path in frames.glob("*-*.zst"):
        first, last = path.stem.split("-")
        found.append((int(first), int(last), path))
    return sorted(found)


def _save_frames(training: Training, folder: Path) -> list[Path]:
    """Writes the frames no segment holds yet; returns the segments that hold what replay holds now."""
    replay = training.replay
    oldest, end = max(0, replay.writes - replay.capacity), replay.writes
    covered, needed = oldest, []
    for first, last, path in _segments(folder):
        # A run continued from an older checkpoint leaves segments that reach past the present.
        if first <= covered < last <= end:
            needed.append(path)
            covered = last
    if covered < end:
        if training.sources is not None:
            data = training.source_frames(covered, end)
        else:
            data = replay.read_frames(covered, end).cpu().numpy().tobytes()
        path = folder / f"{covered:010d}-{end:010d}.zst"
        files.write_bytes(path, zstandard.ZstdCompressor(level=_LEVEL).compress(data))
        needed.append(path)
    return needed


def _load_frames(training: Training, folder: Path) -> None:
    replay = training.replay
    oldest, end = max(0, replay.writes - replay.capacity), replay.writes
    covered = oldest
    for first, last, path in _segments(folder):
        if not first <= covered < last <= end:
            continue
        data = bytearray(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
        if training.sources is None:
            frames = torch.frombuffer(data, dtype=replay.frames.dtype).view(-1, *replay.frame_shape)[covered - first :]
        else:
            if covered == oldest:
                # Frames are counted from the trial's first, also where a ring has forgotten it.
                training.sources[:] = [b""] * first
            frames = training.encode_again(data)[covered - first :]
        replay.restore_frames(covered, frames)
        covered = last


def _prune(folder: Path, keep: int) -> None:
    for place in (folder, folder / "frames"):
        files.remove_drafts(place)
    kept = checkpoints(folder)
    for old in kept[:-keep]:
        shutil.rmtree(old)
    named = set()
    for checkpoint in kept[-keep:]:
        try:
            named |= {Path(name).name for name in json.loads((checkpoint / "manifest.json").read_text())}
        except (OSError, ValueError):
            return  # which frames a damaged checkpoint needs is unknown, so all stay
    for _, _, path in _segments(folder / "frames"):
        if path.name not in named:
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
