"""A sweep as its report reads it, and the report itself: in the store, and in MLflow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tensorrl.analysis import report
from tensorrl.analysis.records import SweepRecord
from tensorrl.sweeps.store.layout import REPORT_FOLDER, SWEEP_FILE, sweep_folder
from tensorrl.sweeps.store.status import sweep_status
from tensorrl.tracking import record_sweep
from tensorrl.trial.cell import CELLS_FILE


def sweep_record(store: Path, wanted: str) -> SweepRecord:
    """Reads every cell of a sweep.

    Args:
        store: the store.
        wanted: a sweep file that exists, or the name of a sweep that was run in the store.

    Raises:
        InputError: neither, with the nearest name; a bad file; a store of another version.
    """
    status = sweep_status(store, wanted)
    return SweepRecord(status.name, status.rows)


def write_report(record: SweepRecord, store: Path, out: Path | None = None) -> tuple[report.Report, list[Path]]:
    """Writes a sweep's report.

    Args:
        record: the sweep.
        store: its store.
        out: folder of the report; None takes the sweep's own in the store.

    Returns:
        The report, and its files, the page first.

    Raises:
        InputError: the folder cannot be written to, or holds something else.
    """
    made = report.build(record)
    return made, report.write(made, out or sweep_folder(store, record.name) / REPORT_FOLDER)


def keep_report(store: Path, name: str, *, tracking_uri: str, experiment: str) -> str:
    """Writes the report of a sweep into the store and keeps it in the sweep's run in MLflow.

    Args:
        store: the store.
        name: of a sweep that was run in it.
        tracking_uri: the MLflow server, as `tensorrl.tracking.tracking_uri_for` returns it.
        experiment: the MLflow experiment of the sweep.

    Returns:
        Id of the sweep's run.

    Raises:
        Exception: whatever MLflow raises; the report is in the store then.
    """
    record = sweep_record(store, name)
    write_report(record, store)
    folder = sweep_folder(store, name)
    states = Counter(cell.state for cell in record.cells)
    return record_sweep(
        name,
        [cell.key for cell in record.cells],
        {"cells": len(record.cells), "cells_finished": states["finished"], "cells_failed": states["failed"]},
        tracking_uri=tracking_uri,
        experiment=experiment,
        files=[folder / REPORT_FOLDER, folder / SWEEP_FILE, folder / CELLS_FILE],
    )
