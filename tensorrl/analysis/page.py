"""A report as one HTML file that needs nothing else: it loads no script, no font, no picture from anywhere.

A policy in the page makes browsers enforce that: they run its one script and refuse any other.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tensorrl.analysis.table_formats import Table, html_table

GENERATOR = "tensorrl report"

_STYLE = r"""
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #ccc; --paper: #fff; --row: #f6f6f6;
  --best: #00563f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --soft: #aaa; --line: #555; --paper: #161616; --row: #222; --best: #7fe0bf; }
}
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0 .3rem; }
table { hyphens: none; } wbr { display: none; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .15rem .55rem; text-align: right; font-variant-numeric: tabular-nums; }
td span, th span { white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: var(--paper); }
thead th, tfoot tr:first-child > * { border-top: 1px solid var(--ink); }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody tr:nth-child(even) > * { background: var(--row); } tfoot th, tfoot td { font-weight: 600; }
#origin th, #origin td, #open-cells th, #open-cells td { text-align: left; }
tfoot th[scope=row] { max-width: 10rem; }
td.best { color: var(--best); font-weight: 700; }
th[aria-sort] { cursor: pointer; } th[aria-sort=ascending]::after { content: " \25B2"; }
th[aria-sort=descending]::after { content: " \25BC"; }
p, dl { max-width: 60rem; }
.note, figcaption { color: var(--soft); font-size: .85rem; max-width: 60rem; margin: .2rem 0; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.2rem; } pre { overflow-x: auto; font-size: .8rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; background: #fff; }
.warning { border-left: 4px solid #D55E00; padding: .4rem .8rem; background: var(--row); }
nav a { margin-right: 1rem; }
@media screen and (max-width: 44rem) {
  body { margin: 1rem auto; padding: 0 .4rem; } h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
  table { font-size: max(7.5px, min(.85rem, 1.9vw)); } caption, .note { font-size: .8rem; }
  th, td { padding: .12rem .06rem; letter-spacing: -.03em; } table { hyphens: manual; } wbr { display: inline; }
}
@media print {
  body { margin: 0; max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  .wide { overflow: visible; } table { font-size: 7pt; } th, td { padding: .1rem .2rem; }
  table { hyphens: manual; } wbr { display: inline; } table[id^=improvement] td span { white-space: normal; }
  th[scope=row], thead th:first-child { position: static; } tr, img, figure, .warning { break-inside: avoid; }
}
"""

# Sorts a table by a column: down, up, and back to the order it came in. The page is whole without it.
_SCRIPT = r"""
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].textContent.replace(/,/g, "").replace(/\u2212/g, "-");
    const number = /^[^\p{L}]*?(-?\d+(\.\d+)?)/u.exec(text);
    return number && column ? Number(number[1]) : text;
  };
  const order = (a, b) => typeof a === typeof b
    ? (typeof a === "number" ? a - b : a.localeCompare(b)) : (typeof a === "number" ? -1 : 1);
  heads.forEach((head, column) => {
    const turn = () => {
      const next = {none: column ? "descending" : "ascending", ascending: column ? "none" : "descending",
        descending: column ? "ascending" : "none"}[head.getAttribute("aria-sort")];
      heads.forEach(each => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const sorted = next === "none" ? rows : [...rows].sort((a, b) => {
        const [one, two] = [value(a, column), value(b, column)];
        return typeof one === typeof two ? sign * order(one, two) : order(one, two);
      });
      body.append(...sorted);
    };
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", turn);
    head.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(); }
    });
  });
}
"""


@dataclass(frozen=True)
class Picture:
    """A figure of a report.

    Attributes:
        name: of its files.
        title: its caption, one sentence or two.
        files: PNG and SVG, by suffix.
    """

    name: str
    title: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Terms:
    """Words and what they mean.

    Attributes:
        meanings: a sentence or two by word.
    """

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """A text that is shown as it is, folded away until it is asked for.

    Attributes:
        title: what it is.
        text: the text.
    """

    title: str
    text: str


Part = str | Table | Picture | Terms | Listing


@dataclass(frozen=True)
class Section:
    """A heading and the parts below it.

    Attributes:
        title: the heading.
        parts: the parts below it, in order.
    """

    title: str
    parts: Sequence[Part]


def page(title: str, lead: Sequence[str], warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Puts a report together.

    Args:
        title: of the page.
        lead: paragraphs below the title.
        warnings: what a reader must know before any figure.
        sections: the rest.
    """
    links = "".join(f'<a href="#s{i}">{html.escape(each.title)}</a>' for i, each in enumerate(sections))
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in lead)]
    body += [f'<p class="warning">{html.escape(text)}</p>' for text in warnings]
    body.append(f"<nav>{links}</nav>")
    for i, section in enumerate(sections):
        body.append(f'<section><h2 id="s{i}">{html.escape(section.title)}</h2>')
        body += [_part(part) for part in section.parts]
        body.append("</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{GENERATOR}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        # Without an icon of its own, a browser asks the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _policy() -> str:
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return f"default-src 'none'; img-src data:; style-src {digest(_STYLE)}; script-src {digest(_SCRIPT)}"


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return html_table(part)
    if isinstance(part, Picture):
        data = base64.b64encode(part.files["svg"]).decode()
        caption = html.escape(part.title)
        return (
            f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption>'
            "</figure>"
        )
    if isinstance(part, Terms):
        listed = (f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in part.meanings.items())
        return f"<dl>{''.join(listed)}</dl>"
    if isinstance(part, Listing):
        return f"<details><summary>{html.escape(part.title)}</summary><pre>{html.escape(part.text)}</pre></details>"
    return f"<p>{html.escape(part)}</p>"
