"""K-FAC beside tuned Adam where second order is known to help: steps to one training loss on scikit-learn's digits.

    python -m benchmarks.kfac_digits [--seeds 3] [--threads 1] [--plot FILE.png] [--json FILE]

Two tasks on the 1,797 images of 8×8 pixels: a small convolutional network with tensor regression layers
(cross-entropy), and a deep autoencoder, K-FAC's classic (Martens & Grosse 2015, section 13; squared error). Adam and
K-FAC see the same batches and start from the same weights. Each picks its learning rate from a grid on three seeds
that are not reported: Adam the lowest training loss at its last step (the median of the seeds), K-FAC the fewest steps
to the losses that Adam then ends with (the most of the seeds). The target is the loss that Adam ends with, the lower
of its last two evaluations; counted are steps to the first evaluation (every 10 steps, on all images) at or below it.
K-FAC's other settings are the same for all seeds of a task, and were found on the same three seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.networks.regression import TensorRegression
from tensorrl.optimizers.kfac import KFAC

EVERY = 10
TUNING_SEEDS = (1000, 1001, 1002)


@dataclass(frozen=True)
class Task:
    """A data set, a network and a loss."""

    name: str
    inputs: Tensor
    targets: Tensor
    build: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    likelihood: str
    batch: int
    steps: int
    """Adam's; K-FAC makes half as many."""
    kfac: dict[str, object]
    learning_rates: dict[str, tuple[float, ...]]
    """The grid of each optimizer."""


def tasks() -> list[Task]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    flat = images.flatten(1)

    def classifier() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(6, 12, 3, stride=2, padding=1),
            nn.Tanh(),
            TensorRegression((12, 4, 4), (24,), rank=(4, 2, 2, 8)),
            nn.Tanh(),
            TensorRegression((24,), (10,), rank=(6, 6)),
        )

    def autoencoder() -> nn.Module:
        sizes = (64, 128, 64, 32, 8, 32, 64, 128, 64)
        layers: list[nn.Module] = []
        for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            layers.append(nn.Linear(fan_in, fan_out))
            if k not in (3, len(sizes) - 2):  # the code and the reconstruction are linear
                layers.append(nn.Tanh())
        return nn.Sequential(*layers)

    def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().sum(1).mean()

    often = {"curvature_interval": 1, "inverse_interval": 5}
    gentle = {**often, "damping": 0.001, "factor_decay": 0.98, "kl_clip": 3e-4, "momentum": 0.5}
    bold = {**often, "damping": 0.1, "kl_clip": 3e-3, "momentum": 0.9}
    grids = (
        {"adam": (1e-2, 2e-2, 3e-2, 4e-2, 5e-2), "kfac": (0.3, 0.5, 0.7)},
        {"adam": (3e-3, 1e-2, 2e-2), "kfac": (0.1, 0.3, 1.0)},
    )
    return [
        Task("conv + TRL", images, labels, classifier, F.cross_entropy, "categorical", 512, 900, gentle, grids[0]),
        Task("autoencoder", flat, flat, autoencoder, half_square, "gaussian", 512, 2000, bold, grids[1]),
    ]


def train(task: Task, optimizer_name: str, lr: float, seed: int, steps: int) -> list[float]:
    """Returns the training loss on all images every `EVERY` steps, from step 0; infinite from where it diverges."""
    torch.manual_seed(seed)
    net = task.build()
    order = torch.Generator().manual_seed(seed)
    optimizer: torch.optim.Optimizer
    if optimizer_name == "adam":
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    else:
        optimizer = KFAC(net, lr=lr, likelihood=task.likelihood, **task.kfac)  # type: ignore[arg-type]
    curve = []
    for step in range(steps + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                value = task.loss(net(task.inputs), task.targets).item()
            curve.append(value if math.isfinite(value) else math.inf)
        rows = torch.randperm(len(task.inputs), generator=order)[: task.batch]
        x, y = task.inputs[rows], task.targets[rows]
        optimizer.zero_grad()
        if isinstance(optimizer, KFAC):
            with optimizer.curvature() as capture:
                outputs = net(x)
                capture.observe(outputs)
            loss = task.loss(outputs, y)
        else:
            loss = task.loss(net(x), y)
        loss.backward()
        optimizer.step()
        if isinstance(optimizer, KFAC) and optimizer.damping_due:
            with torch.no_grad():
                optimizer.adapt_damping(loss, task.loss(net(x), y))
    return curve


def steps_to(curve: list[float], target: float) -> float:
    """Steps to the first evaluation at or below the target; infinite if there is none."""
    return next((k * EVERY for k, value in enumerate(curve) if value <= target), math.inf)


def tune(task: Task) -> dict[str, float]:
    """The learning rate of each optimizer's grid that does best on the seeds for it."""
    curves = {
        lr: [train(task, "adam", lr, seed, task.steps) for seed in TUNING_SEEDS] for lr in task.learning_rates["adam"]
    }
    ends = {lr: [min(curve[-2:]) for curve in each] for lr, each in curves.items()}
    adam = min(ends, key=lambda lr: statistics.median(ends[lr]))
    told(task, "adam", "losses at the end", {lr: [f"{end:.3g}" for end in each] for lr, each in ends.items()})
    needed = {
        lr: [
            steps_to(train(task, "kfac", lr, seed, task.steps // 2), end)
            for seed, end in zip(TUNING_SEEDS, ends[adam], strict=True)
        ]
        for lr in task.learning_rates["kfac"]
    }
    told(task, "kfac", "steps to them", needed)
    return {"adam": adam, "kfac": min(needed, key=lambda lr: (max(needed[lr]), sum(needed[lr])))}


def told(task: Task, optimizer_name: str, what: str, found: dict[float, list[object]]) -> None:
    listed = "; ".join(f"{lr:g}: {', '.join(map(str, each))}" for lr, each in found.items())
    print(f"{task.name}, {optimizer_name}: {what} by learning rate, seeds {TUNING_SEEDS}: {listed}", flush=True)


def run(task: Task, seeds: int) -> dict[str, object]:
    """Tunes and runs both optimizers on a task."""
    lrs = tune(task)
    steps = {"adam": task.steps, "kfac": task.steps // 2}
    curves = {name: [train(task, name, lr, seed, steps[name]) for seed in range(seeds)] for name, lr in lrs.items()}
    needed = []
    for adam, kfac in zip(curves["adam"], curves["kfac"], strict=True):
        target = min(adam[-2:])
        needed.append((target, steps_to(adam, target), steps_to(kfac, target)))
    return {"learning_rates": lrs, "curves": curves, "needed": needed}


def show(task: Task, result: dict[str, object]) -> None:
    """Prints the curves' medians and the ratio of steps."""
    curves: dict[str, list[list[float]]] = result["curves"]  # type: ignore[assignment]
    rows = len(curves["adam"][0])
    print(f"\n{task.name}: median training loss\n{'step':>6} {'adam':>10} {'kfac':>10}")
    for k in sorted({0, *(rows * part // 40 for part in (1, 2, 3, 4, 6, 8, 12, 16, 20, 30)), rows - 1}):
        found = [statistics.median(c[k] for c in curves[name]) if k < len(curves[name][0]) else None for name in curves]
        print(f"{k * EVERY:>6} " + " ".join(f"{'' if value is None else format(value, '.4g'):>10}" for value in found))
    for seed, (target, adam_steps, kfac_steps) in enumerate(result["needed"]):  # type: ignore[arg-type, var-annotated]
        ratio = adam_steps / kfac_steps
        print(f"seed {seed}: to {target:.4g}: Adam {adam_steps:.0f}, K-FAC {kfac_steps:.0f} steps, {ratio:.1f}x fewer")


def compare(chosen: list[Task], *, seeds: int) -> dict[str, dict[str, object]]:
    """Runs tasks one after the other and shows each as it is done."""
    results = {}
    for task in chosen:
        results[task.name] = run(task, seeds)
        show(task, results[task.name])
    return results


def plot(results: dict[str, dict[str, object]], path: Path) -> None:
    """Draws every seed's curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(5 * len(results), 3.5), squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        for colour, (optimizer_name, curves) in zip(("C0", "C1"), result["curves"].items(), strict=True):  # type: ignore[attr-defined]
            for seed, curve in enumerate(curves):
                label = f"{optimizer_name}, lr {result['learning_rates'][optimizer_name]:g}" if seed == 0 else None  # type: ignore[index]
                axis.plot([k * EVERY for k in range(len(curve))], curve, color=colour, alpha=0.7, label=label)
        axis.set(title=name, xlabel="steps", ylabel="training loss", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tasks", nargs="*", help="names; all if left out")
    parser.add_argument("--plot", type=Path, help="file to draw the curves in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [task for task in tasks() if not options.tasks or task.name in options.tasks]
    results = compare(chosen, seeds=options.seeds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
