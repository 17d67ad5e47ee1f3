"""A trial's folder as `train` writes it, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRIAL: dict[str, Any] = {
    "key": "a" * 64,
    "game": "pong",
    "variant": "denoised",
    "seed": 3,
    "steps": 500,
    "coefficients": 441_669,
    "compression_ratio": 1.8766,
    "settings": {"learning_rate": 1e-4, "n_step": 20, "optimizer": "adam", "epsilon": [1.0, 0.01]},
    "versions": {"torch": "2.13.0"},
    "commit": "0123abc",
}


class TrialFolder:
    """Writes a trial's folder the way a trial does."""

    def __init__(self, path: Path, **changes: Any) -> None:
        self.path = path
        self.trial = TRIAL | changes

    def begin(self) -> TrialFolder:
        self.path.mkdir(parents=True)
        (self.path / "trial.json").write_text(json.dumps(self.trial))
        return self

    def line(self, step: int, **figures: float) -> None:
        content = {"agent_steps": step, "episode_return": -20.0 + step, "steps_per_second": 50.5} | figures
        with (self.path / "progress.jsonl").open("a") as progress:
            progress.write(json.dumps(content) + "\n")

    def cut_back(self, step: int) -> None:
        path = self.path / "progress.jsonl"
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["agent_steps"] <= step]
        path.write_text("".join(line + "\n" for line in kept))

    def finish(self, **figures: Any) -> None:
        final = {"score": 12.5, "human_normalized": 0.9, "steps_per_second": 48.0, "parameters_sha256": "f" * 64}
        (self.path / "result.json").write_text(json.dumps(self.trial | final | figures))
