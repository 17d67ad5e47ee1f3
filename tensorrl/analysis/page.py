"""A report as one HTML file that needs nothing else: no script, no font, no address outside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from tensorrl.analysis.table_formats import Table, html_table

GENERATOR = "tensorrl report"

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #ccc; --paper: #fff; --row: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --soft: #aaa; --line: #555; --paper: #161616; --row: #222; }
}
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0 .3rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; }
thead th, tfoot tr:first-child > * { border-top: 1px solid var(--ink); }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; }
tbody tr:nth-child(even) { background: var(--row); } tfoot th, tfoot td { font-weight: 600; }
.note, figcaption { color: var(--soft); font-size: .85rem; max-width: 60rem; margin: .2rem 0; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; background: #fff; }
.warning { border-left: 4px solid #D55E00; padding: .4rem .8rem; background: var(--row); }
nav a { margin-right: 1rem; }
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
class Section:
    """A heading, and what stands below it.

    Attributes:
        title: the heading.
        parts: paragraphs, tables and pictures, in order.
    """

    title: str
    parts: Sequence[str | Table | Picture]


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
        # Without an icon of its own, a browser asks the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _part(part: str | Table | Picture) -> str:
    if isinstance(part, Table):
        return html_table(part)
    if isinstance(part, Picture):
        data = base64.b64encode(part.files["svg"]).decode()
        caption = html.escape(part.title)
        return (
            f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption>'
            "</figure>"
        )
    return f"<p>{html.escape(part)}</p>"
