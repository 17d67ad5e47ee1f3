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
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = field(default=())


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, title above and notes below."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    bold = [[f"**{cell}**" if cell else "" for cell in row] for row in table.summary]
    lines = [f"**{table.title}**", "", line(table.columns), rule, *map(line, [*table.rows, *bold])]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX `table`, which needs the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_text, cells)) + r" \\"

    body = [*map(line, table.rows), *([r"\midrule", *map(line, table.summary)] if table.summary else [])]
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
            line(table.columns),
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
    """The table as HTML, its title the caption."""

    def line(cells: Sequence[str], tag: str = "td") -> str:
        first, *others = map(html.escape, cells)
        scope = "col" if tag == "th" else "row"
        inner = "".join(f"<{tag}{' scope=col' if tag == 'th' else ''}>{cell}</{tag}>" for cell in others)
        return f'<tr><th scope="{scope}">{first}</th>{inner}</tr>'.replace("scope=col", 'scope="col"')

    summary = f"<tfoot>{''.join(map(line, table.summary))}</tfoot>" if table.summary else ""
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in table.notes)
    return (
        f'<div class="wide"><table><caption>{html.escape(table.title)}</caption>'
        f"<thead>{line(table.columns, 'th')}</thead><tbody>{''.join(map(line, table.rows))}</tbody>{summary}</table>"
        f"</div>{notes}"
    )


def _latex_text(text: str) -> str:
    return re.sub("[" + re.escape("".join(_LATEX)) + "]", lambda found: _LATEX[found[0]], text)
