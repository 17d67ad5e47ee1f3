"""One contestant in this process; `benchmarks.contest` starts it, asks for windows of steps on stdin, reads stdout.

    python -m benchmarks.worker NAME --threads 1 --game pong --warm-up 1600 [--seed 0] [--checkout PATH]

NAME is a variant of TensorRL (`tensorrl variants`), a variant inside RLlib (`rainbow@rllib`), or a peer: `rllib`,
`sb3`, `sb3-small`, `kaixhin`, `cleanrl`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.contest import Contestant, Window, as_plain, busy_seconds
from tensorrl.errors import InputError

SETTLE = 100
"""Updates before the first window: allocators, caches and lazy set-up."""
NEED_A_CHECKOUT = ("kaixhin", "cleanrl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--game", default="pong")
    parser.add_argument("--warm-up", type=int, default=1_600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkout", type=Path)
    options = parser.parse_args()
    answers = _keep_stdout()
    try:
        torch.set_num_threads(options.threads)
        contestant = build(options.name, options.game, options.warm_up, options.seed, options.checkout)
        # Some peers set the number themselves while they are built.
        torch.set_num_threads(options.threads)
        contestant.advance(options.warm_up)
        while contestant.counts()[1] < SETTLE:
            contestant.advance(SETTLE)
        _say(answers, {"coefficients": contestant.coefficients, "torch_threads": torch.get_num_threads()})
        for line in sys.stdin:
            _say(answers, as_plain(measure(contestant, int(line))))
        contestant.close()
    except Exception as error:
        traceback.print_exc()
        _say(answers, {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        sys.exit(1)


def build(name: str, game: str, warm_up: int, seed: int, checkout: Path | None = None) -> Contestant:
    """Builds a contestant.

    Raises:
        InputError: no such contestant, or one that needs a checkout without it.
    """
    if name in NEED_A_CHECKOUT:
        if checkout is None:
            raise InputError(f"contestant {name}: give a checkout of it, --{name} PATH")
        if name == "kaixhin":
            from benchmarks.peers.kaixhin import Kaixhin

            return Kaixhin(checkout, game, warm_up, seed)
        from benchmarks.peers.cleanrl import CleanRL

        return CleanRL(checkout, game, warm_up, seed)
    if name == "rllib":
        from benchmarks.peers.rllib import StockRLlib

        return StockRLlib(game, warm_up, seed)
    if name in ("sb3", "sb3-small"):
        from benchmarks.peers.sb3 import StableBaselines

        return StableBaselines(game, warm_up, seed, small=name == "sb3-small")
    from benchmarks import ours

    if name.endswith("@rllib"):
        return ours.InRLlib(name.removesuffix("@rllib"), game, warm_up, seed)
    return ours.Trial(name, game, warm_up, seed)


def measure(contestant: Contestant, steps: int) -> Window:
    """Times a window of at least `steps` agent steps."""
    steps_before, updates_before = contestant.counts()
    busy, cpu, start = busy_seconds(), time.process_time(), time.perf_counter()
    contestant.advance(steps)
    seconds, cpu_seconds, busy_after = time.perf_counter() - start, time.process_time() - cpu, busy_seconds()
    steps_after, updates_after = contestant.counts()
    foreign = None
    if busy is not None and busy_after is not None:
        foreign = max(0.0, (busy_after - busy - cpu_seconds) / seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Window(
        steps=steps_after - steps_before,
        updates=updates_after - updates_before,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_bytes=peak if sys.platform == "darwin" else peak * 1024,
        foreign_cores=foreign,
    )


def _keep_stdout() -> TextIO:
    """Takes stdout for answers alone; what contestants print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
