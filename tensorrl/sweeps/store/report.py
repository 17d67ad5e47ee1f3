"""Reads a sweep for its report, and writes the report to the store and to MLflow."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from tensorrl.analysis import report
from tensorrl.analysis.provenance import Origin
from tensorrl.analysis.records import SweepRecord
from tensorrl.sweeps.store.layout import REPORT_FOLDER, SWEEP_FILE, sweep_folder
from tensorrl.sweeps.store.status import sweep_status
from tensorrl.tracking import record_sweep
from tensorrl.tracking.view import find_link
from tensorrl.trial.cell import CELLS_FILE

_PATHS = re.compile(r"""(?<![\w.~:/-])~?/[^\s'"]*/([^\s'"/]+)""")


def sweep_record(store: Path, wanted: str) -> SweepRecord:
    """Reads every cell of a sweep.

    Args:
        store: the store.
        wanted: a sweep file that exists, or the name of a sweep that was run in the store.

    Raises:
        InputError: there is no such file or sweep (with the nearest name); the file is not valid; the store has
            another version.
    """
    status = sweep_status(store, wanted)
    return SweepRecord(status.name, status.rows)


def sweep_text(store: Path, name: str) -> str:
    """Returns the sweep file in the store in the form that may be published; empty if the store has none."""
    try:
        return public_text((sweep_folder(store, name) / SWEEP_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""


def public_text(text: str) -> str:
    """Returns a sweep file's text, as `sweep_yaml` writes it, in the form that may be published.

    MLflow's address is left out, because it does not define the sweep. Paths of this machine keep their last part only.
    """
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        inside = line.startswith("tracking:") or (inside and line.startswith((" ", "\t", "\n")))
        if not inside:
            kept.append(line)
    return _PATHS.sub(r"\1", "".join(kept))


def _server_pages(tracking_uri: str | None, experiment: str) -> str:
    """Returns where to find the cells in MLflow, without the user and password; empty for a file or a database."""
    parts = urlsplit(tracking_uri or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    link = find_link(str(tracking_uri), experiment)
    if link is not None:
        return f"{link.url} (experiment {experiment})"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}/#/experiments (experiment {experiment})"


def write_report(
    record: SweepRecord,
    store: Path,
    out: Path | None = None,
    *,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> tuple[report.Report, list[Path]]:
    """Writes a sweep's report.

    Args:
        record: the sweep.
        store: the sweep's store.
        out: the report's folder; None takes the sweep's report folder in the store.
        tracking_uri: the MLflow store with the cells; the report links to it if it is a server. None gives no link.
        experiment: the MLflow experiment of the sweep; None takes the sweep's name.

    Returns:
        The report and its files, the HTML page first.

    Raises:
        InputError: the folder cannot be written to, or holds something else.
    """
    link = _server_pages(tracking_uri, experiment or record.name)
    made = report.build(record, Origin(sweep_text(store, record.name), link))
    return made, report.write(made, out or sweep_folder(store, record.name) / REPORT_FOLDER)


def keep_report(store: Path, name: str, *, tracking_uri: str, experiment: str) -> str:
    """Writes the report of a sweep to the store, and saves it in the sweep's run in MLflow.

    Args:
        store: the store.
        name: the name of a sweep that was run in the store.
        tracking_uri: the MLflow server, as `tensorrl.tracking.tracking_uri_for` returns it.
        experiment: the MLflow experiment of the sweep.

    Returns:
        The id of the sweep's run.

    Raises:
        Exception: any error of MLflow; the report is already in the store then.
    """
    record = sweep_record(store, name)
    write_report(record, store, tracking_uri=tracking_uri, experiment=experiment)
    folder = sweep_folder(store, name)
    states = Counter(cell.state for cell in record.cells)
    return record_sweep(
        name,
        [cell.key for cell in record.cells],
        {
            "cells": len(record.cells),
            "cells_finished": states["finished"],
            "cells_stopped": states["stopped"],
            "cells_failed": states["failed"],
        },
        tracking_uri=tracking_uri,
        experiment=experiment,
        files=[folder / REPORT_FOLDER, folder / SWEEP_FILE, folder / CELLS_FILE],
    )
