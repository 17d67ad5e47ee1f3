"""The commands that run, check and watch sweeps."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from tensorrl.cli.options import Json, Sweep, SweepFile, print_json
from tensorrl.errors import InputError
from tensorrl.sweeps.remote.files import REMOTE_VARIABLE

if TYPE_CHECKING:
    from tensorrl.sweeps import CellStatus, SweepStatus

Out = Annotated[
    Path | None,
    typer.Option("--out", "--store", help="The store, a folder of cells (default: TENSORRL_STORE, or runs)."),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="GLOB",
        help="Only cells whose GAME-VARIANT-seedK matches, e.g. 'pong-*-seed0'; 'A,B' means A or B, '!A' all but A.",
    ),
]
MaxConcurrent = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Most trials at once (default: as many as fit).")
]
Address = Annotated[
    str | None, typer.Option(help="A running Ray: auto, or HOST:PORT (default: RAY_ADDRESS, or a new local Ray).")
]
Remote = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Storage for machines that share no folder, e.g. s3://BUCKET/PREFIX (default: TENSORRL_REMOTE).",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("sweep")(sweep_command)
    app.command("status")(status_command)
    app.command("submit")(submit_command)
    app.command("pull")(pull_command)


def sweep_command(
    file: SweepFile,
    out: Out = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the sweep, and estimate what it needs.")] = False,
    only: Only = None,
    max_concurrent: MaxConcurrent = None,
    address: Address = None,
    remote: Remote = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue unfinished cells, as a sweep always does.")] = True,
    as_json: Json = False,
) -> None:
    """Run every unfinished cell of a sweep file, as many at once as fit."""
    from tensorrl.sweeps import load_sweep, run_sweep, store_path

    spec = load_sweep(file)
    store = store_path(out)
    remote = remote or os.environ.get(REMOTE_VARIABLE)
    if check:
        _check(spec, store, only=only, address=address, remote=remote, as_json=as_json)
        return
    from tensorrl.cli.progress import SweepDisplay
    from tensorrl.cli.tables import print_results
    from tensorrl.sweeps.driver.cluster import RayLost

    try:
        with SweepDisplay(store) as display:
            rows = run_sweep(
                spec,
                store,
                only=only,
                max_concurrent=max_concurrent,
                address=address,
                remote=remote,
                on_update=display.update,
                say=display.say,
            )
    except KeyboardInterrupt:
        print("tensorrl: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except RayLost as lost:
        print(f"tensorrl: {lost}", file=sys.stderr)
        sys.exit(1)
    results = [dict(row.result) for row in rows if row.result]
    failed = [row for row in rows if row.state not in ("finished", "stopped")]
    stopped = [row.folder for row in rows if row.state == "stopped"]
    if as_json:
        given_up = [{"folder": str(row.folder), "error": row.error} for row in failed]
        print_json({"finished": results, "stopped": [str(folder) for folder in stopped], "failed": given_up})
    else:
        print_results(results)
        for folder in stopped:
            print(f"stopped early by the sweep's scheduler: {folder.name}")
        _print_failed(failed)
        _print_next(spec, store.absolute())
    if failed:
        sys.exit(1)


def _print_next(spec: Any, store: Path) -> None:
    from tensorrl.cli.next_steps import after_sweep
    from tensorrl.tracking import find_link, tracking_uri_for

    uri = tracking_uri_for(store / "cell", os.environ.get("MLFLOW_TRACKING_URI") or spec.tracking.uri)
    print(after_sweep(spec.name, store, find_link(uri, spec.experiment)))


def _check(spec: Any, store: Path, *, only: str | None, address: str | None, remote: str | None, as_json: bool) -> None:
    from tensorrl.cli.display import print_estimate
    from tensorrl.sweeps.driver.check import check_sweep

    found = check_sweep(spec, store, only=only, address=address, remote=remote)
    if as_json:
        print_json(found)
    else:
        print_estimate(found)


def submit_command(
    file: SweepFile,
    address: Annotated[str, typer.Option(help="The address of the cluster's dashboard, http://HOST:8265.")],
    out: Annotated[
        str | None, typer.Option("--out", "--store", help="The store, a path on every machine of the cluster.")
    ] = None,
    only: Only = None,
    max_concurrent: MaxConcurrent = None,
    remote: Remote = None,
    check: Annotated[bool, typer.Option(help="Ask the cluster first whether it can run the sweep.")] = True,
    follow: Annotated[bool, typer.Option(help="Follow the job's log to its end.")] = True,
) -> None:
    """Run a sweep on a Ray cluster as a job; storage, MLflow and resources are checked there first."""
    from tensorrl.cli.display import print_estimate
    from tensorrl.sweeps import cells, load_sweep, select
    from tensorrl.sweeps.submit.job import Cluster, check_cluster, describe_job, start_sweep

    spec = load_sweep(file)
    select(cells(spec), only)
    cluster = Cluster(address)
    if cluster.token is not None:
        print(f"the cluster requires a token: sending the one from {cluster.token.place}", file=sys.stderr)
    if check:
        print("asking the cluster whether it can run the sweep ...", file=sys.stderr, flush=True)
        found = check_cluster(cluster, file, out=out, remote=remote)
        print_estimate(found)
        print_reach(found)
        out = str(found["store"])
        if found["problems"]:
            raise InputError(
                f"{found['problems'][0]}"
                + (f" (and {len(found['problems']) - 1} more)" if len(found["problems"]) > 1 else "")
                + "; --no-check submits anyway"
            )
    running = cluster.running(spec.name, out) if out else None
    if running:
        raise InputError(
            f"job {running} already runs {spec.name} in {out}; wait until it ends, or stop it, then submit again"
        )
    options = ["--only", only] if only else []
    options += ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    options += ["--remote", remote] if remote else []
    job = start_sweep(cluster, file, store=out, options=options)
    print(describe_job(spec, cluster, job), flush=True)
    if not follow:
        return
    try:
        status = cluster.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"tensorrl: job {job} continues, but is no longer followed", file=sys.stderr)
        sys.exit(130)
    print(f"job {job}: {status}")
    if status != "SUCCEEDED":
        sys.exit(1)


def print_reach(found: dict[str, Any]) -> None:
    """Prints what the cluster's machines can reach and which resources are free."""
    free = found["free"]
    print(f"MLflow: {found['mlflow']}; free now: {free.get('CPU', 0):g} cores, {free.get('GPU', 0):g} GPUs")
    for problem in found["problems"]:
        print(f"problem: {problem}", file=sys.stderr)


def status_command(
    sweep: Sweep,
    out: Out = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until the sweep's driver has ended.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=86_400, help="Seconds between updates with --watch.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Show a sweep's progress: cells finished, running and failed, steps/s, time left."""
    from tensorrl.cli.display import StatusDisplay
    from tensorrl.sweeps import store_path, sweep_status

    store = store_path(out)
    status = sweep_status(store, sweep)
    try:
        with StatusDisplay() as display:
            while True:
                if as_json:
                    print_json(_status_json(status))
                else:
                    display.update(status)
                if not watch or status.driver not in ("running", "waiting"):
                    return
                time.sleep(every)
                status = sweep_status(store, sweep)
    except KeyboardInterrupt:
        sys.exit(130)


def pull_command(
    uri: Annotated[str, typer.Argument(metavar="URI", help="The --remote of a sweep.")],
    out: Out = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Copy the trained networks too.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a remote's cells and sweeps into a local store, for status, report, sync and evaluate."""
    from tensorrl.sweeps import store_path
    from tensorrl.sweeps.remote.pull import pull

    store = store_path(out)
    found = pull(uri, store, checkpoints=checkpoints)
    if as_json:
        print_json({"store": str(store), **found})
    else:
        sweeps = ", ".join(found["sweeps"]) or "none"
        print(f"{store}: {found['cells']} cells, {found['finished']} of them finished; sweeps: {sweeps}")


def _status_json(status: SweepStatus) -> dict[str, Any]:
    from tensorrl.trial.cell import State

    return {
        "name": status.name,
        "driver": status.driver,
        "where": status.where,
        "cells": len(status.rows),
        **{state: status.count(state) for state in get_args(State)},
        "agent_steps": sum(row.agent_steps for row in status.rows),
        "steps": sum(row.steps for row in status.rows),
        "steps_per_second": status.steps_per_second,
        "seconds_left": status.seconds_left,
        "rows": [_row_json(row) for row in status.rows],
    }


def _row_json(row: CellStatus) -> dict[str, Any]:
    return {
        "folder": str(row.folder),
        "key": row.key,
        "game": row.game,
        "variant": row.variant,
        "seed": row.seed,
        "axes": dict(row.axes),
        "state": row.state,
        "agent_steps": row.agent_steps,
        "steps": row.steps,
        "steps_per_second": row.figures.get("steps_per_second"),
        "score": row.result.get("score"),
        "failures": row.failures,
        "error": list(row.error),
    }


def _print_failed(rows: list[CellStatus]) -> None:
    for row in rows:
        print(f"failed: {row.folder}: {' | '.join(row.error) or 'no message'}", file=sys.stderr)
