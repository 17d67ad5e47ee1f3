"""One update beside its arithmetic floor, and where the rest of an agent step goes.

    python -m benchmarks.floor [--variants rainbow ...] [--threads 1 2] [--clock wall|cpu] [--rounds 9] [--json FILE]

The floor is the update's multiply-adds (`benchmarks.arithmetic`) over the rate at which this machine multiplies large
matrices with as many threads: by PyTorch's `mm`, and by oneDNN, which takes our large products except on Intel's
processors (`tensorrl.networks.matmul`). Beside it stands the time of the same products alone, in their own shapes, back
to back, by the kernels that ours take: what small and narrow matrices cost. Rates, products and every variant's updates
are timed in turn, round after round; figures are medians of rounds, ratios medians of each round's ratio. The tables of
where the time goes are by wall clock.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import Product, multiply_adds_of_update, products_of_update
from benchmarks.contest import CLOCKS, Clock, Spread, add_clock, ratio, save
from benchmarks.ours import Trial
from benchmarks.throughput import show
from tensorrl.errors import InputError
from tensorrl.networks.matmul import onednn, suits_onednn, times_transposed
from tensorrl.trial.training import Training

BATCH = 32
SIDE = 1024
"""Rows and columns of the matrices that the rate is measured with."""
VARIANTS = ("rainbow", "denoised", "trl-5x", "trl-10x")
PHASES = (
    ("noise", "agent", "begin_step"),
    ("sample", "replay", "sample"),
    ("choose, to act and to learn", "agent", "choose"),
    ("send the action", "game", "send"),
    ("update", "agent", "update"),
    ("priorities", "replay", "update_priorities"),
    ("wait for the frame", "game", "receive"),
    ("add to replay", "replay", "add"),
)
"""Parts of an agent step, in order: what it is called, whose method it is ("" for the loop's own), which."""
KINDS = (
    (
        "matrix products",
        ("mm", "addmm", "bmm", "baddbmm", "convolution", "mkldnn_convolution", "conv2d", "linear", "_linear"),
    ),
    ("optimizer and clipping", ("_fused_adam", "_foreach", "linalg_vector_norm", "linalg_cholesky", "cholesky")),
    ("copies, conversions, gathers", ("copy", "_to_copy", "to", "cat", "clone", "index", "gather", "contiguous")),
    (
        "allocations and views",
        ("empty", "view", "reshape", "t", "transpose", "expand", "as_strided", "slice", "select"),
    ),
    (
        "allocations and views",
        ("detach", "permute", "unsqueeze", "squeeze", "resize", "split", "_unsafe_view", "zeros"),
    ),
    ("softmax", ("softmax", "log_softmax", "_softmax", "_log_softmax")),
    ("random numbers", ("rand", "randn", "normal", "uniform")),
)
"""Kinds of operators inside an update, by the beginnings of their names; the rest is elementwise."""


@dataclass
class Subject:
    """A variant with a warm trial, and what has been measured of it, one entry a round."""

    name: str
    training: Training
    products: list[Product]
    multiply_adds: int
    update_seconds: list[float] = field(default_factory=list)
    product_seconds: list[float] = field(default_factory=list)


def main() -> None:
    options = parse(sys.argv[1:])
    figures = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        figures.append(
            compare(
                options.variants, options.game, options.warm_up, options.updates, options.rounds, CLOCKS[options.clock]
            )
        )
    if options.json is not None:
        save(options.json, "floor", vars(options), figures)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--threads", type=int, nargs="+", help="threads, in turn (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=50, help="updates of each variant a round")
    parser.add_argument("--warm-up", type=int, default=1_600, help="agent steps before the first update")
    parser.add_argument("--game", default="pong")
    add_clock(parser)
    parser.add_argument("--quick", action="store_true", help="a few short rounds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.updates, options.warm_up = 3, 10, 200
    allowed = (1,) if options.clock == "cpu" else (1, 2)
    options.threads = options.threads or [threads for threads in allowed if threads <= (os.cpu_count() or 1)]
    if options.clock == "cpu" and options.threads != [1]:
        raise InputError(
            f"--clock cpu with --threads {options.threads}: only one thread's time can be told (allowed: 1)"
        )
    return options


def compare(names: Sequence[str], game: str, warm_up: int, updates: int, rounds: int, clock: Clock) -> dict[str, Any]:
    """Measures variants at the present number of threads, prints the tables and returns the figures."""
    threads = torch.get_num_threads()
    subjects = [make_subject(name, game, warm_up) for name in names]
    rates: list[float] = []
    onednn_rates: list[float] = []
    for _ in range(rounds):
        rates.append(matrix_rate(clock, torch.mm))
        onednn_rates.append(matrix_rate(clock, lambda a, b: onednn(a, b.t())))
        for subject in subjects:
            subject.product_seconds.append(seconds_of_products(subject.products, clock))
            subject.update_seconds.append(seconds_of_updates(subject.training, updates, clock))
    rate = Spread.of(rates)
    print(
        f"{threads} thread(s); matrices of {SIDE}, billion multiply-adds a second: {_billions(rates)} by PyTorch's mm, "
        f"{_billions(onednn_rates)} by oneDNN"
    )
    results = [figures_of(subject, rates, onednn_rates) for subject in subjects]
    show([_floor_row(result) for result in results])
    figures: dict[str, Any] = {
        "threads": threads,
        "matrix_rate": asdict(rate),
        "matrix_rate_onednn": asdict(Spread.of(onednn_rates)),
        "variants": results,
    }
    for subject, result in zip(subjects, results, strict=True):
        step, phases = phases_of_step(subject.training, 4 * updates)
        kinds = kinds_of_update(subject.training, updates, result["update_ms"]["median"])
        result |= {"step_ms": step, "phases_ms": phases, "operators_ms": kinds}
        _print_parts(f"{subject.name}: an agent step, {step:.3f} ms", phases, step)
        _print_parts(f"{subject.name}: inside an update, by operator (profiler's shares)", kinds, sum(kinds.values()))
        subject.training.close()
    print(flush=True)
    return figures


def make_subject(name: str, game: str, warm_up: int) -> Subject:
    """Trains a variant until updates are warm."""
    trial = Trial(name, game, warm_up, seed=0)
    trial.advance(warm_up + 50)
    spec = trial.training.agent.network.spec
    return Subject(name, trial.training, products_of_update(spec, BATCH), multiply_adds_of_update(spec, BATCH))


def matrix_rate(clock: Clock, multiply: Callable[..., torch.Tensor], side: int = SIDE, repeats: int = 4) -> float:
    """Multiply-adds a second of a large float32 matrix product: the best of a few, as a property of the machine."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    multiply(a, b)
    times = []
    for _ in range(repeats):
        start = clock()
        multiply(a, b)
        times.append(clock() - start)
    return side**3 / min(times)


def seconds_of_products(products: Sequence[Product], clock: Clock) -> float:
    """Time of an update's products alone, in their shapes, each result written to memory that is there already."""
    calls: list[Callable[[], Any]] = []
    for p in products:
        left, right = torch.rand(p.copies, p.rows, p.inner), torch.rand(p.copies, p.inner, p.columns)
        out = torch.rand(p.copies, p.rows, p.columns)
        calls += [_product(left, right)] * p.forward
        # The operand without a gradient, where there is one, is the left: pixels.
        calls.append(_product(left.transpose(1, 2), out))
        if p.gradients == 2:
            calls.append(_product(out, right.transpose(1, 2)))
    for call in calls:
        call()
    start = clock()
    for call in calls:
        call()
    return clock() - start


def _product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any]:
    if len(a) == 1:
        a, b = a[0], b[0]
        if suits_onednn(a, a.numel() * b.shape[1]):
            return lambda: times_transposed(a, b.t())
        out = torch.empty(a.shape[0], b.shape[1])
        return lambda: torch.mm(a, b, out=out)
    outs = torch.empty(len(a), a.shape[1], b.shape[2])
    return lambda: torch.bmm(a, b, out=outs)


def seconds_of_updates(training: Training, updates: int, clock: Clock) -> float:
    """Mean time of an update with the noise drawn for it; sampling and priorities are not in it."""
    agent, replay = training.agent, training.replay
    spent = 0.0
    for _ in range(updates):
        batch = replay.sample(BATCH, training.beta, agent.generator)
        start = clock()
        agent.begin_step()
        losses = agent.update(batch)
        spent += clock() - start
        replay.update_priorities(batch.slots, losses)
    return spent / updates


def executed_multiply_adds(training: Training) -> int:
    """Multiply-adds of the matrix products that one update really does, as PyTorch counts them."""
    agent = training.agent
    agent.begin_step()
    batch = training.replay.sample(BATCH, training.beta, agent.generator)
    with count_flops() as counter:
        agent.update(batch)
    return int(counter.get_total_flops()) // 2


def count_flops() -> FlopCounterMode:
    """PyTorch's counter, which does not know oneDNN's product by itself."""

    def product(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: product})


def figures_of(subject: Subject, rates: Sequence[float], onednn_rates: Sequence[float]) -> dict[str, Any]:
    """A variant's figures against the floors of each round."""
    floors = [subject.multiply_adds / rate for rate in rates]
    onednn_floors = [subject.multiply_adds / rate for rate in onednn_rates]
    return {
        "variant": subject.name,
        "multiply_adds": subject.multiply_adds,
        "executed_multiply_adds": executed_multiply_adds(subject.training),
        "floor_ms": asdict(Spread.of([1e3 * floor for floor in floors])),
        "products_ms": asdict(Spread.of([1e3 * seconds for seconds in subject.product_seconds])),
        "update_ms": asdict(Spread.of([1e3 * seconds for seconds in subject.update_seconds])),
        "update_over_floor": asdict(ratio(subject.update_seconds, floors)),
        "update_over_onednn_floor": asdict(ratio(subject.update_seconds, onednn_floors)),
        "update_over_products": asdict(ratio(subject.update_seconds, subject.product_seconds)),
    }


def phases_of_step(training: Training, steps: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of an agent step in the loop as it runs, and of each part of it."""
    spent = dict.fromkeys((label for label, _, _ in PHASES), 0.0)

    def timed(label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[label] += time.perf_counter() - start

        return call

    wrapped: list[tuple[Any, str]] = []
    for label, owner, name in PHASES:
        holder = getattr(training, owner) if owner else training
        if hasattr(holder, name):
            setattr(holder, name, timed(label, getattr(holder, name)))
            wrapped.append((holder, name))
    try:
        start = time.perf_counter()
        training.run(steps)
        whole = time.perf_counter() - start
    finally:
        for holder, name in wrapped:
            delattr(holder, name)
    parts = {label: 1e3 * seconds / steps for label, seconds in spent.items()}
    return 1e3 * whole / steps, parts | {"the loop itself": 1e3 * (whole - sum(spent.values())) / steps}


def kinds_of_update(training: Training, updates: int, update_ms: float) -> dict[str, float]:
    """Milliseconds of an update by kind of operator: the profiler's shares of the time without the profiler."""
    agent = training.agent
    batches = [training.replay.sample(BATCH, training.beta, agent.generator) for _ in range(updates)]
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        start = time.perf_counter()
        for batch in batches:
            agent.begin_step()
            agent.update(batch)
        whole = time.perf_counter() - start
    microseconds: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = kind_of(event.key)
        microseconds[kind] = microseconds.get(kind, 0.0) + event.self_cpu_time_total
    rest = 1e6 * whole - sum(microseconds.values())
    microseconds["Python between operators"] = microseconds.get("Python between operators", 0.0) + rest
    total = sum(microseconds.values())
    ordered = sorted(microseconds.items(), key=lambda item: -item[1])
    return {kind: update_ms * value / total for kind, value in ordered}


def kind_of(operator: str) -> str:
    """The kind that an operator's name, as the profiler gives it, belongs to."""
    if operator.startswith("autograd::") or operator.endswith("Backward0"):
        return "autograd's engine"
    namespace, _, name = operator.partition("::")
    if namespace not in ("aten", "mkldnn"):
        return "Python between operators"
    name = name.rstrip("_")
    for kind, beginnings in KINDS:
        if name in beginnings or any(name.startswith(f"{beginning}_") for beginning in beginnings):
            return kind
    return "elementwise and sums"


def _floor_row(result: dict[str, Any]) -> dict[str, str]:
    return {
        "variant": result["variant"],
        "multiply-adds, million": f"{result['multiply_adds'] / 1e6:.1f}",
        "executed": f"{result['executed_multiply_adds'] / 1e6:.1f}",
        "floor ms": f"{result['floor_ms']['median']:.2f}",
        "products ms": f"{result['products_ms']['median']:.2f}",
        "update ms": f"{result['update_ms']['median']:.2f}",
        "update / floor": _range(result["update_over_floor"]),
        "by oneDNN's": _range(result["update_over_onednn_floor"]),
        "update / products": _range(result["update_over_products"]),
    }


def _billions(rates: Sequence[float]) -> Spread:
    return Spread.of([rate / 1e9 for rate in rates])


def _range(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['lowest']:.2f}-{spread['highest']:.2f})"


def _print_parts(title: str, parts: dict[str, float], whole: float) -> None:
    print(f"\n{title}")
    for name, milliseconds in parts.items():
        share = milliseconds / whole if whole else math.nan
        print(f"  {name:30} {milliseconds:8.3f} ms {share:6.1%}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"floor: {error}")
