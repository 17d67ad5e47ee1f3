"""Plain tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tensorrl.cli.streams import spelled_out


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Prints rows that share their keys; numbers are set to the right."""
    console = Console()

    def said(text: str) -> str:
        # Before it is set in columns: what is spelled out is wider.
        return spelled_out(text, console.encoding)

    table = Table(title=None if title is None else said(title), title_justify="left")
    if rows:
        for name, value in rows[0].items():
            number = isinstance(value, int | float) or (isinstance(value, str) and value.replace(",", "").isdigit())
            table.add_column(said(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else said(str(value)) for value in row.values()))
    # A log or a pipe has no width of its own: nothing is folded there.
    if not console.is_terminal:
        console.width = 220
    console.print(table)
