"""Milliseconds per update: Adam, our K-FAC and curvlinops' on the agent's networks; steps to a loss on digits.

    python -m benchmarks.kfac [--threads 2] [--rounds 7] [--curvature-interval 25] [--inverse-interval 100]
                              [--kfac-pytorch PATH] [--clock wall|cpu] [--products] [--no-digits] [--no-peers]
                              [--json FILE]

An update is all that the learner does with a batch of 32: double-Q targets, forward, backward, optimizer (for K-FAC
with the curvature steps and refreshes that fall due). Every contestant makes `--inverse-interval` updates a round, in
turn, so that what else the machine does touches all alike; figures are medians over rounds, ratios medians of each
round's ratio. On a busy machine `--clock cpu` with one thread is steadier. curvlinops has no moving average and is
rebuilt wherever ours observes curvature; it and kfac-pytorch (a checkout, not on PyPI) are run on dense layers only,
which are all they know.

`--products` shows instead which library is faster for which product (see `tensorrl.networks.matmul`).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import kfac_digits
from tensorrl import system
from tensorrl.errors import InputError
from tensorrl.networks.heads import categorical_losses, categorical_projection
from tensorrl.networks.matmul import onednn
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.optimizers.adam import FusedAdam
from tensorrl.optimizers.grafting import AdamLength
from tensorrl.optimizers.kfac import KFAC
from tensorrl.trial.settings import network_spec
from tensorrl.trial.variants import resolve

ACTIONS, BATCH = 6, 32
VARIANTS = ("denoised", "trl-5x", "trl-10x")


class Update:
    """One learner on a fixed batch: the network of a variant and an optimizer."""

    def __init__(self, variant: str) -> None:
        torch.manual_seed(0)
        spec = network_spec(resolve(variant), ACTIONS)
        self.network, self.target = QNetwork(spec), QNetwork(spec).requires_grad_(False)
        shape = (BATCH, spec.stack, *self.network.torso.stored_shape)
        self.stacks, self.next_stacks = (torch.randint(256, shape, dtype=torch.uint8) for _ in range(2))
        self.actions, self.rows = torch.randint(ACTIONS, (BATCH,)), torch.arange(BATCH)
        self.returns, self.discounts, self.weights = torch.randn(BATCH), torch.full((BATCH,), 0.8), torch.rand(BATCH)

    @torch.no_grad()
    def targets(self) -> Tensor:
        choices = self.network.q_values(self.network(self.next_stacks)).argmax(1)
        bootstraps = self.target(self.next_stacks)[self.rows, choices].softmax(1)
        return categorical_projection(bootstraps, self.returns, self.discounts, self.target.support)

    def predictions(self) -> Tensor:
        taken: Tensor = self.network(self.stacks)[self.rows, self.actions]
        return taken

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (self.weights * categorical_losses(predictions, targets)).mean()


def adam(variant: str, options: argparse.Namespace) -> Callable[[], None]:
    learner = Update(variant)
    parameters = list(learner.network.parameters())
    optimizer = FusedAdam(parameters, lr=1e-4, eps=1.5e-4)

    def update() -> None:
        targets = learner.targets()
        loss = learner.loss(learner.predictions(), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0, foreach=True)
        optimizer.step()

    return update


def ours(variant: str, options: argparse.Namespace, **how: Any) -> Callable[[], None]:
    learner = Update(variant)
    optimizer = KFAC(
        learner.network,
        **{"lr": 1e-3, **how},
        curvature_interval=options.curvature_interval,
        inverse_interval=options.inverse_interval,
    )

    def update() -> None:
        targets = learner.targets()
        with optimizer.curvature() as capture:
            predictions = learner.predictions()
            capture.observe(predictions, weights=learner.weights)
        loss = learner.loss(predictions, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for _ in range(optimizer.fits):
            with torch.no_grad():
                optimizer.fit_step(predictions, learner.predictions())

    return update


def curvlinops(variant: str, options: argparse.Namespace) -> Callable[[], None]:
    from curvlinops import KFACInverseLinearOperator, KFACLinearOperator

    learner = Update(variant)
    # Its hooks miss layers whose output, a view, is then worked on in place; copies of the outputs help.
    for layer in (learner.network.torso.conv1, learner.network.torso.conv2):
        layer.register_forward_hook(lambda layer, inputs, output: output.clone())
    parameters = list(learner.network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    inverse: list[KFACInverseLinearOperator] = []
    steps = 0

    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = learner.network

        def forward(self, stacks: Tensor) -> Tensor:
            taken: Tensor = self.network(stacks)[learner.rows, learner.actions]
            return taken

    def update() -> None:
        nonlocal steps
        targets = learner.targets()
        if steps % options.curvature_interval == 0:
            labels = targets.argmax(1)
            curvature = KFACLinearOperator(
                Taken(),
                nn.CrossEntropyLoss(),
                parameters,
                [(learner.stacks, labels)],
                fisher_type="mc",
                check_deterministic=False,
                separate_weight_and_bias=False,
                num_data=BATCH,
                num_per_example_loss_terms=1,
            )
            inverse[:] = [KFACInverseLinearOperator(curvature, damping=0.01, use_heuristic_damping=True)]
        loss = learner.loss(learner.predictions(), targets)
        optimizer.zero_grad()
        loss.backward()
        steps += 1
        for parameter, step in zip(parameters, inverse[0] @ [p.grad for p in parameters], strict=True):
            parameter.grad = step
        optimizer.step()

    return update


def kfac_pytorch(variant: str, options: argparse.Namespace) -> Callable[[], None]:
    preconditioner_class = _kfac_pytorch_class(options.kfac_pytorch)
    learner = Update(variant)
    network, torso = learner.network, learner.network.torso

    def forward(patches: Tensor) -> Tensor:
        # Its backward hooks forbid work in place on what a layer gave, which ours does.
        first = torso.conv1(patches).relu()
        second: Tensor = torso.conv2(first.view(-1, 9, 800)).relu()
        return second.transpose(1, 2).reshape(-1, 64, 3, 3)

    torso.forward = forward
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    preconditioner = preconditioner_class(
        network,
        factor_update_steps=options.curvature_interval,
        inv_update_steps=options.inverse_interval,
        damping=0.01,
        lr=1e-3,
        loglevel=logging.ERROR,
    )

    def update() -> None:
        network.eval()  # in which its hooks leave the pass alone
        targets = learner.targets()
        network.train()
        loss = learner.loss(learner.predictions(), targets)
        optimizer.zero_grad()
        loss.backward()
        preconditioner.step()
        optimizer.step()

    return update


def _kfac_pytorch_class(checkout: Path) -> Callable[..., Any]:
    """kfac-pytorch's optimizer, from a checkout that need not be installed."""
    if not (checkout / "kfac" / "preconditioner.py").is_file():
        raise InputError(f"--kfac-pytorch {checkout}: no checkout of kfac-pytorch (allowed: a folder with kfac/)")
    sys.path.insert(0, str(checkout))
    version = importlib.metadata.version
    # The package asks for its own version as it is imported.
    importlib.metadata.version = lambda name: "checkout" if name == "kfac-pytorch" else version(name)  # type: ignore[assignment]
    try:
        module = importlib.import_module("kfac.preconditioner")
    finally:
        importlib.metadata.version = version
    found: Callable[..., Any] = module.KFACPreconditioner
    return found


def contestants(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Every contestant by name: a line here is all that another takes."""
    found = {f"{variant}, Adam": adam(variant, options) for variant in VARIANTS}
    found |= {f"{variant}, K-FAC": ours(variant, options) for variant in VARIANTS}
    grafted = {"lr": 1e-4, "graft": AdamLength(epsilon=1.5e-4), "relative_damping": True}
    found["trl-5x, K-FAC grafted"] = ours("trl-5x", options, **grafted)
    found["trl-5x, K-FAC in the eigenbasis"] = ours("trl-5x", options, eigenbasis=True)
    found["trl-5x, K-FAC in a trust region"] = ours("trl-5x", options, lr=1.0, trust_region=1e-3)
    if not options.no_peers:
        found["denoised, curvlinops"] = curvlinops("denoised", options)
    if options.kfac_pytorch:
        found["denoised, kfac-pytorch"] = kfac_pytorch("denoised", options)
    return found


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median milliseconds per update and ratio to Adam on the same network."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    found = contestants(options)
    times: dict[str, list[float]] = {name: [] for name in found}
    for update in found.values():
        for _ in range(5):
            update()
    for _ in range(options.rounds):
        for name, update in found.items():
            start = clock()
            for _ in range(options.inverse_interval):
                update()
            times[name].append((clock() - start) / options.inverse_interval * 1e3)
    results = {}
    for name, mine in times.items():
        adams = times[f"{name.split(',')[0]}, Adam"]
        ratio = statistics.median(a / b for a, b in zip(mine, adams, strict=True))
        results[name] = {"ms": statistics.median(mine), "least ms": min(mine), "to Adam": ratio}
        print(f"{name:32} {results[name]['ms']:7.2f} ms (least {min(mine):6.2f})   {ratio:5.2f} x Adam", flush=True)
    return results


def products(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median microseconds of `left @ right.T` by PyTorch's `mm` and by oneDNN, at the agent's layers."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    results = {}
    acting = ((7425, 100, 32), (297, 800, 64), (33, 576, 256), (33, 256, 918))
    kfac = ((256, 577, 577), (64, 801, 801), (306, 257, 257), (256, 256, 91), (101, 101, 32), (20, 64, 64))
    for m, k, n in (*acting, *kfac):
        left, right = torch.randn(m, k), torch.randn(n, k)
        calls = {"mm": lambda a=left, b=right: a @ b.T, "oneDNN": lambda a=left, b=right: onednn(a, b)}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(60):
            for name, call in calls.items():
                start = clock()
                call()
                times[name].append((clock() - start) * 1e6)
        results[f"{m}x{k}x{n}"] = {name: statistics.median(values[10:]) for name, values in times.items()}
        print(f"{m:4} x {k:4} x {n:4}  " + "  ".join(f"{a} {b:7.1f} us" for a, b in results[f"{m}x{k}x{n}"].items()))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--curvature-interval", type=int, default=25)
    parser.add_argument("--inverse-interval", type=int, default=100)
    parser.add_argument("--kfac-pytorch", type=Path, metavar="PATH", help="a checkout of kfac-pytorch to run beside")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--no-peers", action="store_true", help="without curvlinops")
    parser.add_argument("--products", action="store_true", help="only the products")
    parser.add_argument("--no-digits", action="store_true", help="without the supervised tasks")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    system.keep_freed_memory()  # as a trial does
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    results: dict[str, object] = {}
    if options.products:
        results["products"] = products(options)
    else:
        results["updates"] = measure(options)
        if not options.no_digits:
            results["digits"] = kfac_digits.compare(kfac_digits.tasks(), seeds=3)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"kfac: {error}")
