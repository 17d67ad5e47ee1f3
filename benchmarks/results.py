"""Makes tables and figures of docs/ from the data beside them, which `tensorrl export` wrote.

    python -m benchmarks.results

reads every export in docs/results/, writes the figures of its sweeps to docs/figures/ and their tables into
docs/results.md, between the lines that begin with `<!-- made` and `<!-- end`. Into the texts beside the exports it puts
the figures that they quote (`benchmarks.quotes`), and the texts into their pages. From the export in docs/kfac-search/
it makes the table of K-FAC's search in docs/kfac.md. The same data give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import foretold, kfac_search, overfitting, quotes
from tensorrl import files
from tensorrl.analysis import answers, report
from tensorrl.analysis.page import Picture
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import FINAL, PAPER
from tensorrl.analysis.table_formats import Table, markdown
from tensorrl.errors import InputError
from tensorrl.sweeps.store.exchange import EXPORT_FILE, import_
from tensorrl.sweeps.store.layout import sweep_names
from tensorrl.sweeps.store.report import sweep_record

ROOT = Path(__file__).parents[1]
TABLES = (
    "table1-final", "table1-paper", "table2-final", "table2-paper", "aggregates-final", "aggregates-paper",
    "improvement-final", "costs", "origin",
)  # fmt: skip
FIGURES = ("learning-curves", "aggregates", "frontier", "figure1", "figure3", "figure4")
QUOTING: Mapping[str, str] = {"answers.md": "results.md", "kfac.md": "kfac.md"}
"""Texts in docs/results/ that quote figures, and the pages that they are put into."""
_START, _END = "<!-- made by `make results` from {data}: do not edit -->", "<!-- end of what is made -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the pages, their data and figures/")
    docs = parser.parse_args().docs
    with sweeps(docs / "results") as records:
        made, pictures = make(records)
        texts = quoting(docs / "results", records)
    (docs / "figures").mkdir(exist_ok=True)
    for name, content in pictures.items():
        files.write_bytes(docs / "figures" / name, content, sync=False)
    put(docs / "results.md", "docs/results", made)
    for name, text in texts.items():
        put(docs / QUOTING[name], f"docs/results/{name}", text)
    put(docs / "kfac.md", "docs/kfac-search", markdown(kfac_search.table(docs / "kfac-search")) + "\n")
    print(f"{docs}: {len(pictures)} figures, {len(texts)} texts, and the tables of results.md and kfac.md")


def put(page: Path, data: str, made: str) -> None:
    """Puts what was made from `data` into a page, between the two lines that are there for it."""
    start_line = _START.format(data=data)
    before, start, rest = page.read_text().partition(start_line)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise SystemExit(f"{page}: has no place for what is made (needed: the lines {start_line} and {_END})")
    files.write_text(page, f"{before}{start_line}\n\n{made}\n{_END}{after}", sync=False)


@contextmanager
def sweeps(data: Path) -> Iterator[list[SweepRecord]]:
    """The sweeps of all exports in a folder, as long as the context lasts."""
    with tempfile.TemporaryDirectory() as aside:
        records = []
        for export in sorted(path.parent for path in data.glob(f"*/{EXPORT_FILE}")):
            store = Path(aside) / export.name
            import_(export, store)
            records += [sweep_record(store, name) for name in sweep_names(store)]
        yield records


def make(records: Sequence[SweepRecord]) -> tuple[str, dict[str, bytes]]:
    """The tables of some sweeps, and their figures by file name."""
    texts, pictures = [], {}
    for record in records:
        texts += [f"## The sweep {record.name}", *_texts(record, pictures)]
    return "\n\n".join(text.strip() for text in texts) + "\n", pictures


def quoting(data: Path, records: Sequence[SweepRecord]) -> dict[str, str]:
    """The texts of a folder by file name, with the figures that they quote."""
    known, texts = quotes.of_sweeps(records), {}
    for file in sorted(data / name for name in QUOTING if (data / name).exists()):
        try:
            texts[file.name] = quotes.fill(file.read_text(), known)
        except InputError as error:
            raise SystemExit(f"{file}: {error}") from error
    return texts


def _texts(record: SweepRecord, pictures: dict[str, bytes]) -> Iterator[str]:
    made = report.build(record)
    parts = [part for section in made.sections for part in section.parts]
    tables = {part.name: part for part in parts if isinstance(part, Table)}
    figures = [part for part in parts if isinstance(part, Picture) and part.name.startswith(FIGURES)]
    done = sum(cell.state == "finished" for cell in record.cells)
    yield f"{done} of {len(record.cells)} cells are finished."
    yield markdown(_standing(record))
    for asked in (answers.table(record, protocol) for protocol in (FINAL, PAPER)):
        if asked.rows:
            yield markdown(asked)
    for name in TABLES:
        if name in tables and done:
            yield markdown(tables[name])
    for extra in (overfitting.table(record), foretold.table(record)):
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


if __name__ == "__main__":
    main()
