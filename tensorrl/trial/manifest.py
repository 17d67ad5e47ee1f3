"""A checkpoint's manifest: which files it consists of. Read without PyTorch, also where it comes from a remote."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tensorrl.errors import InputError, shown

CHECKPOINTS, FRAMES, MANIFEST = "checkpoints", "frames", "manifest.json"
STATE, TENSORS = "state.json", "state.safetensors"
_SEGMENT = r"([0-9]{1,18})-([0-9]{1,18})\.zst"
_NEEDED = re.compile(rf"{re.escape(STATE)}|{re.escape(TENSORS)}|\.\./{FRAMES}/{_SEGMENT}")
_ALLOWED = f"allowed: {STATE}, {TENSORS} and ../{FRAMES}/FIRST-LAST.zst"


def parse_manifest(content: bytes, *, where: str) -> dict[str, str]:
    """Returns the digest of each file that a checkpoint consists of, by its path relative to the checkpoint.

    Args:
        content: of the manifest, which may come from anywhere.
        where: the manifest, for the error.

    Raises:
        InputError: it is no manifest, or names another file than a checkpoint's own and frames beside it.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: is not valid JSON (allowed: a checkpoint's manifest)") from None
    if not isinstance(manifest, dict) or not {STATE, TENSORS} <= manifest.keys():
        raise InputError(f"{where}: names no state ({_ALLOWED})")
    for name, digest in manifest.items():
        if not _NEEDED.fullmatch(name) or not isinstance(digest, str):
            raise InputError(f"{where}: names {shown(name)} ({_ALLOWED})")
    return manifest


def segments(frames: Path) -> list[tuple[int, int, Path]]:
    """Returns the first frame, the end and the path of every segment in a folder of frames, sorted.

    What is no segment by its name is passed over.
    """
    found = []
    for path in frames.glob("*.zst"):
        match = re.fullmatch(_SEGMENT, path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)
