"""The commands that export finished cells from a store, and import them into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tensorrl.cli.options import Json, print_json
from tensorrl.cli.reports import Store

if TYPE_CHECKING:
    from tensorrl.sweeps.store.exchange import Outcome


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("export")(export_command)
    app.command("import")(import_command)


def export_command(
    source: Annotated[
        str, typer.Argument(metavar="STORE|SWEEP", help="A store's folder, or a sweep in the store: its name or file.")
    ],
    out: Annotated[Path, typer.Option(help="The export's folder; cells are added to an export that exists.")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write finished cells as small text files: all that reports and curves need, no checkpoints or passwords."""
    from tensorrl.sweeps import store_path
    from tensorrl.sweeps.store.exchange import export

    _tell(export(source, out, store=store_path(store)), out, as_json=as_json)


def import_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `tensorrl export` wrote.")],
    out: Annotated[Path, typer.Option(help="The store; it is created if it does not exist.")],
    as_json: Json = False,
) -> None:
    """Import an export into a store. Its cells count as finished for reports, curves, MLflow and sweeps."""
    from tensorrl.sweeps import store_path
    from tensorrl.sweeps.store.exchange import import_

    _tell(import_(folder, store_path(out)), out, as_json=as_json)


def _tell(outcome: Outcome, out: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "out": str(out),
                "new": list(outcome.new),
                "same": list(outcome.same),
                "left_out": outcome.left_out,
            }
        )
        return
    rest = f"; {outcome.left_out} cells without a result left out" if outcome.left_out else ""
    print(f"{out}: {len(outcome.new)} new cells, {len(outcome.same)} already there{rest}")
