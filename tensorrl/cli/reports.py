"""The commands that report on sweeps and send records to MLflow."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tensorrl.cli.options import Json, Sweep, print_json

Store = Annotated[
    Path | None, typer.Option("--store", help="The store, a folder of cells (default: TENSORRL_STORE, or runs).")
]
Uri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="The MLflow server (default: MLFLOW_TRACKING_URI, or mlflow.db beside runs)."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("report")(report_command)
    app.command("sync")(sync_command)
    app.command("diagnose")(diagnose_command)


def report_command(
    sweep: Sweep,
    out: Annotated[Path | None, typer.Option(help="Folder of the report (default: STORE/.sweeps/NAME/report).")] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write a sweep's report: tables, figures and one HTML page, with intervals, and a list of missing cells."""
    from tensorrl.analysis import report
    from tensorrl.sweeps import store_path
    from tensorrl.sweeps.store.report import sweep_record, write_report

    folder = store_path(store)
    record = sweep_record(folder, sweep)
    made, files = write_report(record, folder, out, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"))
    rows = report.summary(record)
    if as_json:
        written = [str(file) for file in files]
        print_json({"files": written, "agents": rows, "warnings": made.warnings, "left_out": made.left_out})
        return
    from tensorrl.cli.tables import print_table

    print_table(rows, title=f"{record.name}: human-normalised scores, the paper's protocol [95 % intervals]")
    for line in (*made.warnings, *(f"left out: {sentence}" for sentence in made.left_out)):
        print(line)
    print(files[0])


def sync_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or any folder that contains runs.")],
    tracking_uri: Uri = None,
    as_json: Json = False,
) -> None:
    """Send every run in a folder to MLflow, where MLflow lacks it. It may be repeated and interrupted."""
    from tensorrl.cli.next_steps import after_sync
    from tensorrl.tracking import find_link, sync_directory, tracking_uri_for

    outcomes = sync_directory(directory, tracking_uri=tracking_uri)
    rows = [
        {
            "run": outcome.directory.name,
            "lines sent": outcome.lines_sent,
            "MLflow run": outcome.run_id,
            "problem": outcome.problem,
        }
        for outcome in outcomes
    ]
    failed = sum(outcome.problem is not None for outcome in outcomes)
    if as_json:
        print_json([{**outcome._asdict(), "directory": str(outcome.directory)} for outcome in outcomes])
    else:
        from tensorrl.cli.tables import print_table

        print_table(rows)
        print(f"{len(rows) - failed} of {len(rows)} runs are up to date in MLflow")
        places = {
            (tracking_uri_for(each.directory, tracking_uri), each.experiment_id)
            for each in outcomes
            if each.experiment_id is not None
        }
        links = [find_link(uri, "", experiment_id=home) for uri, home in sorted(places)]
        print(after_sync([link for link in links if link is not None]))
    if failed:
        sys.exit(1)


def diagnose_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; its newest checkpoint is used.")],
    updates: Annotated[
        int, typer.Option(help="Number of updates to make and measure; the run itself does not change.")
    ] = 100,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: PyTorch's choice).")] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's updates: over-fitting, accuracy of Q, and how far each layer's step moves predictions."""
    from tensorrl.trial.diagnosis import diagnose

    found = diagnose(run, updates=updates, threads=threads)
    if as_json:
        print_json(found)
        return
    from tensorrl.cli.tables import print_table

    steps = dict(found["steps"])
    lengths = steps.pop("length_over_adams")
    rows = [{"figure": name, "value": f"{value:.4g}"} for name, value in (found["figures"] | steps).items()]
    print_table(rows, title=f"{found['variant']} on {found['game']} after {found['updates']} updates")
    print_table([{"parameter": name, "step over Adam's": f"{value:.3g}"} for name, value in lengths.items()])
