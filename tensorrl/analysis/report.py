"""A sweep's report: the paper's tables and figures, statistics with intervals, what is missing, and one HTML page."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tensorrl import files
from tensorrl.analysis import costs, page, provenance, score_tables, scoreboard, sections, table_formats, texts
from tensorrl.analysis.page import Part, Picture, Section, Terms
from tensorrl.analysis.provenance import Origin
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import PROTOCOLS, Block, Protocol
from tensorrl.analysis.table_formats import Table
from tensorrl.errors import InputError
from tensorrl.trial.cell import State
from tensorrl.trial.spec import FULL_STEPS

INDEX = "index.html"
_FORMS: dict[str, Callable[[Table], str]] = {
    "md": table_formats.markdown,
    "tex": table_formats.latex,
    "csv": table_formats.comma_separated,
}


@dataclass(frozen=True)
class Report:
    """What a report consists of, before it is written.

    Attributes:
        title: of the page.
        lead: sentences on what it is about.
        warnings: what a reader must know before any figure.
        sections: headings with what stands below them.
        data: tables that are only written to files.
        left_out: parts that the sweep has no cells for, a sentence each.
    """

    title: str
    lead: tuple[str, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    data: tuple[Table, ...]
    left_out: tuple[str, ...]


def build(record: SweepRecord, origin: Origin | None = None) -> Report:
    """Makes the report of a sweep from what its cells hold now. The same cells give the same report.

    Args:
        record: the sweep's cells.
        origin: what is known about the sweep besides its cells.

    Raises:
        InputError: spectra of a cell are damaged.
    """
    block = scoreboard.choose_block(record)
    left_out: list[str] = []
    made: list[tuple[str, Iterator[Part]]] = [
        ("Scores", sections.scores(record, block, left_out)),
        ("Tables of the paper", sections.paper_tables(record, block, left_out)),
        ("Learning curves", sections.learning_curves(record)),
        ("Figures of the paper", sections.paper_figures(record, left_out)),
    ]
    found = [Section(title, list(parts)) for title, parts in made]
    warnings = list(_warnings(record, block))
    open_cells = score_tables.open_cells_table(record)
    if open_cells:
        found.insert(0, Section("Cells without a result", [open_cells]))
    found += [
        Section("What it cost", list(costs.parts(record))),
        Section("How to read the statistics", [Terms(sections.MEANINGS)]),
        Section("Where it comes from", list(provenance.parts(record, origin))),
        Section("Left out", left_out or ["Nothing: the sweep has cells for every table and figure."]),
    ]
    done = sum(cell.state == "finished" for cell in record.cells)
    lead = (
        f"{done} of {len(record.cells)} cells finished: {len(record.labels)} agents, {len(record.games)} games. "
        "Two protocols: "
        + "; ".join(f"{each.title} (the {each.meaning})" for each in PROTOCOLS)
        + ". The same tables and figures lie beside this page as files.",
    )
    return Report(
        f"TensorRL: sweep {record.name}",
        lead,
        tuple(warnings),
        tuple(section for section in found if section.parts),
        (score_tables.cells_table(record, PROTOCOLS),),
        tuple(left_out),
    )


def write(report: Report, out: Path) -> list[Path]:
    """Writes a report: `index.html`, `tables/` (Markdown, LaTeX, CSV) and `figures/` (PNG, SVG), each whole.

    Args:
        report: what to write.
        out: a folder; one that is not empty must hold a report, which is replaced.

    Returns:
        The files, `index.html` first.

    Raises:
        InputError: `out` cannot be written to, or holds something else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not _holds_report(out):
            raise InputError(f"--out {out}: is not empty and holds no report (allowed: a new folder, or a report's)")
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as draft:
            written = _write_files(report, Path(draft))
            for folder in ("tables", "figures"):
                # No table or figure of an earlier report may be left.
                shutil.rmtree(out / folder, ignore_errors=True)
                files.move(Path(draft) / folder, out / folder, sync=False)
            files.move(Path(draft) / INDEX, out / INDEX, sync=False)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error})") from None
    return [out / file for file in written]


def _write_files(report: Report, folder: Path) -> list[Path]:
    parts = [part for section in report.sections for part in section.parts]
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    files = [Path(INDEX)]
    text = page.page(report.title, report.lead, report.warnings, report.sections)
    (folder / INDEX).write_text(text, encoding="utf-8")
    for table in [part for part in parts if isinstance(part, Table)] + list(report.data):
        for suffix, form in _FORMS.items():
            if table in report.data and suffix != "csv":
                continue
            files.append(Path("tables") / f"{table.name}.{suffix}")
            (folder / files[-1]).write_text(form(table), encoding="utf-8", newline="")
    for picture in [part for part in parts if isinstance(part, Picture)]:
        for suffix, content in picture.files.items():
            files.append(Path("figures") / f"{picture.name}.{suffix}")
            (folder / files[-1]).write_bytes(content)
    return files


def _holds_report(out: Path) -> bool:
    try:
        return page.GENERATOR in (out / INDEX).read_text(encoding="utf-8")[:2_000]
    except (OSError, UnicodeDecodeError):
        # A first report that was interrupted left nothing but its draft.
        return all(path.name.startswith(".report-") for path in out.iterdir())


def _warnings(record: SweepRecord, block: Block) -> Iterator[str]:
    short = sorted({cell.steps for cell in record.cells if cell.steps < FULL_STEPS})
    if short:
        yield (
            f"Runs of {' or '.join(f'{steps:,}' for steps in short)} agent steps: this is not Atari 100k, and "
            f"published scores are of {FULL_STEPS:,}."
        )
    if record.synthetic:
        yield "Synthetic: at least one cell says that no agent was trained for it. Its figures are made up."
    states = Counter(cell.state for cell in record.cells if cell.state != "finished")
    if states:
        listed = ", ".join(f"{states[state]} {state}" for state in get_args(State) if states[state])
        yield f"{listed} of {len(record.cells)} cells. They are named below, and no figure counts them."
    apart = scoreboard.without_human_score(record)
    if apart:
        yield (
            f"No human score is published for {', '.join(apart)}: scores there cannot be normalised, so no "
            "comparison of agents counts them."
        )
    normalised = len(record.games) - len(apart)
    if not block:
        if normalised:
            yield "No game is finished by every agent: nothing can be compared yet."
        return
    if block.left_out:
        yield f"Not compared, because they lack more than half of the games: {', '.join(block.left_out)}."
    if block.unused or len(block.games) < normalised:
        yield (
            f"Agents are compared on what all of them have finished: {len(block.games)} of {normalised} games, "
            f"{block.runs} run{'s' if block.runs > 1 else ''} each. {len(block.unused)} other finished cells "
            "count in the paper's tables only."
        )

    yield from score_tables.interval_notes(block)


def summary(record: SweepRecord, protocol: Protocol = PROTOCOLS[0]) -> list[dict[str, object]]:
    """The part of a report for the terminal: one row for each agent with its finished cells and interquartile mean."""
    block = scoreboard.choose_block(record)
    scores = scoreboard.normalized(record, block, protocol) if block else {}
    estimates = score_tables.aggregate_estimates(scores)
    size = scoreboard.sizes(record)
    return [
        {
            "agent": label,
            "cells": f"{sum(cell.state == 'finished' for cell in record.of(label))} of {len(record.of(label))}",
            "compression": round(size[label].ratio, 2) if label in size else None,
            "IQM": texts.interval_text(estimates[label]["IQM"]) if label in estimates else None,
            "mean": texts.interval_text(estimates[label]["mean"]) if label in estimates else None,
        }
        for label in record.labels
    ]
