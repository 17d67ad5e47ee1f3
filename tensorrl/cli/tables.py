"""Plain tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Prints rows that share their keys; numbers are set to the right."""
    table = Table(title=title, title_justify="left")
    if rows:
        for name, value in rows[0].items():
            number = isinstance(value, int | float) or (isinstance(value, str) and value.replace(",", "").isdigit())
            table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console = Console()
    # A log or a pipe has no width of its own: nothing is folded there.
    if not console.is_terminal:
        console.width = 220
    console.print(table)
