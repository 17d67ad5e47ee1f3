"""What a sweep's finished cells cost: speed, time, processor time and memory, by agent."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tensorrl.analysis.provenance import elapsed_seconds
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.table_formats import Table
from tensorrl.analysis.texts import NOTHING
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import is_number

_FIELDS: Mapping[str, tuple[str, float, str]] = {
    "Steps/s": ("steps_per_second", 1.0, "{:.1f}"),
    "Training, min": ("training_seconds", 1 / 60, "{:.1f}"),
    "Evaluation, min": ("evaluation_seconds", 1 / 60, "{:.1f}"),
    "Whole trial, min": ("elapsed_seconds", 1 / 60, "{:.1f}"),
    "Processor time, min": ("processor_seconds", 1 / 60, "{:.1f}"),
    "Peak memory, MiB": ("peak_memory_bytes", 1 / 2**20, "{:,.0f}"),
}
"""Heading → field of `result.json`, factor and form."""


def parts(record: SweepRecord) -> Iterator[Table]:
    """A table of medians over an agent's finished cells, for each kind of device; none if no cell is finished."""
    groups: dict[tuple[str, str], list[CellStatus]] = {}
    for cell in record.cells:
        if cell.state == "finished":
            device = str(cell.result.get("device", "cpu")).partition(":")[0]
            groups.setdefault((cell.label, device), []).append(cell)
    if not groups:
        return
    yield Table(
        "costs",
        "Speed, time and memory of the finished cells: median over cells, lowest and highest in brackets",
        ["Agent", "Cells", "Device", *_FIELDS],
        [
            [label, str(len(cells)), device, *(_text(cells, *field) for field in _FIELDS.values())]
            for (label, device), cells in groups.items()
        ],
        notes=[
            "Steps/s: agent steps while the agent learns. Training: without evaluation. Evaluation: the games during "
            "and after training. Whole trial: from its start to its result, evaluation and waiting included. "
            f"Processor time: of all its threads. {NOTHING}: the cells do not say; they ran before it was recorded.",
        ],
        records=[
            {"agent": label, "cells": len(cells), "device": device}
            | {name: _median(cells, name) for name, _, _ in _FIELDS.values()}
            for (label, device), cells in groups.items()
        ],
    )


def _values(cells: Sequence[CellStatus], name: str) -> list[float]:
    found = [elapsed_seconds(cell) if name == "elapsed_seconds" else cell.result.get(name) for cell in cells]
    return [float(value) for value in found if is_number(value)]


def _median(cells: Sequence[CellStatus], name: str) -> Any:
    values = _values(cells, name)
    return statistics.median(values) if values else None


def _text(cells: Sequence[CellStatus], name: str, factor: float, form: str) -> str:
    values = [factor * value for value in _values(cells, name)]
    if not values:
        return NOTHING
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{form.format(min(values))}, {form.format(max(values))}]"
