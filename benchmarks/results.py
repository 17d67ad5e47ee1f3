"""Makes tables and figures of docs/ from the data beside them, which `tensorrl export` wrote.

    python -m benchmarks.results

reads every export in docs/results/, writes the figures of its sweeps to docs/figures/ and their tables into
docs/results.md, between the lines that begin with `<!-- made` and `<!-- end`. From the export in docs/kfac-search/ it
makes the table of K-FAC's search in docs/kfac.md. The same data give the same bytes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks import kfac_search, overfitting
from tensorrl import files
from tensorrl.analysis import answers, report
from tensorrl.analysis.page import Picture
from tensorrl.analysis.provenance import elapsed_seconds, finished_at
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import FINAL, PAPER
from tensorrl.analysis.table_formats import Table, markdown
from tensorrl.analysis.texts import NOTHING
from tensorrl.sweeps.driver.estimate import Machine, estimate
from tensorrl.sweeps.grid.files import load_sweep
from tensorrl.sweeps.store.exchange import EXPORT_FILE, import_
from tensorrl.sweeps.store.layout import sweep_names
from tensorrl.sweeps.store.report import sweep_record
from tensorrl.trial.cell import CellStatus

ROOT = Path(__file__).parents[1]
TABLES = (
    "table1-final", "table1-paper", "table2-final", "table2-paper", "aggregates-final", "aggregates-paper",
    "improvement-final", "costs", "origin",
)  # fmt: skip
FIGURES = ("learning-curves", "aggregates", "frontier", "figure1", "figure3", "figure4")
_AIM = 0.3
"""How far off an estimate may be."""
_START, _END = "<!-- made by `make results` from {data}: do not edit -->", "<!-- end of what is made -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the pages, their data and figures/")
    docs = parser.parse_args().docs
    made, pictures = make(docs / "results")
    (docs / "figures").mkdir(exist_ok=True)
    for name, content in pictures.items():
        files.write_bytes(docs / "figures" / name, content, sync=False)
    put(docs / "results.md", "docs/results", made)
    put(docs / "kfac.md", "docs/kfac-search", markdown(kfac_search.table(docs / "kfac-search")) + "\n")
    print(f"{docs}: {len(pictures)} figures, and the tables of results.md and kfac.md")


def put(page: Path, data: str, made: str) -> None:
    """Puts what was made from `data` into a page, between the two lines that are there for it."""
    start_line = _START.format(data=data)
    before, start, rest = page.read_text().partition(start_line)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise SystemExit(f"{page}: has no place for what is made (needed: the lines {start_line} and {_END})")
    files.write_text(page, f"{before}{start_line}\n\n{made}\n{_END}{after}", sync=False)


def make(data: Path) -> tuple[str, dict[str, bytes]]:
    """The text between the marks, and the figures by file name."""
    texts, pictures = [], {}
    for export in sorted(path.parent for path in data.glob(f"*/{EXPORT_FILE}")):
        with tempfile.TemporaryDirectory() as aside:
            store = Path(aside) / "store"
            import_(export, store)
            for name in sweep_names(store):
                record = sweep_record(store, name)
                texts += [f"## The sweep {name}", *_texts(record, pictures)]
    return "\n\n".join(text.strip() for text in texts) + "\n", pictures


def _texts(record: SweepRecord, pictures: dict[str, bytes]) -> Iterator[str]:
    made = report.build(record)
    parts = [part for section in made.sections for part in section.parts]
    tables = {part.name: part for part in parts if isinstance(part, Table)}
    figures = [part for part in parts if isinstance(part, Picture) and part.name.startswith(FIGURES)]
    done = sum(cell.state == "finished" for cell in record.cells)
    yield f"{done} of {len(record.cells)} cells are finished."
    yield markdown(_standing(record))
    for protocol in (FINAL, PAPER):
        yield markdown(answers.table(record, protocol))
    for name in TABLES:
        if name in tables and done:
            yield markdown(tables[name])
    for extra in (overfitting.table(record), _estimates(record)):
        if extra:
            yield markdown(extra)
    for figure in figures:
        file = f"{record.name}-{figure.name}.png"
        pictures[file] = figure.files["png"]
        yield f"![{figure.title}](figures/{file})"


def _standing(record: SweepRecord) -> Table:
    """Which seeds of every agent and game are finished."""
    rows = [[label, *(_seeds(record, label, game) for game in record.games)] for label in record.labels]
    return Table("standing", "Finished seeds, by agent and game", ["Agent", *record.games], rows)


def _seeds(record: SweepRecord, label: str, game: str) -> str:
    seeds = sorted(cell.seed for cell in record.of(label) if cell.game == game and cell.state == "finished")
    return ", ".join(map(str, seeds)) or "none"


def _estimates(record: SweepRecord) -> Table | None:
    """What `tensorrl sweep --check` foretold of each agent's cells before they began, beside what they took."""
    file = ROOT / "tune_jobs" / f"{record.name}.yaml"
    if not file.exists():
        return None
    spec = load_sweep(file)
    rows = []
    for label in record.labels:
        own = [c for c in record.of(label) if c.state == "finished" and not c.axes]
        told = [(_foretold(spec, record, cell), cell.result.get("processor_seconds"), cell) for cell in own]
        known = [(one, busy, elapsed_seconds(cell)) for one, busy, cell in told if one and busy]
        if known:
            shares = [one / busy - 1 for one, busy, _ in known]
            took = [each for _, _, each in known if each]
            columns = ([one for one, _, _ in known], [busy for _, busy, _ in known], took)
            within = f"{sum(abs(share) <= _AIM for share in shares)} of {len(shares)}"
            rows.append([label, *(_minutes(each) for each in columns), _off(shares), within])
    if not rows:
        return None
    return Table(
        "estimates",
        "Whole trials, minutes: what `tensorrl sweep --check` says of a cell before it begins, and what it takes",
        ["Agent", "Foretold", "Processor time", "Wall-clock", "Off by, lowest to highest", f"Within {_AIM:.0%}"],
        rows,
        notes=[
            "Medians. `--check` foretells the time on a core of the cell's own, by the cells that were finished when "
            "it began, else by the table that comes with the package. Processor time is what the cell needed of a "
            "core; it grows where more runs than there are cores share caches. Wall-clock time also has the waiting "
            "for a core."
        ],
    )


def _foretold(spec: object, record: SweepRecord, cell: CellStatus) -> float | None:
    end, took = finished_at(cell), elapsed_seconds(cell)
    if end is None or took is None:
        return None
    known = [row for row in record.cells if row.state == "finished" and _before(row, end - timedelta(seconds=took))]
    one = replace(cell, state="waiting", agent_steps=0, result={})
    found = estimate(spec, [*known, one], [Machine("one", 1, 0, 2**40)])  # type: ignore[arg-type]
    return next(each["seconds"] for each in found["variants"] if each["variant"] == cell.variant)


def _before(row: CellStatus, moment: datetime) -> bool:
    end = finished_at(row)
    return end is not None and end <= moment


def _minutes(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) / 60:.1f}" if seconds else NOTHING


def _off(shares: Sequence[float]) -> str:
    return f"{min(shares):+.0%} to {max(shares):+.0%}".replace("-", "−")


if __name__ == "__main__":
    main()
