"""What tests of a remote write and compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def cell_of(store: Path, steps: int, *, bits: bytes = b"bits", finished: bool = False) -> Path:
    """A cell's folder with the checkpoints of the last two hundreds, as a trial leaves them."""
    folder = store / "cell"
    shutil.rmtree(folder, ignore_errors=True)
    for step in range(max(100, steps - 100), steps + 1, 100):
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        frames = folder / "checkpoints" / "frames"
        frames.mkdir(exist_ok=True)
        (frames / f"{0:010d}-{step:010d}.zst").write_bytes(bits * step)
        for name in ("state.json", "state.safetensors"):
            (checkpoint / name).write_bytes(bits)
        named = ["state.json", "state.safetensors", f"../frames/{0:010d}-{step:010d}.zst"]
        (checkpoint / "manifest.json").write_text(json.dumps(dict.fromkeys(named, "digest")))
    (folder / "trial.json").write_text(json.dumps({"key": "k" * 64}))
    (folder / "progress.jsonl").write_text(
        "".join(json.dumps({"agent_steps": s}) + "\n" for s in range(50, steps + 1, 50))
    )
    if finished:
        (folder / "result.json").write_text(json.dumps({"key": "k" * 64, "score": 1.0}))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
