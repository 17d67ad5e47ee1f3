"""Agent steps a second, ours beside the peers in one run: one update of a batch of 32 per step, on a real game.

    python -m benchmarks.throughput [--threads 1 2] [--kaixhin PATH] [--cleanrl PATH] [--only NAME ...] [--json FILE]

Every contestant has a process of its own (`benchmarks.contest`), warms up, and is then timed for a window of steps a
round, in turn. Figures are medians over rounds with the lowest and highest; ratios are medians of each round's ratio.
Last, two trials of one thread each run at the same time, in turn with one trial of two threads.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contest import ContestantFailed, Entrant, Spread, Window, as_plain, ratio, save
from tensorrl.errors import InputError
from tensorrl.trial import variants

MIB = 2**20
OURS = ("rainbow", "denoised", "trl-5x", "trl-10x", "kfac-denoised", "kfac-trl-5x", "kfac-trl-10x", "scattering")
STOCK = ("rllib", "sb3", "sb3-small")
PAIRED = "rainbow"


@dataclass(frozen=True)
class Plan:
    """How a contest goes.

    Attributes:
        game: what is played.
        warm_up: agent steps before the first update.
        window: agent steps of a window.
        rounds: windows of each contestant.
        checkouts: peers' sources, by contestant.
    """

    game: str
    warm_up: int
    window: int
    rounds: int
    checkouts: Mapping[str, Path]

    def enter(self, name: str, threads: int, seed: int = 0) -> Entrant:
        """Starts a contestant's process."""
        return Entrant(
            name,
            threads=threads,
            game=self.game,
            warm_up=self.warm_up,
            seed=seed,
            checkout=self.checkouts.get(name),
        )


@dataclass(frozen=True)
class Row:
    """A contestant's figures at a number of threads."""

    name: str
    threads: int
    coefficients: int
    windows: list[Window]

    @property
    def rates(self) -> list[float]:
        """Agent steps a second, by round."""
        return [window.steps_per_second for window in self.windows]

    def shown(self, references: Mapping[str, Row]) -> dict[str, str]:
        """Cells of the table, with a ratio to each reference."""
        first, last = self.windows[0], self.windows[-1]
        later = sum(window.steps for window in self.windows[1:])
        growth = (last.peak_bytes - first.peak_bytes) / later * 1_000 / MIB if later else 0.0
        return {
            "contestant": self.name,
            "threads": str(self.threads),
            "coefficients": f"{self.coefficients:,}",
            "steps/s": str(Spread.of(self.rates)),
            "updates/s": f"{Spread.of([window.updates_per_second for window in self.windows]).median:.1f}",
            **{f"/ {name}": f"{ratio(self.rates, other.rates).median:.2f}" for name, other in references.items()},
            "CPU ms/step": f"{1e3 * Spread.of([w.cpu_seconds / w.steps for w in self.windows]).median:.2f}",
            "peak MiB": f"{last.peak_bytes / MIB:,.0f}",
            "MiB/1000 steps": f"{growth:.1f}",
        }

    def figures(self, references: Mapping[str, Row]) -> dict[str, Any]:
        """The same for machines, with every window."""
        return {
            "contestant": self.name,
            "threads": self.threads,
            "coefficients": self.coefficients,
            "steps_per_second": asdict(Spread.of(self.rates)),
            "updates_per_second": asdict(Spread.of([window.updates_per_second for window in self.windows])),
            "ratios": {name: asdict(ratio(self.rates, other.rates)) for name, other in references.items()},
            "peak_bytes": self.windows[-1].peak_bytes,
            "windows": [as_plain(window) for window in self.windows],
        }


def main() -> None:
    options = parse(sys.argv[1:])
    # Unwinds, so that the contestants end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    checkouts = {name: path for name in ("kaixhin", "cleanrl") if (path := getattr(options, name)) is not None}
    names = contestants(options.only, checkouts)
    plan = Plan(options.game, options.warm_up, options.window, options.rounds, checkouts)
    figures: dict[str, Any] = {"contestants": [], "failed": []}
    for threads in options.threads:
        rows, failed = compete(names, threads, plan)
        references = {row.name: row for row in rows if row.name in ("rllib", "kaixhin")}
        show([row.shown(references) for row in rows])
        for message in failed:
            print(f"failed: {message}")
        foreign = [w.foreign_cores for row in rows for w in row.windows if w.foreign_cores is not None]
        if foreign:
            print(f"Others kept busy meanwhile, in cores: {Spread.of(foreign)}")
        print(flush=True)
        figures["contestants"] += [row.figures(references) for row in rows]
        figures["failed"] += failed
    if options.pair is not None and (os.cpu_count() or 1) >= 2:
        try:
            figures["two_trials"] = two_trials(options.pair, plan)
        except ContestantFailed as failure:
            figures["failed"].append(str(failure))
            print(f"failed: {failure}")
    if options.json is not None:
        save(options.json, "throughput", vars(options), figures)
    if figures["failed"]:
        sys.exit(1)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="threads of each process, in turn (default: 1 2)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants; see `benchmarks.worker`")
    parser.add_argument("--kaixhin", type=Path, metavar="PATH", help="a checkout of github.com/Kaixhin/Rainbow")
    parser.add_argument("--cleanrl", type=Path, metavar="PATH", help="a checkout of github.com/vwxyzjn/cleanrl")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--window", type=int, help="agent steps of a window (default: 300)")
    parser.add_argument("--rounds", type=int, help="windows of each contestant (default: 5)")
    parser.add_argument("--warm-up", type=int, help="agent steps before the first update (default: 1600)")
    parser.add_argument("--pair", default=PAIRED, metavar="NAME", help="whom to run twice at once (default: rainbow)")
    parser.add_argument("--no-pair", dest="pair", action="store_const", const=None, help="leave that out")
    parser.add_argument("--quick", action="store_true", help="two short windows each: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    window, rounds, warm_up = (60, 2, 200) if options.quick else (300, 5, 1_600)
    options.threads = options.threads or [threads for threads in (1, 2) if threads <= cores]
    options.window = options.window or window
    options.rounds = options.rounds or rounds
    options.warm_up = options.warm_up or warm_up
    return options


def contestants(only: Sequence[str] | None, checkouts: Mapping[str, Path]) -> list[str]:
    """Names of those who take part: the ones asked for, or ours, the stock peers and the checkouts."""
    if only:
        return list(dict.fromkeys(only))
    ours = [name for name in OURS if name in variants.VARIANTS]
    return [*ours, "rainbow@rllib", *STOCK, *checkouts]


def compete(names: Sequence[str], threads: int, plan: Plan) -> tuple[list[Row], list[str]]:
    """Times contestants in turn; one that fails is left out from then on, and said why."""
    failed: list[str] = []
    with ExitStack() as stack:
        entrants: dict[str, Entrant] = {}
        for name in names:
            print(f"warming up {name}, {threads} thread(s)", file=sys.stderr, flush=True)
            try:
                entrants[name] = stack.enter_context(plan.enter(name, threads))
            except ContestantFailed as failure:
                failed.append(str(failure))
        windows: dict[str, list[Window]] = {name: [] for name in entrants}
        for number in range(plan.rounds):
            print(f"round {number + 1} of {plan.rounds}", file=sys.stderr, flush=True)
            for name in list(windows):
                try:
                    windows[name].append(entrants[name].window(plan.window))
                except ContestantFailed as failure:
                    failed.append(str(failure))
                    del windows[name]
        return [Row(name, threads, entrants[name].coefficients, found) for name, found in windows.items()], failed


def two_trials(name: str, plan: Plan) -> dict[str, Any]:
    """Two trials of one thread each at once, in turn with one trial of two threads; steps/s together and alone."""
    with plan.enter(name, 1, seed=0) as first, plan.enter(name, 1, seed=1) as second, plan.enter(name, 2) as alone:
        together: list[float] = []
        single: list[Window] = []
        for _ in range(plan.rounds):
            for entrant in (first, second):
                entrant.begin_window(plan.window)
            pair = [entrant.end_window() for entrant in (first, second)]
            # The slower one's time: what the faster one leaves idle at the end counts against the pair.
            together.append(sum(window.steps for window in pair) / max(window.seconds for window in pair))
            single.append(alone.window(plan.window))
    rates = [window.steps_per_second for window in single]
    gain = ratio(together, rates)
    print(f"{name}, steps/s: {Spread.of(together)} by two trials of 1 thread at once, {Spread.of(rates)} by one of 2")
    print(f"threads: {gain.median:.2f} ({gain.lowest:.2f}-{gain.highest:.2f}) times")
    foreign = [window.foreign_cores for window in single if window.foreign_cores is not None]
    if foreign:
        print(f"Others kept busy during the latter, in cores: {Spread.of(foreign)}")
    return {
        "contestant": name,
        "together_steps_per_second": asdict(Spread.of(together)),
        "alone_steps_per_second": asdict(Spread.of(rates)),
        "ratio": asdict(gain),
        "foreign_cores": asdict(Spread.of(foreign)) if foreign else None,
    }


def show(rows: Sequence[Mapping[str, str]]) -> None:
    """Prints rows that share their keys."""
    if not rows:
        return
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    print("  ".join(name.rjust(width) for name, width in widths.items()))
    for row in rows:
        print("  ".join(row[name].rjust(width) for name, width in widths.items()))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"throughput: {error}")
