"""Estimates a sweep: time from measured speeds, memory from measured sizes, trials per machine and GPU."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tensorrl.analysis.provenance import elapsed_seconds
from tensorrl.sweeps.grid.cells import PlannedCell, cells
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.settings import Settings, replay_slots, stored_frame

Device = Literal["cpu", "cuda"]

MIB = 2**20
_SPEEDS = Path(__file__).parents[2] / "data" / "trial_speeds.csv"
_FULL_STEPS = 100_000
# From full trials of 100k steps on RoadRunner and Assault (docs/results-earlier.md), on a machine with other load:
# 43 to 239 s for the last evaluation of 100 games, 47 to 65 MiB on disk.
_GAME_SECONDS = 1.5
# Time of an agent step without an update, over that of one with: 0.11 for rainbow, 0.13 for trl-5x, 0.09 for
# kfac-trl-5x, 0.04 for pong-dqn (processor time on one thread of an Intel Xeon).
_ACTING = 0.1
_DISK = 65 * MIB
# Imports, the emulator and the first report: `python -m benchmarks.startup` gives 4 s for `tensorrl train` alone. RLlib
# needs 2 more seconds of a core.
_START_SECONDS = 10.0
# RLlib's share of the memory of a cell's process: a peak of 755 MB, against 654 MB with `tensorrl train`, over 400
# steps of RoadRunner.
_RLLIB = 100 * MIB
# GPU memory of a trial besides replay: PyTorch's CUDA context and libraries; cuBLAS's workspaces, 32 MiB for each of
# two streams (the one of recordings and the default one); weights, recordings, evaluation games. Not measured yet.
_CUDA_CONTEXT = (600 + 2 * 32 + 256) * MIB
_SMALL_CARD = 16 * 1024 * MIB
# Memory of full trials beyond replay and the sizes in the table: packing checkpoints, evaluating sixteen games.
# Assault's peak was 1,164 MiB: 536 of replay, 387 in the table.
_PEAKS = 250 * MIB
# Trials with the scattering stem keep each frame with its features, compressed.
_COMPRESSED_FRAME = 1_500


@dataclass(frozen=True)
class Measured:
    """One row of `data/trial_speeds.csv`.

    Attributes:
        steps_per_second: agent steps per second of one trial, on an otherwise idle core or alone on a GPU.
        memory: bytes of main memory, not counting a replay in main memory.
        gpu_memory: bytes of GPU memory, including a replay of 100k steps; 0 on the CPU.
        source: how it was measured.
    """

    steps_per_second: float
    memory: float
    gpu_memory: float
    source: str


@dataclass(frozen=True)
class Machine:
    """The resources of one machine.

    Attributes:
        name: the machine's name.
        cpus: number of cores.
        gpus: number of GPUs.
        memory: bytes of main memory that trials may use.
        gpu_memory: bytes of memory of the smallest GPU; None if not known.
    """

    name: str
    cpus: float
    gpus: float
    memory: float
    gpu_memory: float | None = None


@functools.cache
def measured() -> dict[tuple[str, str], Measured]:
    """Returns the measurements by device and variant; `python -m benchmarks.trial_speeds` repeats them."""
    with _SPEEDS.open(newline="", encoding="utf-8") as file:
        return {
            (row["device"], row["variant"]): Measured(
                float(row["steps_per_second"]),
                float(row["memory_mib"]) * MIB,
                float(row["gpu_memory_mib"]) * MIB,
                row["source"],
            )
            for row in csv.DictReader(file)
        }


def replay_bytes(settings: Settings, steps: int) -> int:
    """Returns the size of a trial's replay in bytes: for each transition, what its torso stores of one frame."""
    kept = stored_frame(settings).nbytes + (_COMPRESSED_FRAME if settings.stem == "scattering" else 0)
    return replay_slots(settings, steps) * kept


def cell_memory(spec: SweepSpec, device: Device = "cpu") -> float:
    """Returns the most main memory that a trial of the sweep needs, in bytes."""
    return max(_trial_memory(cell, device) for cell in _kinds(spec))


def gpu_memory(spec: SweepSpec) -> float:
    """Returns the most GPU memory that a trial of the sweep needs, in bytes.

    If it was not measured, it is estimated as replay plus the memory of CUDA itself.
    """
    return max(_gpu_memory(cell) for cell in _kinds(spec))


def _gpu_memory(cell: PlannedCell) -> float:
    row = measured().get(("cuda", cell.trial.variant))
    return row.gpu_memory if row else _CUDA_CONTEXT + replay_bytes(cell.trial.settings, cell.trial.steps)


def _kinds(spec: SweepSpec) -> list[PlannedCell]:
    """Returns one cell of each variant and combination of axes; all games and seeds need the same memory."""
    one = spec.model_copy(update={"games": spec.games[:1], "seeds": spec.seeds[:1]})
    return cells(one)


def _trial_memory(cell: PlannedCell, device: Device) -> float:
    replay = replay_bytes(cell.trial.settings, cell.trial.steps) if device == "cpu" else 0
    row = measured().get((device, cell.trial.variant)) or measured()["cpu", cell.trial.variant]
    return row.memory + _PEAKS + _RLLIB + replay


def trials_per_gpu(spec: SweepSpec, machine: Machine) -> int:
    """Returns how many trials share each GPU of a machine: as many as GPU memory and the machine's cores allow."""
    if not machine.gpus:
        return 0
    by_cores = machine.cpus / machine.gpus // spec.resources.cpus
    by_memory = (machine.gpu_memory or _SMALL_CARD) // gpu_memory(spec)
    by_main_memory = machine.memory / machine.gpus // float(spec.resources.memory or cell_memory(spec, "cuda"))
    return max(1, int(min(by_cores, by_memory, by_main_memory)))


def trials_at_once(spec: SweepSpec, machine: Machine, device: Device) -> int:
    """Returns how many trials fit on a machine at the same time."""
    memory = float(spec.resources.memory or cell_memory(spec, device))
    fits = min(machine.cpus // spec.resources.cpus, machine.memory // memory)
    if device == "cuda":
        asked = spec.resources.gpus
        fits = min(fits, machine.gpus * trials_per_gpu(spec, machine) if asked == "auto" else machine.gpus // asked)
    return int(fits)


def this_machine() -> Machine:
    """Returns the resources of this process's machine."""
    sizes = _cards()
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        name="this machine",
        cpus=len(os.sched_getaffinity(0)),
        gpus=len(sizes),
        memory=available,
        gpu_memory=min(sizes, default=None),
    )


def _cards() -> list[float]:
    """Returns the memory of each GPU in bytes, from the driver's own tool, because PyTorch takes seconds to load."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    return [float(line) * MIB for line in done.stdout.split()] if done.returncode == 0 else []


def estimate(spec: SweepSpec, rows: Sequence[CellStatus], there: Sequence[Machine]) -> dict[str, Any]:
    """Returns what is left to do, and what it needs.

    Args:
        spec: the sweep.
        rows: the status of its cells.
        there: the machines.

    Returns:
        Plain values: numbers of cells, seconds of each variant's cells, hours in total, bytes of memory and disk,
        trials per machine and GPU, and the sources of the speeds.
    """
    device: Device = "cuda" if spec.resources.gpus != 0 and any(machine.gpus for machine in there) else "cpu"
    left = [row for row in rows if row.state != "finished"]
    table = _table_speeds(spec, device)
    speeds = {variant: _speed(variant, rows, device, table) for variant in spec.variants}
    game = _game_seconds(rows)
    seconds = {variant: _seconds(spec, variant, left, speeds[variant][0], game) for variant in spec.variants}
    fits = {machine.name: trials_at_once(spec, machine, device) for machine in there}
    total = sum(fits.values())
    at_once = min(total, spec.max_concurrent or total, max(1, len(left)))
    work = None if None in seconds.values() else sum(each or 0.0 for each in seconds.values())
    return {
        "name": spec.name,
        "cells": len(rows),
        "finished": len(rows) - len(left),
        "left": len(left),
        "steps_left": sum(row.steps - row.agent_steps for row in left),
        "device": device,
        "variants": [
            {
                "variant": variant,
                "cells_left": sum(row.variant == variant for row in left),
                "steps_per_second": speed,
                "seconds": seconds[variant],
                "source": source,
            }
            for variant, (speed, source) in speeds.items()
        ],
        "trial_hours": None if work is None else work / 3600,
        "at_once": at_once,
        "hours": None if work is None or not at_once else work / at_once / 3600,
        "memory_per_trial": float(spec.resources.memory or cell_memory(spec, device)),
        "gpu_memory_per_trial": gpu_memory(spec) if device == "cuda" else None,
        "disk": len(left) * _DISK * min(1.0, spec.steps / _FULL_STEPS),
        "machines": [
            {
                "machine": machine.name,
                "cpus": machine.cpus,
                "gpus": machine.gpus,
                "memory": machine.memory,
                "trials_at_once": fits[machine.name],
                "trials_per_gpu": trials_per_gpu(spec, machine) if machine.gpus else None,
            }
            for machine in there
        ],
    }


def _seconds(
    spec: SweepSpec, variant: str, left: Sequence[CellStatus], speed: float | None, game_seconds: float
) -> float | None:
    """Returns the seconds that a variant's unfinished cells take one after the other; None if the speed is unknown."""
    if speed is None:
        return None
    own = [row for row in left if row.variant == variant]
    return sum((row.steps - row.agent_steps) / speed for row in own) + len(own) * (
        _START_SECONDS + game_seconds * _games(spec, variant)
    )


def _table_speeds(spec: SweepSpec, device: Device) -> dict[str, float]:
    """Returns the agent steps per second of the sweep's variants by the table, which has an update at every step."""
    shares: dict[str, list[float]] = {}
    for cell in _kinds(spec):
        time_of_a_step = _ACTING + (1 - _ACTING) / cell.trial.settings.update_interval
        shares.setdefault(cell.trial.variant, []).append(time_of_a_step)
    return {
        variant: measured()[device, variant].steps_per_second / statistics.mean(each)
        for variant, each in shares.items()
        if (device, variant) in measured()
    }


def _speed(
    variant: str, rows: Sequence[CellStatus], device: Device, table: Mapping[str, float]
) -> tuple[float | None, str]:
    """Returns a variant's agent steps per second, and where the figure comes from.

    The speed comes from the sweep's own finished cells; if there are none, from the table, which was measured on
    another machine. The table's speed is scaled by how finished cells of other variants compare with the table.
    """
    own = _own_speeds(variant, rows, device)
    if own:
        return statistics.median(own), f"{len(own)} finished cells of this sweep"
    if variant not in table:
        return None, "not measured on a GPU yet: run one cell, and ask again"
    source = measured()[device, variant].source
    shares = [statistics.median(speeds) / table[each] for each in table if (speeds := _own_speeds(each, rows, device))]
    if not shares:
        return table[variant], source
    share = statistics.median(shares)
    return share * table[variant], f"{share:.2f} x {source}: so are this sweep's finished cells"


def _own_speeds(variant: str, rows: Sequence[CellStatus], device: Device) -> list[float]:
    return [
        float(row.result["steps_per_second"])
        for row in rows
        if row.variant == variant
        and row.result.get("steps_per_second")
        and str(row.result.get("device", "cpu")).partition(":")[0] == device
    ]


def _game_seconds(rows: Sequence[CellStatus]) -> float:
    """Returns the seconds per evaluation game, from the sweep's own finished cells or from earlier measurements."""
    own = []
    for row in rows:
        played = len(row.result.get("score_episodes") or ()) + len(row.result.get("final_episodes") or ())
        took, trained, whole = row.result.get("evaluation_seconds"), row.result.get("training_seconds"), None
        if took is None and row.state == "finished":
            whole = elapsed_seconds(row)
        if took is None and whole is not None and trained is not None:
            took = max(0.0, whole - trained - _START_SECONDS)
        if took is not None and played:
            own.append(float(took) / played)
    return statistics.median(own) if own else _GAME_SECONDS


def _games(spec: SweepSpec, variant: str) -> float:
    """Returns the number of evaluation games of a trial."""
    settings = next(cell.trial.settings for cell in _kinds(spec) if cell.trial.variant == variant)
    return 9 + settings.final_episodes * min(1.0, spec.steps / _FULL_STEPS)
