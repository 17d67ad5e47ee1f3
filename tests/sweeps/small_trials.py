"""A trial as small as can be, to run sweeps with: its folder is written as a real one's, in milliseconds.

What goes wrong with it is asked for by files in the store, because it runs in another process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorrl.errors import InputError
from tensorrl.trial.run import Interrupted, Record, TrialSpec

LINE = 100


def run(
    spec: TrialSpec,
    out: Path,
    *,
    resume: bool,
    record: Callable[[Path], Record] | None = None,
    on_report: Callable[[dict[str, Any]], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    assert resume
    out.mkdir(parents=True, exist_ok=True)
    trial = {"key": spec.key, "game": spec.game, "variant": spec.variant, "seed": spec.seed, "steps": spec.steps}
    (out / "trial.json").write_text(json.dumps(trial | {"coefficients": 10, "compression_ratio": 2.0, "settings": {}}))
    with (out.parent / "begun.txt").open("a") as begun:
        begun.write(f"{out.name.rpartition('-')[0]} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {spec.threads}\n")
    assert spec.device == "cpu"
    keeper = record(out) if record is not None else None
    progress = out / "progress.jsonl"
    done = len(progress.read_text().splitlines()) * LINE if progress.exists() else 0
    for step in range(done + LINE, spec.steps + 1, LINE):
        time.sleep(_number(out.parent / "pause"))
        if stop():
            with (out.parent / "left.txt").open("a") as left:
                left.write(f"{out.name.rpartition('-')[0]}\n")
            raise Interrupted("asked to")
        _misbehave(out, step)
        line = {"agent_steps": step, "loss": 1 / step, "steps_per_second": 123.0, "episode_return": -float(spec.seed)}
        with progress.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        on_report(line)
        if keeper is not None:
            keeper.poke()
    (out / "weights").write_bytes(bytes(int(_number(out.parent / "weight"))))
    scores = {"score": float(spec.seed), "final_score": float(spec.seed)}
    result = trial | scores | {"parameters_sha256": "f" * 64}
    (out / "result.json").write_text(json.dumps(result))
    return result


def _number(path: Path) -> float:
    return float(path.read_text()) if path.exists() else 0.0


def _misbehave(out: Path, step: int) -> None:
    """Fails at the step that a file `<how>-<cell>` names, as many times as it has lines."""
    cell = out.name.rpartition("-")[0]
    for how in ("raise", "die", "refuse", "full"):
        orders = out.parent / f"{how}-{cell}"
        steps = orders.read_text().splitlines() if orders.exists() else []
        if steps and step == int(steps[0]):
            orders.write_text("".join(line + "\n" for line in steps[1:]))
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "refuse":
                raise InputError("the folder holds something else")
            if how == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            raise RuntimeError(f"step {step} went wrong\nand this is why")
