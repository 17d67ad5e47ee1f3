"""The laboratory's commands: `python -m tests.cluster.laboratory --help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tensorrl.errors import InputError
from tests.cluster.laboratory import lab as labs
from tests.cluster.laboratory import lifecycle, network

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A Ray cluster of several hosts on one machine, with MLflow on PostgreSQL. Needs root.",
)

Folder = Annotated[Path, typer.Option("--lab", envvar="TENSORRL_LAB", help="The laboratory's folder.")]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="head, mlflow, client, worker1, worker2, …")]
DEFAULT = Path("/var/tmp/tensorrl-lab")


@app.command()
def up(
    folder: Folder = DEFAULT,
    workers: Annotated[int, typer.Option(min=1, max=100, help="Worker hosts.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="Trials at once on each worker.")] = 1,
) -> None:
    """Make the hosts and start Ray and MLflow on them."""
    made = labs.Lab(folder.name.removeprefix("tensorrl-"), folder.absolute(), workers, cpus)
    try:
        lifecycle.create(made)
    except (TimeoutError, RuntimeError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"not up: {str(said).strip()}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"Ray {made.dashboard}, MLflow {made.mlflow}, storage {made.storage}")
    print("run a command in it:  python -m tests.cluster.laboratory run -- ray status")


@app.command()
def run(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    host: Annotated[str, typer.Option(help="On which host.")] = "client",
    folder: Folder = DEFAULT,
    token: Annotated[bool, typer.Option(help="With the laboratory's secrets in the environment.")] = True,
) -> None:
    """Run a command on a host."""
    raise typer.Exit(labs.open_lab(folder).run(host, command, token=token))


@app.command()
def cut(host: HostName, folder: Folder = DEFAULT) -> None:
    """Cut a host off the network; its processes run on."""
    network.cut(labs.open_lab(folder).host(host))


@app.command()
def heal(host: HostName, folder: Folder = DEFAULT) -> None:
    """Join a host to the network again."""
    network.heal(labs.open_lab(folder).host(host))


@app.command()
def kill(host: HostName, folder: Folder = DEFAULT) -> None:
    """End every process of a host at once."""
    network.kill(labs.open_lab(folder).host(host).namespace)


@app.command()
def start(host: HostName, folder: Folder = DEFAULT) -> None:
    """Start the services of a host that was killed."""
    lifecycle.start(labs.open_lab(folder), host)


@app.command()
def down(folder: Folder = DEFAULT) -> None:
    """Take everything down, results included."""
    lifecycle.remove(labs.open_lab(folder))


if __name__ == "__main__":
    try:
        app()
    except InputError as error:
        print(f"cluster.local: {error}", file=sys.stderr)
        sys.exit(2)
