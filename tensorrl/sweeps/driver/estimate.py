"""Estimates a sweep: time from measured speeds, memory from measured sizes, trials per machine and GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorrl.sweeps.driver.speeds import (
    MIB,
    START_SECONDS,
    Device,
    GameSeconds,
    agent_speeds,
    measured,
    speed_of,
    table_speeds,
)
from tensorrl.sweeps.grid.cells import PlannedCell, cells
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.settings import Settings, replay_slots, stored_frame

_FULL_STEPS = 100_000
# Full trials of 100k steps on RoadRunner and Assault (docs/results-earlier.md) took 47 to 65 MiB.
_DISK = 65 * MIB
# RLlib's share of the memory of a cell's process: a peak of 755 MB, against 654 MB with `tensorrl train`, over 400
# steps of RoadRunner.
_RLLIB = 100 * MIB
# GPU memory of a trial besides replay: CUDA's context, cuBLAS's workspaces, weights, recordings, evaluation games. 24
# trials of 25k steps on an H200, half of them with K-FAC, took 31,922 MiB: 1,330 each, of which 180 are replay.
_CUDA_CONTEXT = 1_200 * MIB
# Main memory that CUDA adds to a trial: peaks of 1,908 MiB (trl-5x) and 2,068 MiB (kfac-trl-5x) in the same run,
# against 366 and 400 MiB in the table for a CPU.
_CUDA_HOST = 1_450 * MIB
# Speed of one of 16 trials that share an H200 through MPS, over that of one alone: 215 of 368 steps/s.
_SHARED = 0.58
_SMALL_CARD = 16 * 1024 * MIB
# Memory of full trials beyond replay and the sizes in the table: packing checkpoints, evaluating sixteen games.
# Assault's peak was 1,164 MiB: 536 of replay, 387 in the table.
_PEAKS = 250 * MIB
# Trials with the scattering stem keep each frame with its features, compressed.
_COMPRESSED_FRAME = 1_500


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
    own = measured().get((device, cell.trial.variant))
    memory = own.memory if own else measured()["cpu", cell.trial.variant].memory
    return memory + _PEAKS + _RLLIB + replay + (_CUDA_HOST if device == "cuda" and own is None else 0)


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
    kinds = [(cell.trial.variant, cell.trial.settings.update_interval) for cell in _kinds(spec)]
    fits = {machine.name: trials_at_once(spec, machine, device) for machine in there}
    shared = device == "cuda" and any(fits[machine.name] > machine.gpus for machine in there)
    table = {variant: speed * (_SHARED if shared else 1) for variant, speed in table_speeds(kinds, device).items()}
    speeds = {variant: speed_of(variant, rows, device, table) for variant in spec.variants}
    games = GameSeconds(rows)
    agents = agent_speeds(rows, device)
    seconds = {variant: _seconds(spec, variant, left, speeds[variant][0], agents, games) for variant in spec.variants}
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
    spec: SweepSpec,
    variant: str,
    left: Sequence[CellStatus],
    speed: float | None,
    agents: Mapping[str, float],
    games: GameSeconds,
) -> float | None:
    """Returns the seconds that a variant's unfinished cells take one after the other; None if the speed is unknown.

    An agent whose own speed is known, by its label, is reckoned by that.
    """
    if speed is None:
        return None
    own = [row for row in left if row.variant == variant]
    played = _games(spec, variant)
    return sum(
        START_SECONDS + (row.steps - row.agent_steps) / agents.get(row.label, speed) + played * games.of(row.game)
        for row in own
    )


def _games(spec: SweepSpec, variant: str) -> float:
    """Returns the number of evaluation games of a trial."""
    settings = next(cell.trial.settings for cell in _kinds(spec) if cell.trial.variant == variant)
    return 9 + settings.final_episodes * min(1.0, spec.steps / _FULL_STEPS)
