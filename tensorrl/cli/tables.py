"""Plain tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from tensorrl.cli.streams import spelled_out


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Prints rows that have the same keys; numbers are right-aligned."""
    console = Console()

    def said(text: str) -> str:
        # Done before the layout, because spelled-out text is wider.
        return spelled_out(text, console.encoding)

    table = _table(rows, title, said)
    # A log or a pipe has no width, so no line is wrapped there.
    if not console.is_terminal:
        console.width = 220
    elif Measurement.get(console, console.options.update(max_width=1_000), table).maximum > console.width:
        table = _table(rows, title, said, narrow=True)
    console.print(table)


def _table(
    rows: Sequence[Mapping[str, Any]], title: str | None, said: Callable[[str], str], *, narrow: bool = False
) -> Table:
    """Builds the table; a narrow one has no frame, and its headings wrap at hyphens and spaces."""
    shape: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False} if narrow else {}
    table = Table(title=None if title is None else said(title), title_justify="left", **shape)
    if rows:
        for name, value in rows[0].items():
            number = isinstance(value, int | float) or (isinstance(value, str) and value.replace(",", "").isdigit())
            heading = said(name).replace("-", "-\n").replace(" ", "\n") if narrow else said(name)
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else said(str(value)) for value in row.values()))
    return table


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of finished trials."""
    print_table(
        [
            {
                "game": r["game"],
                "variant": r["variant"],
                "seed": r["seed"],
                "coefficients": f"{r['coefficients']:,}",
                "ratio": f"{r['compression_ratio']:.2f}",
                "score": f"{r['score']:.1f}",
                "human-normalised": "" if r["human_normalized"] is None else f"{r['human_normalized']:.3f}",
                "steps/s": f"{r['steps_per_second']:.0f}" if r.get("steps_per_second") else "",
            }
            for r in results
        ]
    )
