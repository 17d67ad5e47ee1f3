"""Forward and backward of one layer, ours beside the peers, in one process: `python -m benchmarks.trl`.

Every round times each layer a few times in a row, the first not counted, and the layers take turns in a shuffled
order, so that a slow moment of the machine falls on all alike and none pays for the cache that another emptied; medians
over all rounds are compared. The gradient of the input is included. The ranks of a factorization
are the same for all libraries that have it. On a CUDA device the same is timed again, replayed from a captured graph,
where the layer can be captured. Time it on an idle machine, or compare the fastest times: a busy one can stall any row.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tltorch
import torch
from torch import Tensor, nn

from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import FACTORIZATIONS

HIDDEN = ((64, 3, 3), (256,))
OUTPUT = ((256,), (6, 51))
# Factorized the way TensorLy-Torch's FactorizedLinear wants it: outputs and inputs in as many modes.
MATCHED_OUTPUT = (16, 4, 4)
TIMED_IN_A_ROW = 5


@dataclass(frozen=True)
class Row:
    device: str
    layer: str
    shape: str
    batch: int
    coefficients: int
    microseconds: float
    fastest: float
    to_dense: float


class Dense(nn.Module):
    """A dense layer on unflattened modes."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(in_shape), math.prod(out_shape))
        self.out_shape = out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).unflatten(1, self.out_shape)


class Flattened(nn.Module):
    """A peer's layer that takes vectors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def layers_of(in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, peers: bool) -> dict[str, nn.Module]:
    """The dense layer first, then ours and the peers' at 5 and 10 times fewer coefficients."""
    dense = Dense(in_shape, out_shape)
    layers: dict[str, nn.Module] = {"nn.Linear": dense}
    for fewer in (5, 10):
        for factorization in FACTORIZATIONS:
            ours = TensorRegression(in_shape, out_shape, factorization=factorization, rank=1 / fewer)
            layers[f"ours {factorization} {fewer}x {ours.rank}"] = ours
            if not peers:
                continue
            rank = {"tucker": ours.rank, "cp": ours.rank[0], "tt": (1, *ours.rank, 1)}[factorization]
            layers[f"TensorLy-Torch TRL {factorization} {fewer}x"] = tensorly_torch_trl(
                in_shape, out_shape, factorization, rank
            )
        if peers:
            for implementation in ("factorized", "reconstructed"):
                layer = tltorch.FactorizedLinear(
                    in_shape, MATCHED_OUTPUT, factorization="tucker", rank=1 / fewer, implementation=implementation
                )
                layer.weight.normal_(0, 0.02)
                layers[f"TensorLy-Torch FactorizedLinear tucker {implementation} {fewer}x"] = Flattened(layer)
    return layers


def tensorly_torch_trl(
    in_shape: tuple[int, ...], out_shape: tuple[int, ...], factorization: str, rank: int | tuple[int, ...]
) -> nn.Module:
    layer = tltorch.TRL(in_shape, out_shape, bias=True, factorization=factorization, rank=rank)
    layer.weight.normal_(0, 0.02)
    return layer


def step_of(layer: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], None]:
    """One forward and backward from cleared gradients."""
    leaves = [*layer.parameters(), x]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        layer(x).backward(cotangent)

    return step


def captured_step_of(layer: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], None] | None:
    """The same, replayed from a CUDA graph; None if the layer cannot be captured."""
    step = step_of(layer, x, cotangent)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        print(f"  not capturable: {type(layer).__name__}: {str(error).splitlines()[0]}")
        return None

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def measure(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, list[float]]:
    """Microseconds of each step, for at least ten rounds."""
    shuffle = random.Random(0)
    names, times = list(steps), {name: list[float]() for name in steps}
    for step in steps.values():
        step()
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[names[0]]) < 10 * TIMED_IN_A_ROW:
        shuffle.shuffle(names)
        for name in names:
            step = steps[name]
            step()
            for _ in range(TIMED_IN_A_ROW):
                start = time.perf_counter()
                step()
                times[name].append(1e6 * (time.perf_counter() - start))
    return times


def compare(
    in_shape: tuple[int, ...], out_shape: tuple[int, ...], batch: int, device: str, seconds: float, *, peers: bool
) -> list[Row]:
    """Times all layers of one shape together."""
    torch.manual_seed(0)
    layers = {name: layer.to(device) for name, layer in layers_of(in_shape, out_shape, peers=peers).items()}
    steps: dict[str, Callable[[], None]] = {}
    for name, layer in layers.items():
        x = torch.randn(batch, *in_shape, device=device, requires_grad=True)
        cotangent = torch.randn_like(layer(x))
        made = (captured_step_of if device == "cuda" else step_of)(layer, x, cotangent)
        if made is not None:
            steps[name] = made
    times = measure(steps, seconds)
    dense = statistics.median(times["nn.Linear"])
    return [
        Row(
            device if device == "cpu" else f"{torch.cuda.get_device_name()}, captured graph",
            name,
            f"{in_shape} -> {out_shape}",
            batch,
            sum(p.numel() for p in layers[name].parameters()),
            round(statistics.median(values), 1),
            round(min(values), 1),
            round(statistics.median(values) / dense, 2),
        )
        for name, values in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--seconds", type=float, default=8.0, help="time per shape and batch (default 8)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for (in_shape, out_shape), peers in ((HIDDEN, True), (OUTPUT, False), (((256,), (51,)), False)):
            for batch in (32, 96):
                found = compare(in_shape, out_shape, batch, device, arguments.seconds, peers=peers)
                rows += found
                print(f"\n{found[0].device}, {found[0].shape}, batch {batch}, forward and backward, 1 thread")
                print(f"{'layer':62} {'coefficients':>12} {'median us':>10} {'fastest':>8} {'to dense':>9}")
                for row in found:
                    print(
                        f"{row.layer:62} {row.coefficients:12,} {row.microseconds:10.0f} {row.fastest:8.0f}"
                        f" {row.to_dense:9.2f}"
                    )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
