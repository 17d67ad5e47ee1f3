"""How fast trials are: by a sweep's own finished cells, or by measurements that come with the package."""

from __future__ import annotations

import csv
import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tensorrl.analysis.provenance import elapsed_seconds, finished_at
from tensorrl.trial.cell import CellStatus

Device = Literal["cpu", "cuda"]

MIB = 2**20
START_SECONDS = 10.0
"""Imports, the emulator and the first report: `python -m benchmarks.startup` gives 4 s for `tensorrl train` alone.
RLlib needs 2 more seconds of a core."""
_SPEEDS = Path(__file__).parents[2] / "data" / "trial_speeds.csv"
# From full trials of 100k steps on RoadRunner and Assault (docs/results-earlier.md), on a machine with other load:
# 43 to 239 s for the last evaluation of 100 games.
_GAME_SECONDS = 1.5
# Time of an agent step without an update, over that of one with: 0.11 for rainbow, 0.13 for trl-5x, 0.09 for
# kfac-trl-5x, 0.04 for pong-dqn (processor time on one thread of an Intel Xeon).
_ACTING = 0.1
# Cells of each agent whose speed counts: the newest, because code and machine change while a long sweep goes on. Of
# the pilot's first 42 cells 35 were foretold within 30 % by the newest two, 32 by three or by all; the newest one
# alone, with 38, would trust a single machine of a cluster.
_NEWEST = 2


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


def table_speeds(kinds: Iterable[tuple[str, int]], device: Device) -> dict[str, float]:
    """Returns the agent steps per second of variants by the table, which has an update at every step.

    Args:
        kinds: variant and update interval of each kind of cell.
        device: where they run.
    """
    shares: dict[str, list[float]] = {}
    for variant, interval in kinds:
        shares.setdefault(variant, []).append(_ACTING + (1 - _ACTING) / interval)
    return {
        variant: measured()[device, variant].steps_per_second / statistics.mean(each)
        for variant, each in shares.items()
        if (device, variant) in measured()
    }


def speed_of(
    variant: str, rows: Sequence[CellStatus], device: Device, table: Mapping[str, float]
) -> tuple[float | None, str]:
    """Returns a variant's agent steps per second, and where the figure comes from.

    The speed comes from the sweep's own newest finished cells: that of a core of their own, where their processor time
    tells it. If there are none, it comes from the table, which was measured on another machine. The table's speed is
    scaled by how finished cells of other variants compare with the table.
    """
    own = _own_speeds(variant, rows, device)
    if own:
        return statistics.median(own), f"newest finished cells of this sweep ({len(own)})"
    if variant not in table:
        return None, "not measured on a GPU yet: run one cell, and ask again"
    source = measured()[device, variant].source
    shares = [statistics.median(speeds) / table[each] for each in table if (speeds := _own_speeds(each, rows, device))]
    if not shares:
        return table[variant], source
    share = statistics.median(shares)
    return share * table[variant], f"{share:.2f} x {source}: so are this sweep's finished cells"


class GameSeconds:
    """Seconds per evaluation game, by the sweep's own finished cells.

    Games differ: in Breakout an agent that does not serve plays to the frame limit.

    Args:
        rows: the status of the sweep's cells.
    """

    def __init__(self, rows: Sequence[CellStatus]) -> None:
        self._by_game: dict[str, list[float]] = {}
        for row in rows:
            seconds = _one_game(row)
            if seconds is not None:
                self._by_game.setdefault(row.game, []).append(seconds)

    def of(self, game: str) -> float:
        """Returns those of a game's finished cells, else of all finished cells, else of earlier measurements."""
        own = self._by_game.get(game) or [one for each in self._by_game.values() for one in each]
        return statistics.median(own) if own else _GAME_SECONDS


def agent_speeds(rows: Iterable[CellStatus], device: Device) -> dict[str, float]:
    """Returns the agent steps per second of agents by label, so that a sweep's axis may make them slow or fast.

    Args:
        rows: the status of the sweep's cells.
        device: where they run.
    """
    return {label: statistics.median(speeds) for label, speeds in _newest(rows, device).items()}


def _own_speeds(variant: str, rows: Sequence[CellStatus], device: Device) -> list[float]:
    """Returns the speeds of the newest finished cells of each of a variant's agents."""
    found = _newest([row for row in rows if row.variant == variant], device)
    return [speed for speeds in found.values() for speed in speeds]


def _newest(rows: Iterable[CellStatus], device: Device) -> dict[str, list[float]]:
    """Returns the speeds of each agent's newest finished cells, by label."""
    found: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: finished_at(row) or datetime.min.replace(tzinfo=UTC)):
        there = str(row.result.get("device", "cpu")).partition(":")[0] == device
        if there and row.result.get("steps_per_second"):
            found.setdefault(row.label, []).append(float(row.result["steps_per_second"]) * _waiting(row)[0])
    return {label: speeds[-_NEWEST:] for label, speeds in found.items()}


def _one_game(row: CellStatus) -> float | None:
    played = len(row.result.get("score_episodes") or ()) + len(row.result.get("final_episodes") or ())
    took, trained = row.result.get("evaluation_seconds"), row.result.get("training_seconds")
    if took is None and row.state == "finished" and trained is not None:
        whole = elapsed_seconds(row)
        took = None if whole is None else max(0.0, whole - trained - START_SECONDS)
    return None if took is None or not played else float(took) / _waiting(row)[1] / played


def _waiting(row: CellStatus) -> tuple[float, float]:
    """Returns how many times longer training and evaluation took than on a core of their own; 1 where none can tell.

    A trial of one thread on a CPU keeps its core busy, so its processor time is the time that it needs. Results from
    before evaluation's own processor time was kept have one share for both.
    """
    result: Mapping[str, Any] = row.result
    trained, evaluated = result.get("training_seconds"), result.get("evaluation_seconds")
    busy, evaluating = result.get("processor_seconds"), result.get("evaluation_processor_seconds")
    alone = result.get("device", "cpu") == "cpu" and result.get("threads") == 1
    if not (alone and trained and evaluated and busy) or busy <= (evaluating or 0.0):
        return 1.0, 1.0
    if not evaluating:
        evaluating = busy * evaluated / (trained + evaluated)
    # The start is counted as learning: in a trial of seconds, what is left without it would be mostly error.
    return max(1.0, trained / (busy - evaluating)), max(1.0, evaluated / evaluating)
