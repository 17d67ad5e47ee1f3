"""A report says what the cells say: numbers recomputed by other means, nothing averaged away, one file enough."""

from __future__ import annotations

import csv
import html.parser
import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_store import PAPER_VARIANTS, PONG_VARIANTS, make_sweep

from tensorrl import games
from tensorrl.analysis import paper_figures, report, score_figures, score_tables, scoreboard
from tensorrl.errors import InputError
from tensorrl.sweeps.store.report import sweep_record
from tensorrl.trial.folder import read_progress

SMALL = ("rainbow", "trl-5x", "kfac-trl-10x")
GAMES = ("pong", "road_runner", "assault", "krull")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made") / "runs"
    make_sweep(store, "small", GAMES, {name: PAPER_VARIANTS[name] for name in SMALL}, range(3))
    make_sweep(store, "pong_ranks", ["pong"], dict(list(PONG_VARIANTS.items())[:3]), range(3))
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def small(made: Path) -> report.Report:
    return report.build(sweep_record(made, "small"))


@pytest.fixture(scope="module")
def pong(made: Path) -> report.Report:
    return report.build(sweep_record(made, "pong_ranks"))


@pytest.fixture(scope="module")
def written(small: report.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report.write(small, out)
    return out


def results(store: Path, name: str) -> list[dict[str, Any]]:
    """What the cells' files say, read without the code under test."""
    rows = json.loads((store / ".sweeps" / name / "cells.json").read_text())["cells"]
    paths = [store / row["folder"] / "result.json" for row in rows]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def remove(store: Path, game: str, variant: str, seed: int, *files: str) -> str:
    (folder,) = store.glob(f"{game}-{variant}-seed{seed}-*")
    for file in files:
        (folder / file).unlink()
    if not files:
        shutil.rmtree(folder)
    return folder.name


def middle_half_mean(values: list[float]) -> float:
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def check_numbers(out: Path, store: Path, name: str, variants: tuple[str, ...], paper: str) -> None:
    found = results(store, name)
    for protocol, field in (("paper", "score"), ("final", "final_score")):
        for row in table(out, f"{paper}-{protocol}"):
            about = games.published()[row["game"]]
            assert float(row["der_paper"]) == about.der_paper
            for variant in variants:
                scores = [r[field] for r in found if (r["game"], r["variant"]) == (row["game"], variant)]
                assert float(row[variant]) == pytest.approx(sum(scores) / len(scores))
                assert float(row[f"{variant}_sd"]) == pytest.approx(statistics.stdev(scores))
                assert row[f"{variant}_runs"] == row[f"{variant}_planned"] == "3"
        for row in table(out, f"aggregates-{protocol}"):
            own = [r for r in found if r["variant"] == row["agent"]]
            normal = {
                game: [(r[field] - g.random) / (g.human - g.random) for r in own if r["game"] == game]
                for game, g in games.GAMES.items()
                if any(r["game"] == game for r in own)
            }
            means = [statistics.fmean(values) for values in normal.values()]
            every = [value for values in normal.values() for value in values]
            assert float(row["mean"]) == pytest.approx(statistics.fmean(means))
            assert float(row["median"]) == pytest.approx(statistics.median(means))
            assert float(row["iqm"]) == pytest.approx(middle_half_mean(every))
            assert float(row["optimality_gap"]) == pytest.approx(statistics.fmean(1 - min(v, 1) for v in every))
            for figure in ("iqm", "mean", "median", "optimality_gap"):
                assert float(row[f"{figure}_low"]) < float(row[figure]) < float(row[f"{figure}_high"])
        for row in table(out, f"improvement-{protocol}"):
            per_game = []
            for game in {r["game"] for r in found}:
                ours, theirs = (
                    [r[field] for r in found if (r["game"], r["variant"]) == (game, row[who])]
                    for who in ("agent", "over")
                )
                per_game.append(statistics.fmean((x > y) + (x == y) / 2 for x in ours for y in theirs))
            assert float(row["probability"]) == pytest.approx(statistics.fmean(per_game))
            assert float(row["low"]) <= float(row["probability"]) <= float(row["high"])


def test_every_number_is_what_the_cells_files_give(written: Path, made: Path) -> None:
    check_numbers(written, made, "small", ("rainbow", "trl-5x"), "table1")
    check_numbers(written, made, "small", ("kfac-trl-10x",), "table2")


def test_the_same_cells_give_the_same_bytes(written: Path, made: Path, tmp_path: Path) -> None:
    files = report.write(report.build(sweep_record(made, "small")), tmp_path)
    assert len(files) > 30
    for file in files:
        assert file.read_bytes() == (written / file.relative_to(tmp_path)).read_bytes(), file


def test_tables_have_their_three_forms_and_figures_their_two(written: Path) -> None:
    names = {path.name for path in written.rglob("*.*")}
    for name in ("table1-paper", "table2-final", "aggregates-paper", "improvement-final"):
        assert {f"{name}.md", f"{name}.tex", f"{name}.csv"} <= names
    for name in ("aggregates", "frontier", "profiles", "improvement", "figure1"):
        assert {f"{name}.png", f"{name}.svg"} <= names
    row = next(line for line in (written / "tables" / "table1-paper.md").read_text().splitlines() if "Krull" in line)
    assert row.startswith("| Krull | 1,598 | 2,666 | **4,540** | 2,852 | 3,257 |")
    latex = (written / "tables" / "table1-paper.tex").read_text()
    assert r"Krull & 1,598 & 2,666 & \textbf{4,540} & 2,852 & 3,257 &" in latex
    assert r" $\pm$ " in latex
    assert r"100 \%" in latex


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"trl-5x": 0.9, "trl-10x": 0.7}, "coefficients of rainbow ÷"),
        ({"pong-dqn-trl-2": 0.9, "pong-dqn-trl-5": 0.7}, "coefficients of the dense network ÷"),
    ],
)
def test_the_frontier_says_whose_coefficients_ratios_divide_though_the_sweep_has_no_such_agent(
    tmp_path: Path, variants: dict[str, float], said: str
) -> None:
    make_sweep(tmp_path, "few", ["pong"], variants, range(2))
    record = sweep_record(tmp_path, "few")
    block = scoreboard.choose_block(record)
    estimates = {
        protocol: score_tables.aggregate_estimates(scoreboard.normalized(record, block, protocol))
        for protocol in scoreboard.PROTOCOLS
    }
    drawn = score_figures.draw_frontier(estimates, scoreboard.sizes(record), block, scoreboard.reference(record))
    assert said in drawn.get_supxlabel()


class Addresses(html.parser.HTMLParser):
    """Collects whatever a page could make a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_page_loads_nothing_and_shows_every_table_and_figure(written: Path) -> None:
    text = (written / "index.html").read_text()
    page = Addresses()
    page.feed(text)
    assert all(address.startswith(("#", "data:")) for address in page.found)
    assert page.tags.count("script") == 1
    assert "url(" not in text
    assert page.tags.count("img") == len(list((written / "figures").glob("*.svg")))
    assert page.tags.count("table") == len(list((written / "tables").glob("*.md")))
    assert "Synthetic" in text


def test_missing_and_failed_cells_are_named_and_count_nowhere(store: Path, tmp_path: Path) -> None:
    remove(store, "krull", "trl-5x", 2)
    remove(store, "pong", "trl-5x", 1, "result.json")
    failed = remove(store, "assault", "trl-5x", 0, "result.json")
    state = {"cells": {failed: {"state": "failed", "failures": 3, "error": ["RuntimeError: no luck", "at <step 7>"]}}}
    (store / ".sweeps" / "small" / "state.json").write_text(json.dumps(state))
    record = sweep_record(store, "small")
    states = {(cell.game, cell.variant, cell.seed): cell.state for cell in record.cells if cell.state != "finished"}
    assert states == {
        ("krull", "trl-5x", 2): "waiting",
        ("pong", "trl-5x", 1): "unfinished",
        ("assault", "trl-5x", 0): "failed",
    }
    block = scoreboard.choose_block(record)
    assert (block.games, block.runs) == (GAMES, 2)
    assert len(block.unused) == 36 - 3 - 24

    report.write(report.build(record), tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text()
    assert "1 waiting, 1 unfinished, 1 failed of 36 cells" in text
    for line in ("trl-5x on krull, seed 2", "trl-5x on assault, seed 0", "RuntimeError: no luck | at &lt;step 7&gt;"):
        assert line in text
    row = next(r for r in table(tmp_path / "report", "table1-paper") if r["game"] == "krull")
    scores = [r["score"] for r in results(store, "small") if (r["game"], r["variant"]) == ("krull", "trl-5x")]
    assert len(scores) == 2
    assert float(row["trl-5x"]) == pytest.approx(statistics.fmean(scores))
    assert (row["trl-5x_runs"], row["trl-5x_planned"]) == ("2", "3")
    assert "(2/3)" in (tmp_path / "report" / "tables" / "table1-paper.md").read_text()


def test_a_game_that_one_agent_lacks_is_compared_by_nobody(store: Path) -> None:
    for seed in range(3):
        remove(store, "krull", "trl-5x", seed)
    block = scoreboard.choose_block(sweep_record(store, "small"))
    assert (block.games, block.runs, block.left_out) == (GAMES[:3], 3, ())


def test_an_agent_on_few_games_is_left_out_instead_of_dragging_all_others_down(store: Path) -> None:
    for game in GAMES[1:]:
        for seed in range(3):
            remove(store, game, "trl-5x", seed)
    record = sweep_record(store, "small")
    block = scoreboard.choose_block(record)
    assert (block.labels, block.games, block.runs) == (("rainbow", "kfac-trl-10x"), GAMES, 3)
    assert block.left_out == ("trl-5x",)


def test_a_sweep_with_nothing_finished_still_has_a_report(store: Path, tmp_path: Path) -> None:
    for path in store.glob("*-seed*"):
        shutil.rmtree(path)
    made = report.build(sweep_record(store, "small"))
    assert made.warnings[0].startswith("36 waiting of 36 cells")
    assert any("nothing can be compared" in warning for warning in made.warnings)
    report.write(made, tmp_path / "report")
    assert not list((tmp_path / "report" / "figures").iterdir())


def test_games_without_a_human_score_are_said_to_have_none_and_not_to_be_unfinished(made: Path) -> None:
    record = sweep_record(made, "small")
    apart = {"krull": "adventure"}
    some = replace(
        record,
        cells=[replace(each, cell=replace(each.cell, game=apart.get(each.game, each.game))) for each in record.cells],
    )
    block = scoreboard.choose_block(some)
    assert set(block.games) == set(GAMES) - {"krull"}
    (said,) = [each for each in report.build(some).warnings if "adventure" in each]
    assert said.startswith("No human score is published for adventure:")
    alone = report.build(replace(some, cells=[cell for cell in some.cells if cell.game == "adventure"]))
    assert not any("finished by every agent" in each for each in (*alone.warnings, *alone.left_out))
    assert "Aggregates and their figures: no game has a published human score." in alone.left_out


def test_what_a_sweep_has_no_cells_for_is_left_out_and_said(small: report.Report, pong: report.Report) -> None:
    assert [sentence.partition(":")[0] for sentence in small.left_out] == ["Figure 3", "Figure 4"]
    assert [sentence.partition(":")[0] for sentence in pong.left_out] == ["Table 1", "Table 2", "Figure 1"]
    names = {part.name for section in pong.sections for part in section.parts if isinstance(part, report.Picture)}
    assert {"figure3", "figure4"} <= names


def test_a_report_replaces_the_one_before_and_nothing_else(
    small: report.Report, pong: report.Report, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    report.write(pong, out)
    (out / "mine.txt").write_text("kept")
    assert (out / "figures" / "figure3.png").exists()
    report.write(small, out)
    assert not (out / "figures" / "figure3.png").exists()
    assert (out / "mine.txt").read_text() == "kept"
    assert not list(out.glob(".*"))
    with pytest.raises(InputError, match="holds no report"):
        report.write(small, store)


def test_axes_make_agents_of_their_own(store: Path) -> None:
    path = store / ".sweeps" / "small" / "cells.json"
    content = json.loads(path.read_text())
    for row in content["cells"]:
        if row["variant"] == "trl-5x":
            row["axes"] = {"compression": 4.0 if row["seed"] else 8}
    path.write_text(json.dumps(content))
    record = sweep_record(store, "small")
    assert record.labels == ["rainbow", "trl-5x compression=8", "kfac-trl-10x", "trl-5x compression=4"]
    assert scoreboard.choose_block(record).runs == 1


def test_a_moving_average_counts_each_game_of_a_report_with_its_mean() -> None:
    lines = [
        {"agent_steps": 100, "episodes": 20, "episode_return": -10.0},
        {"agent_steps": 200, "episodes": 20},
        {"agent_steps": 300, "episodes": 45, "episode_return": 2.0},
        {"agent_steps": 400, "episodes": 46, "episode_return": 7.0},
    ]
    curve = paper_figures.returns_of(lines)
    assert curve.steps.tolist() == [100, 300, 400]
    every = [-10.0] * 20 + [2.0] * 25 + [7.0]
    assert curve.smooth.tolist() == pytest.approx(
        [statistics.fmean(every[:20]), statistics.fmean(every[15:45]), statistics.fmean(every[16:46])]
    )


def test_the_typical_run_is_the_median_one_of_the_most_compressed_agent(made: Path) -> None:
    cells = paper_figures.pong_cells(sweep_record(made, "pong_ranks"))
    typical = paper_figures.typical_run(cells)
    ends = {
        cell.seed: paper_figures.returns_of(read_progress(cell.folder)).smooth[-1]
        for cell in cells
        if cell.variant == "pong-dqn-trl-2"
    }
    assert typical.variant == "pong-dqn-trl-2"
    assert ends[typical.seed] == statistics.median(ends.values())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The paper's whole grid: 26 games × 9 variants × 3 seeds."""
    store = tmp_path_factory.mktemp("full") / "runs"
    rows = make_sweep(store, "table12", list(games.GAMES), PAPER_VARIANTS, range(3))
    assert len(rows) == 702
    yield store
    shutil.rmtree(store)


@pytest.mark.slow
def test_a_full_stores_numbers_are_what_its_files_give(full: Path, tmp_path: Path) -> None:
    report.write(report.build(sweep_record(full, "table12")), tmp_path / "report")
    dense = ("rainbow", "denoised", "trl-2.5x", "trl-5x", "trl-10x")
    check_numbers(tmp_path / "report", full, "table12", dense, "table1")
    second = ("kfac-denoised", "kfac-trl-5x", "kfac-trl-10x", "scattering")
    check_numbers(tmp_path / "report", full, "table12", second, "table2")


@pytest.mark.slow
def test_the_page_opens_in_a_browser_without_network_and_without_complaint(written: Path) -> None:
    from benchmarks.browser import chromium

    with chromium(offline=True) as context:
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((written / "index.html").as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        sizes = page.eval_on_selector_all("img", "all => all.map(image => [image.complete, image.naturalWidth])")
        assert len(sizes) >= 5
        assert all(complete and width > 100 for complete, width in sizes)
        assert page.locator("table").count() == len(list((written / "tables").glob("*.md")))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
