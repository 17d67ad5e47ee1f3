"""Prioritized replay: one sample of 32 and one update of its priorities, at growing numbers of steps done.

    python -m benchmarks.replay [--steps 10000 100000 200000] [--threads 1] [--clock wall|cpu] [--json FILE]

Replays of 100,000 transitions are filled by as many agent steps as named, with frames of the data-efficient agent's
layout and games of a few hundred steps, and then timed in turn, a block of calls each, round after round: were the cost
to grow with the steps done, the later ones would be slower. "draw slots" is the draw alone, timed apart; "sample"
draws, weighs and gathers the stacks of the batch. "both" is sample and priorities.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import CLOCKS, Clock, Spread, add_clock, ratio, save
from benchmarks.throughput import show
from tensorrl import system
from tensorrl.errors import InputError
from tensorrl.learning.replay import Replay
from tensorrl.networks.torsos import DataEfficientTorso

BATCH, CAPACITY, GAME = 32, 100_000, 700
BETA = 0.7


@dataclass
class Filled:
    """A replay after a number of agent steps, and the microseconds of its calls, one median a round."""

    steps: int
    replay: Replay
    draw: list[float] = field(default_factory=list)
    sample: list[float] = field(default_factory=list)
    priorities: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)


def main() -> None:
    options = parse(sys.argv[1:])
    torch.set_num_threads(options.threads)
    # As a trial does: the batch's stacks, 1.4 MB, would otherwise come as fresh pages each time.
    system.keep_freed_memory()
    filled = [Filled(steps, fill(steps, options.capacity)) for steps in options.steps]
    measure(filled, options.rounds, options.calls, CLOCKS[options.clock])
    rows = [figures_of(each, filled[0]) for each in filled]
    print(f"replay of {options.capacity:,} transitions, batch {BATCH}, {options.threads} thread(s), microseconds")
    show(
        [
            {
                "steps done": f"{row['steps']:,}",
                "draw slots": _shown(row["draw_us"]),
                "sample": _shown(row["sample_us"]),
                "priorities": _shown(row["priorities_us"]),
                "both": _shown(row["both_us"]),
                f"/ {filled[0].steps:,}": f"{row['to_first']['median']:.2f}",
            }
            for row in rows
        ]
    )
    if options.json is not None:
        save(options.json, "replay", vars(options), rows)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", help="agent steps done (default: 10000 100000 200000)")
    parser.add_argument("--capacity", type=int, help=f"transitions (default: {CAPACITY})")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=100, help="calls of a block")
    add_clock(parser)
    parser.add_argument("--quick", action="store_true", help="small replays, few rounds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.rounds = options.steps or [1_000, 5_000, 12_000], 5
        options.capacity = options.capacity or 5_000
    options.steps = options.steps or [10_000, CAPACITY, 2 * CAPACITY]
    options.capacity = options.capacity or CAPACITY
    if min(options.steps) < 100:
        raise InputError(f"--steps {min(options.steps)}: at least 100, or there is nothing to sample")
    return options


def fill(steps: int, capacity: int) -> Replay:
    """A replay after `steps` agent steps, its priorities as unequal as those of training."""
    replay = Replay(capacity, DataEfficientTorso.stored_shape, DataEfficientTorso.stored_dtype)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (64, *DataEfficientTorso.stored_shape), dtype=torch.uint8, generator=generator)
    replay.begin_game(frames[0])
    for step in range(1, steps + 1):
        over = step % GAME == 0
        replay.add(step % 6, float(step % 50 == 0), frames[step % len(frames)], terminal=over, over=over)
        if over:
            replay.begin_game(frames[0])
        if step % 16 == 0 and replay.count:
            batch = replay.sample(BATCH, BETA, generator)
            # Losses over three orders of magnitude.
            replay.update_priorities(batch.slots, torch.rand(BATCH, generator=generator).mul_(7).exp_().mul_(4e-3))
    return replay


def measure(filled: Sequence[Filled], rounds: int, calls: int, clock: Clock) -> None:
    """Times blocks of calls on each replay in turn; the first round warms up."""
    generator = torch.Generator().manual_seed(1)
    losses = torch.rand(BATCH, generator=generator).add_(0.1)
    for number in range(rounds + 1):
        for each in filled:
            draw, sample, priorities = [], [], []
            for _ in range(calls):
                uniforms = torch.rand(BATCH, dtype=torch.float64, generator=generator)
                before = clock()
                each.replay.distribution.sample(uniforms)
                start = clock()
                batch = each.replay.sample(BATCH, BETA, generator)
                between = clock()
                each.replay.update_priorities(batch.slots, losses)
                end = clock()
                draw.append(1e6 * (start - before))
                sample.append(1e6 * (between - start))
                priorities.append(1e6 * (end - between))
            if number > 0:
                each.draw.append(statistics.median(draw))
                each.sample.append(statistics.median(sample))
                each.priorities.append(statistics.median(priorities))
                each.both.append(statistics.median(map(sum, zip(sample, priorities, strict=True))))


def figures_of(each: Filled, first: Filled) -> dict[str, Any]:
    """Figures of a replay, and their ratio to those of the first."""
    return {
        "steps": each.steps,
        "transitions": each.replay.count,
        "draw_us": asdict(Spread.of(each.draw)),
        "sample_us": asdict(Spread.of(each.sample)),
        "priorities_us": asdict(Spread.of(each.priorities)),
        "both_us": asdict(Spread.of(each.both)),
        "to_first": asdict(ratio(each.both, first.both)),
    }


def _shown(spread: dict[str, float]) -> str:
    return str(Spread(**spread))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"replay: {error}")
