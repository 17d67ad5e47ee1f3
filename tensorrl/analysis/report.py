"""A sweep's report: the paper's tables and figures, statistics with intervals, what is missing, and one HTML page."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tensorrl import files
from tensorrl.analysis import (
    page,
    paper_figures,
    pooled_spectra,
    score_figures,
    score_tables,
    scoreboard,
    spectrum_figure,
    style,
    table_formats,
)
from tensorrl.analysis.page import Picture, Section
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import PROTOCOLS, Block, Protocol
from tensorrl.analysis.table_formats import Table
from tensorrl.errors import InputError
from tensorrl.trial.cell import State
from tensorrl.trial.folder import spectrum_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "index.html"
_FORMS: dict[str, Callable[[Table], str]] = {
    "md": table_formats.markdown,
    "tex": table_formats.latex,
    "csv": table_formats.comma_separated,
}
_FIGURE_1_GAME = "road_runner"


@dataclass(frozen=True)
class Report:
    """What a report consists of, before it is written.

    Attributes:
        title: of the page.
        lead: sentences on what it is about.
        warnings: what a reader must know before any figure.
        sections: headings with what stands below them.
        data: tables for files alone.
        left_out: what the sweep has no cells for, a sentence each.
    """

    title: str
    lead: tuple[str, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    data: tuple[Table, ...]
    left_out: tuple[str, ...]


def build(record: SweepRecord) -> Report:
    """Makes the report of a sweep from what its cells hold now. The same cells give the same report.

    Raises:
        InputError: spectra of a cell are damaged.
    """
    block = scoreboard.choose_block(record)
    left_out: list[str] = []
    sections = [
        Section("Scores", list(_scores(record, block, left_out))),
        Section("Tables of the paper", list(_paper_tables(record, block, left_out))),
        Section("Figures of the paper", list(_paper_figures(record, left_out))),
    ]
    warnings = list(_warnings(record, block))
    open_cells = score_tables.open_cells_table(record)
    if open_cells:
        sections.insert(0, Section("Cells without a result", [open_cells]))
    sections.append(Section("Left out", left_out or ["Nothing: the sweep has cells for every table and figure."]))
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
        tuple(section for section in sections if section.parts),
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
                # A report has no table or figure of an earlier one left in it.
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
    if record.synthetic:
        yield "Synthetic: at least one cell says that no agent was trained for it. Its figures are made up."
    states = Counter(cell.state for cell in record.cells if cell.state != "finished")
    if states:
        listed = ", ".join(f"{states[state]} {state}" for state in get_args(State) if states[state])
        yield f"{listed} of {len(record.cells)} cells. They are named below and count in no figure."
    if not block:
        yield "No game is finished by every agent: nothing can be compared yet."
        return
    if block.left_out:
        yield f"Not compared, for want of half of the games: {', '.join(block.left_out)}."
    if block.unused or len(block.games) < len(record.games):
        yield (
            f"Agents are compared on what all of them have finished: {len(block.games)} of {len(record.games)} games, "
            f"{block.runs} run{'s' if block.runs > 1 else ''} each. {len(block.unused)} finished cells lie outside "
            "that and count in the paper's tables alone."
        )


def _scores(record: SweepRecord, block: Block, left_out: list[str]) -> Iterator[Table | Picture]:
    if not block:
        left_out.append("Aggregates and their figures: no game is finished by every agent.")
        return
    scores = {protocol: scoreboard.normalized(record, block, protocol) for protocol in PROTOCOLS}
    size, against = scoreboard.sizes(record), scoreboard.baseline(block)
    estimates = {protocol: score_tables.aggregate_estimates(scores[protocol]) for protocol in PROTOCOLS}
    for protocol in PROTOCOLS:
        ratios = score_tables.ratio_estimates(scores[protocol], against)
        yield score_tables.aggregate_table(estimates[protocol], ratios, size, block, protocol)
    yield _picture(
        "aggregates",
        "Aggregates of human-normalised scores (0 a random agent, 1 the human tester); bars are 95 % intervals.",
        score_figures.draw_aggregates(estimates, block),
    )
    if len(block.labels) < 2:
        left_out.append("Comparisons between agents, and score against compression ratio: there is one agent only.")
        return
    yield _picture(
        "frontier",
        "Score against compression ratio.",
        score_figures.draw_frontier(estimates, size, block),
    )
    kfac = [
        label
        for label in block.labels
        if any(cell.trial.get("settings", {}).get("optimizer") == "kfac" for cell in record.of(label))
    ]
    yield _picture("profiles", "Performance profiles.", score_figures.draw_profiles(scores, block, kfac))
    improvements = {protocol: score_tables.improvement_estimates(scores[protocol]) for protocol in PROTOCOLS}
    yield _picture(
        "improvement",
        f"Probability of improvement over {against}.",
        score_figures.draw_improvement(improvements, block),
    )
    for protocol in PROTOCOLS:
        yield score_tables.improvement_table(improvements[protocol], block, protocol)


def _paper_tables(record: SweepRecord, block: Block, left_out: list[str]) -> Iterator[Table]:
    for shape in score_tables.TABLES:
        made = [score_tables.paper_table(shape, record, block, protocol) for protocol in PROTOCOLS]
        for table in made:
            if table is not None:
                yield table
        if made[0] is None:
            left_out.append(f"{shape.title.partition(':')[0]}: the sweep has none of {', '.join(shape.variants)}.")


def _paper_figures(record: SweepRecord, left_out: list[str]) -> Iterator[Picture]:
    pictures: Sequence[tuple[str, Callable[[SweepRecord], Picture | None], str]] = (
        ("Figure 1", _figure_1, f"the sweep has no spectra of {_FIGURE_1_GAME}"),
        ("Figure 3", _figure_3, f"the sweep has no reports of {paper_figures.FAMILY} on {paper_figures.GAME}"),
        ("Figure 4", _figure_4, f"the sweep has no factorised {paper_figures.FAMILY} on {paper_figures.GAME}"),
    )
    for title, draw, lacking in pictures:
        picture = draw(record)
        if picture is None:
            left_out.append(f"{title}: {lacking}.")
        else:
            yield picture


def _figure_1(record: SweepRecord) -> Picture | None:
    folders = {
        cell.key: cell.folder for cell in record.cells if cell.game == _FIGURE_1_GAME and spectrum_files(cell.folder)
    }
    if not folders:
        return None
    runs = pooled_spectra.load_runs(folders.values())
    with tempfile.TemporaryDirectory() as draft:
        stem = Path(draft) / "figure1"
        for suffix in spectrum_figure.SUFFIXES:
            spectrum_figure.draw(runs, stem.with_suffix(suffix))
        files = style.read_pictures(stem)
    return Picture(
        "figure1",
        "Figure 1: singular values of the value stream's hidden layer during training, pooled over runs "
        "(the layer is not square; σ² are the eigenvalues of W Wᵀ).",
        files,
    )


def _figure_3(record: SweepRecord) -> Picture | None:
    cells = paper_figures.pong_cells(record)
    if not cells:
        return None
    drawn = paper_figures.draw_figure_3(cells, record.labels)
    return _picture("figure3", "Figure 3: prioritized tensorized DQN on Pong, by compression of all weights.", drawn)


def _figure_4(record: SweepRecord) -> Picture | None:
    cells = [cell for cell in paper_figures.pong_cells(record) if cell.variant != paper_figures.FAMILY]
    if not cells:
        return None
    drawn = paper_figures.draw_figure_4(paper_figures.typical_run(cells))
    return _picture("figure4", "Figure 4: a typical single run of the most compressed tensorized DQN.", drawn)


def _picture(name: str, title: str, figure: Figure) -> Picture:
    return Picture(name, title, style.render(figure))


def summary(record: SweepRecord, protocol: Protocol = PROTOCOLS[0]) -> list[dict[str, object]]:
    """What the terminal shows of a report: a row an agent with its finished cells and interquartile mean."""
    block = scoreboard.choose_block(record)
    scores = scoreboard.normalized(record, block, protocol) if block else {}
    estimates = score_tables.aggregate_estimates(scores)
    size = scoreboard.sizes(record)
    return [
        {
            "agent": label,
            "cells": f"{sum(cell.state == 'finished' for cell in record.of(label))} of {len(record.of(label))}",
            "compression": round(size[label].ratio, 2) if label in size else None,
            "IQM": score_tables.interval_text(estimates[label]["IQM"]) if label in estimates else None,
            "mean": score_tables.interval_text(estimates[label]["mean"]) if label in estimates else None,
        }
        for label in record.labels
    ]
