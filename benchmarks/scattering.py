"""Scattering features of a frame: when it arrives, beside Kymatio and beside transforming at sampling time.

    python -m benchmarks.scattering [--J 2] [--L 4] [--repeats 21] [--threads 1] [--windows 5] [--json]

Every contestant is timed once a round, in turn, so that what else the machine does touches all alike; figures are
medians over rounds, ratios the medians of each round's ratio. Frames are of Ms. Pac-Man, played at random.
"After other work" puts an untimed matrix product before each call, as training does: caches no longer hold the
filters, nor the code. This is the figure an agent meets, and what the ratios divide by.

Last, the agents `scattering` and `kfac-trl-10x` (learned first convolution, as many coefficients) train in processes of
their own, in turn, `--windows` times 300 agent steps of Pong (see `benchmarks.throughput`); always at J = 2, L = 4.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from torch import Tensor

from benchmarks.contest import ratio as ratio_of
from benchmarks.throughput import Plan, compete
from tensorrl import system
from tensorrl.networks.scattering import ScatteringStem

BATCH, STACK, STEPS = 32, 4, 100_000
SAMPLED = 2 * BATCH * STACK  # An update reads a stack before and a stack after each of its transitions.
AGENTS = ("scattering", "kfac-trl-10x")
ARRIVAL, SAMPLING = "one frame, after other work", f"frame of {SAMPLED}"


@dataclass
class Contestant:
    """A way to get features: the call, its frames, calls of a timing, and whether other work comes before each."""

    call: Callable[[], Tensor]
    frames: int = 1
    calls: int = 1
    after_work: bool = False

    def seconds_per_frame(self) -> float:
        elapsed = 0.0
        for _ in range(self.calls):
            if self.after_work:
                torch.mm(MATRIX, MATRIX)
            start = time.perf_counter()
            self.call()
            elapsed += time.perf_counter() - start
        return elapsed / (self.calls * self.frames)


MATRIX = torch.rand(800, 800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--J", type=int, default=2, help="log2 of the largest scale in pixels")
    parser.add_argument("--L", type=int, default=4, help="orientations")
    parser.add_argument("--repeats", type=int, default=21, help="rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--windows", type=int, default=5, help="windows of 300 agent steps; 0 leaves agents out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    system.keep_freed_memory()  # as a trial does
    torch.set_num_threads(options.threads)
    figures = measure(options.J, options.L, options.repeats)
    if options.windows:
        figures |= agents(options.threads, options.windows)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:{width}}  {value:>14,.3f}")


def measure(J: int, L: int, rounds: int) -> dict[str, float]:
    """Times every way to get features of frames; names say units."""
    frames = played_frames(SAMPLED)
    stem, kymatio = ScatteringStem(J, L), ScatteringTorch2D(J=J, shape=(84, 84), L=L, max_order=1)
    error = (stem.transform(frames[:16]) - kymatio(frames[:16].float() / 255)).abs().max().item()

    one, batch = frames[:1], frames[:BATCH]
    contestants: dict[str, Contestant] = {
        "one frame": Contestant(lambda: stem.encode(one), calls=20),
        "one frame, Kymatio": Contestant(lambda: kymatio(one.float() / 255), calls=10),
        ARRIVAL: Contestant(lambda: stem.encode(one), calls=10, after_work=True),
        f"{ARRIVAL}, Kymatio": Contestant(lambda: kymatio(one.float() / 255), calls=10, after_work=True),
        "frame of 32": Contestant(lambda: stem.encode(batch), frames=BATCH),
        "frame of 32, 8 at once": Contestant(lambda: stem.encode(batch, at_once=8), frames=BATCH),
        "frame of 32, Kymatio": Contestant(lambda: kymatio(batch.float() / 255), frames=BATCH),
        SAMPLING: Contestant(lambda: stem.encode(frames), frames=SAMPLED),
        f"{SAMPLING}, Kymatio": Contestant(lambda: kymatio(frames.float() / 255), frames=SAMPLED),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            elapsed = contestant.seconds_per_frame()
            if number > 0:  # The first round warms up.
                times[name].append(elapsed)

    figures = {f"{name}, ms": 1e3 * statistics.median(values) for name, values in times.items()}

    def ratio(name: str) -> float:
        """Time of what is named, in times of our one frame at arrival."""
        rounds = zip(times[name], times[ARRIVAL], strict=True)
        return contestants[name].frames * statistics.median(theirs / ours for theirs, ours in rounds)

    features = math.prod(stem.out_shape) * stem.stored_dtype.itemsize
    return figures | {
        "at arrival, s per 100k steps": STEPS * statistics.median(times[ARRIVAL]),
        "at arrival, Kymatio over ours": ratio(f"{ARRIVAL}, Kymatio"),
        "at sampling, ms per update": 1e3 * SAMPLED * statistics.median(times[SAMPLING]),
        "at sampling over at arrival": ratio(SAMPLING),
        "at sampling, Kymatio, ms per update": 1e3 * SAMPLED * statistics.median(times[f"{SAMPLING}, Kymatio"]),
        "at sampling, Kymatio, over ours at arrival": ratio(f"{SAMPLING}, Kymatio"),
        "replay of features, MiB per 100k steps": STEPS * features / 2**20,
        "replay of frames, MiB per 100k steps": STEPS * frames[0].nbytes / 2**20,
        "largest difference from Kymatio, 1e-6": 1e6 * error,
    }


def agents(threads: int, windows: int) -> dict[str, float]:
    """Agent steps a second of whole agents, with this stem and with a learned first convolution."""
    plan = Plan(game="pong", warm_up=1_600, window=300, rounds=windows, checkouts={})
    rows, failures = compete(AGENTS, threads, plan)
    if failures:
        raise SystemExit(f"scattering: {'; '.join(failures)}")
    rates = {row.name: row.rates for row in rows}
    ours, theirs = (rates[name] for name in AGENTS)
    return {f"{name}, agent steps/s": statistics.median(values) for name, values in rates.items()} | {
        "agent steps/s, scattering over kfac-trl-10x": ratio_of(ours, theirs).median
    }


def played_frames(count: int) -> Tensor:
    env = AtariVectorEnv("ms_pacman", num_envs=1, reward_clipping=False)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(env.single_action_space.n, size=count)
    frames = np.stack([env.step(np.array([action]))[0][0, -1].copy() for action in actions])
    env.close()
    return torch.from_numpy(frames)


if __name__ == "__main__":
    main()
