"""The report's page as people see it: every column of the paper's tables on a screen, a telephone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep

from benchmarks.browser import chromium
from tensorrl.analysis import page, provenance, report, sections, statistics, table_formats
from tensorrl.analysis.table_formats import Table
from tensorrl.sweeps.store.report import public_text, sweep_record

GAMES = ("crazy_climber", "chopper_command", "road_runner", "up_n_down")
TABLES = ("table1-paper", "table1-final", "table2-paper", "table2-final")
# A4 between margins of a centimetre, in CSS pixels.
PAPER_WIDTH = 718


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, out = tmp_path_factory.mktemp("made") / "runs", tmp_path_factory.mktemp("report")
    make_sweep(store, "all", GAMES, PAPER_VARIANTS, range(3))
    report.write(report.build(sweep_record(store, "all")), out)
    return out


@pytest.fixture(params=[(1_400, "screen"), (400, "screen"), (PAPER_WIDTH, "print")], ids=["1400", "400", "print"])
def opened(request: pytest.FixtureRequest, written: Path) -> Iterator[Any]:
    width, media = request.param
    with chromium(offline=True, width=width) as context:
        shown = context.new_page()
        shown.emulate_media(media=media)
        shown.goto((written / "index.html").as_uri())
        yield shown


@pytest.mark.slow
def test_every_column_of_tables_1_and_2_is_within_the_page_and_nothing_is_cut_off(opened: Any) -> None:
    width = opened.evaluate("innerWidth")
    for name in TABLES:
        cells = opened.eval_on_selector_all(
            f"#{name} tr > *",
            """all => all.map(cell => {
                const box = cell.getBoundingClientRect();
                return [box.left, box.right, box.width, cell.scrollWidth - cell.clientWidth];
            })""",
        )
        columns = {"table1": 11, "table2": 9}[name.partition("-")[0]]
        assert len(cells) == columns * (1 + len(GAMES) + 2)
        for left, right, size, hidden in cells:
            assert 0 <= left < right <= width
            assert size > 15
            assert hidden <= 0
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_intervals_of_one_run_with_their_marks_fit_on_paper(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", "one", GAMES, PAPER_VARIANTS, range(1))
    report.write(report.build(sweep_record(tmp_path / "runs", "one")), tmp_path / "report")
    with chromium(offline=True, width=PAPER_WIDTH) as context:
        shown = context.new_page()
        shown.emulate_media(media="print")
        shown.goto((tmp_path / "report" / "index.html").as_uri())
        assert "†" in shown.locator("#improvement-paper").inner_text()
        assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_the_first_column_stays_when_a_wide_table_is_scrolled(written: Path) -> None:
    with chromium(offline=True, width=400) as context:
        shown = context.new_page()
        shown.goto((written / "index.html").as_uri())
        box = shown.locator("#improvement-paper").evaluate_handle("table => table.parentElement")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth + 100")
        box.evaluate("box => { box.scrollLeft = 80; }")
        lefts = shown.eval_on_selector_all(
            "#improvement-paper tbody th, #improvement-paper thead th:first-child",
            "all => all.map(cell => cell.getBoundingClientRect().left)",
        )
        assert max(lefts) - box.evaluate("box => box.getBoundingClientRect().left") < 2


@pytest.mark.slow
def test_a_click_sorts_a_column_by_its_numbers_and_a_third_gives_the_first_order_back(written: Path) -> None:
    with chromium(offline=True) as context:
        shown = context.new_page()
        said: list[str] = []
        shown.on("console", lambda message: said.append(message.text))
        shown.goto((written / "index.html").as_uri())
        before = shown.locator("#table1-paper tbody th").all_inner_texts()
        head = shown.locator("#table1-paper thead th", has_text="Human")
        column = "#table1-paper tbody td:nth-child(3)"
        orders = []
        for _ in range(3):
            head.click()
            orders.append([float(text.replace(",", "")) for text in shown.locator(column).all_inner_texts()])
        assert orders[0] == sorted(orders[0], reverse=True)
        assert orders[1] == sorted(orders[1])
        assert shown.locator("#table1-paper tbody th").all_inner_texts() == before
        foot = shown.locator("#table1-paper tfoot th").all_inner_texts()
        assert [text.split()[0] for text in foot] == ["mean", "median"]
        head.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        # A script that is not the page's own is refused.
        shown.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.bad = 1'}))"
        )
        assert shown.evaluate("window.bad === undefined")
        assert any("Content Security Policy" in line for line in said)


def test_the_best_of_a_row_is_marked_in_every_form_and_nothing_else() -> None:
    table = Table(
        "t", "A title", ["Game", "A", "B"], [["x", "1", "2"]], [["mean", "3", "0"]], best=frozenset({(0, 2), (1, 1)})
    )
    assert "| x | 1 | **2** |\n| *mean* | **3** | 0 |" in table_formats.markdown(table)
    assert r"x & 1 & \textbf{2} \\" in table_formats.latex(table)
    assert re.findall("<td class=best>(.*?)</td>", table_formats.html_table(table)) == ["2", "3"]


def test_what_a_page_shows_is_escaped_and_every_statistic_has_its_sentence() -> None:
    parts = [page.Terms({"<b>": "&"}), page.Listing("<i>", "<script>"), "<u>"]
    text = page.page("<t>", (), (), [page.Section("s", parts)])
    body = text[text.index("<body>") : text.index("<script>for")] if "<script>for" in text else text.split("<body>")[1]
    assert "<dt>&lt;b&gt;</dt><dd>&amp;</dd>" in body
    assert "<pre>&lt;script&gt;</pre>" in body
    explained = " ".join(sections.MEANINGS).lower()
    for name in (*statistics.AGGREGATES, "probability of improvement", "performance profile", "interval", "±"):
        assert name.lower() in explained


def test_short_runs_and_few_runs_are_said_before_any_figure(tmp_path: Path) -> None:
    make_sweep(tmp_path, "short", ["pong"], {"rainbow": 1.0}, range(1))
    record = sweep_record(tmp_path, "short")
    from dataclasses import replace

    short = replace(record, cells=[replace(cell, cell=replace(cell.cell, steps=2_500)) for cell in record.cells])
    warnings = " ".join(report.build(short).warnings)
    assert "Runs of 2,500 agent steps: this is not Atari 100k" in warnings
    assert "† One run a game" in warnings
    assert "no Atari 100k" not in " ".join(report.build(record).warnings)


def test_provenance_names_commit_versions_machine_and_file_without_addresses(tmp_path: Path) -> None:
    make_sweep(tmp_path, "one", ["pong"], {"rainbow": 1.0, "denoised": 1.0}, range(1))
    record = sweep_record(tmp_path, "one")
    text = public_text("name: one\ntracking:\n  uri: http://me:secret@host\n  experiment: null\nretries: 2\n")
    assert text == "name: one\nretries: 2\n"
    table, listing = provenance.parts(record, provenance.Origin(text, "http://host/#/experiments/1 (experiment one)"))
    rows = dict(table.rows)  # type: ignore[arg-type, union-attr]
    trial = record.cells[0].trial
    assert rows["Commit"] == str(trial["commit"])
    assert f"torch {trial['versions']['torch']}" in rows["Versions"]
    assert trial["machine"]["cpu"] in rows["Machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \(UTC\)", rows["Finished"])
    assert listing.text == text  # type: ignore[union-attr]
    assert '<a href="http://host/#/experiments/1"' in table_formats.html_table(table)  # type: ignore[arg-type]
