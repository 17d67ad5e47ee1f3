"""A table and its forms: Markdown, LaTeX, CSV, HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "$": r"\$",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "−": r"$-$",
    "–": "--",
    "†": r"\textdagger{}",
    "…": r"\ldots{}",
    "ε": r"$\varepsilon$",
    "≥": r"$\geq$",
    ">": r"$>$",
    "<": r"$<$",
}


@dataclass(frozen=True)
class Table:
    """A table for people, and the same for machines.

    Attributes:
        name: of its files.
        title: what it shows, one sentence.
        columns: headings; the first column names the rows.
        rows: a text for each column.
        summary: rows below a rule.
        notes: sentences below the table.
        records: what the CSV holds: full precision, a figure a column. The rows as they are where there are none.
        best: (row, column) of the cells to be marked, rows of the summary counted on after the others.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = field(default=())
    best: frozenset[tuple[int, int]] = frozenset()

    @property
    def all_rows(self) -> list[Sequence[str]]:
        """The rows, and those of the summary."""
        return [*self.rows, *self.summary]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, title above and notes below; the best cells are bold, a summary's in italics."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def marked(place: int, row: Sequence[str]) -> list[str]:
        cells = [f"**{cell}**" if (place, column) in table.best else cell for column, cell in enumerate(row)]
        return [f"*{cells[0]}*", *cells[1:]] if place >= len(table.rows) else cells

    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    body = [line(marked(place, row)) for place, row in enumerate(table.all_rows)]
    lines = [f"**{table.title}**", "", line(table.columns), rule, *body]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX `table`, which needs the package booktabs; the best cells are bold."""

    def line(place: int, cells: Sequence[str]) -> str:
        texts = map(_latex_text, cells)
        marked = (rf"\textbf{{{text}}}" if (place, i) in table.best else text for i, text in enumerate(texts))
        return " & ".join(marked) + r" \\"

    body = [line(place, row) for place, row in enumerate(table.all_rows)]
    if table.summary:
        body.insert(len(table.rows), r"\midrule")
    caption = _latex_text(" ".join([table.title + ("" if table.title.endswith(".") else "."), *table.notes]))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            line(-1, table.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """The table's records, or else its texts, as CSV (RFC 4180)."""
    text = io.StringIO()
    if table.records:
        names = list(dict.fromkeys(name for record in table.records for name in record))
        writer = csv.DictWriter(text, names, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(table.records)
    else:
        csv.writer(text, lineterminator="\r\n").writerows([table.columns, *table.rows, *table.summary])
    return text.getvalue()


def html_table(table: Table) -> str:
    """The table as HTML, its title the caption. Where it is narrow, a cell breaks before what stands in brackets."""

    def line(place: int, cells: Sequence[str]) -> str:
        first, *others = cells
        inner = "".join(
            f"<td{' class=best' if (place, column) in table.best else ''}>{_breakable(cell)}</td>"
            for column, cell in enumerate(others, 1)
        )
        return f'<tr><th scope="row">{_breakable(first)}</th>{inner}</tr>'

    lines = [line(place, row) for place, row in enumerate(table.all_rows)]
    body, below = "".join(lines[: len(table.rows)]), "".join(lines[len(table.rows) :])
    head = "".join(f'<th scope="col">{_hyphenated(column)}</th>' for column in table.columns)
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in table.notes)
    return (
        f'<div class="wide"><table id="{html.escape(table.name)}"><caption>{html.escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{f'<tfoot>{below}</tfoot>' if below else ''}</table>"
        f"</div>{notes}"
    )


def _breakable(text: str) -> str:
    """A cell's text, kept together but for places where a line may end; an address becomes a link."""
    if text.startswith(("http://", "https://")):
        address, space, rest = text.partition(" ")
        return (
            f'<a href="{html.escape(address)}" rel="noreferrer">{html.escape(address)}</a>{html.escape(space + rest)}'
        )
    parts = re.split(r" (?=[±(\[])", text)
    if len(parts) > 1:
        return " ".join(f"<span>{html.escape(part)}</span>" for part in parts)
    if " " in text:
        return _hyphenated(text)
    # RoadRunner may become two lines.
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", _hyphenated(text))


def _hyphenated(text: str) -> str:
    return re.sub("(?i)(de|scat|normal)(noised|tering|ised)", r"\1&shy;\2", html.escape(text))


def _latex_text(text: str) -> str:
    return re.sub("[" + re.escape("".join(_LATEX)) + "]", lambda found: _LATEX[found[0]], text)
