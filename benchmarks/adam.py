"""Steps of finished trials with our Adam beside the same trials with PyTorch's.

    python -m benchmarks.adam RUN [RUN ...] [--rounds 5] [--steps 50] [--clock wall|cpu] [--json FILE]

A trial that has just begun does not show what this measures: once units have died, averages of their gradients decay to
subnormal numbers, for which some processors need a hundred cycles each. So both sides go on from the newest checkpoint
of a run of a variant with Adam, each in a training of its own on one thread, in turn, round after round. The steps do
the same: the last column says whether both end with the same parameters. The runs stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import CLOCKS, Clock, Spread, add_clock, ratio, save
from benchmarks.throughput import show
from tensorrl import system
from tensorrl.errors import InputError
from tensorrl.optimizers.adam import FusedAdam
from tensorrl.trial import diagnosis
from tensorrl.trial.training import Training

WARM_UP = 20


@dataclass
class Side:
    """A trial that goes on, and the milliseconds of its agent steps and of Adam's part of them, one mean a round."""

    training: Training
    spent: float = 0.0
    steps: list[float] = field(default_factory=list)
    adam: list[float] = field(default_factory=list)

    def run(self, steps: int, clock: Clock) -> None:
        """Measures one round."""
        self.spent = 0.0
        start = clock()
        self.training.run(steps)
        self.steps.append(1e3 * (clock() - start) / steps)
        self.adam.append(1e3 * self.spent / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="agent steps of each side a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    add_clock(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    system.keep_freed_memory()
    results = [compare(run, options.rounds, options.steps, CLOCKS[options.clock]) for run in options.runs]
    show([_row(result) for result in results])
    if options.json is not None:
        save(options.json, "adam", vars(options), results)


def compare(run: Path, rounds: int, steps: int, clock: Clock) -> dict[str, Any]:
    """Measures one run's trial both ways.

    Raises:
        InputError: the run has no sound checkpoint, or does not learn by Adam.
    """
    plain, ours = (make_side(run, step, clock) for step in (torch.optim.Adam.step, FusedAdam.step))
    subnormal = share_of_subnormal_moments(ours.training)
    for side in (plain, ours):
        side.training.run(WARM_UP)
    for _ in range(rounds):
        plain.run(steps, clock)
        ours.run(steps, clock)
    networks = [side.training.agent.network for side in (plain, ours)]
    return {
        "run": run.name,
        "subnormal": subnormal,
        "adam_ms": [asdict(Spread.of(side.adam)) for side in (plain, ours)],
        "step_ms": [asdict(Spread.of(side.steps)) for side in (plain, ours)],
        "adam_ratio": asdict(ratio(plain.adam, ours.adam)),
        "step_ratio": asdict(ratio(plain.steps, ours.steps)),
        "same_parameters": all(map(torch.equal, *(list(network.parameters()) for network in networks))),
    }


def make_side(run: Path, step: Callable[..., Any], clock: Clock) -> Side:
    """Restores a run's training, whose Adam then takes `step`, timed."""
    side = Side(diagnosis.restore(run))
    optimizer = side.training.agent.optimizer
    if not isinstance(optimizer, FusedAdam):
        raise InputError(f"{run}: learns by K-FAC (allowed: runs of variants with Adam)")

    def timed() -> Any:
        start = clock()
        result = taken()
        side.spent += clock() - start
        return result

    taken = partial(step, optimizer)
    optimizer.step = timed  # type: ignore[method-assign]
    return side


def share_of_subnormal_moments(training: Training) -> float:
    """The share of Adam's averages of gradients that are below the smallest normal number and not 0."""
    averages = torch.cat([state["exp_avg"].flatten() for state in training.agent.optimizer.state.values()]).abs()
    return float(((averages > 0) & (averages < torch.finfo(torch.float32).tiny)).double().mean())


def _row(result: dict[str, Any]) -> dict[str, str]:
    (adam, ours), (step, our_step) = result["adam_ms"], result["step_ms"]
    return {
        "run": result["run"],
        "subnormal": f"{result['subnormal']:.1%}",
        "Adam ms": f"{adam['median']:.2f}, {ours['median']:.2f}",
        "ratio": f"{result['adam_ratio']['median']:.2f}",
        "step ms": f"{step['median']:.2f}, {our_step['median']:.2f}",
        "step ratio": f"{result['step_ratio']['median']:.2f}",
        "same parameters": "yes" if result["same_parameters"] else "no",
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"adam: {error}")
