"""The page of results is what its data make of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep

from benchmarks import results
from tensorrl.sweeps.store.exchange import export

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_committed_page_and_figures_are_what_the_committed_data_make() -> None:
    with results.sweeps(DOCS / "results") as records:
        made, pictures = results.make(records)
        texts = results.quoting(DOCS / "results", records)
        names = [record.name for record in records]
    page = (DOCS / "results.md").read_text()
    assert page.count(made) == 1
    assert set(texts) == set(results.QUOTING)
    for name, text in texts.items():
        assert (DOCS / results.QUOTING[name]).read_text().count(text) == 1
    for kept in ("results.md", "kfac.md"):
        assert len(re.findall("^<!-- ", (DOCS / kept).read_text(), re.MULTILINE)) == 4
    for name, content in pictures.items():
        assert (DOCS / "figures" / name).read_bytes() == content, name
    assert {path.name for name in names for path in (DOCS / "figures").glob(f"{name}-*")} == set(pictures)


@pytest.mark.slow
def test_a_page_is_made_anew_from_more_data_and_nothing_around_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x")}
    make_sweep(tmp_path / "runs", "pilot", ["assault", "breakout"], two, range(2))
    export("pilot", tmp_path / "docs" / "results" / "pilot", store=tmp_path / "runs")
    (tmp_path / "docs" / "results" / "answers.md").write_text("The pilot has {{ pilot.finished }} cells.\n")
    shutil.copytree(DOCS / "kfac-search", tmp_path / "docs" / "kfac-search")
    for page in ("results.md", "kfac.md"):
        shutil.copy(DOCS / page, tmp_path / "docs" / page)
    monkeypatch.setattr("sys.argv", ["results", "--docs", str(tmp_path / "docs")])
    results.main()
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "8 of 8 cells are finished." in page
    assert "\nThe pilot has 8 of 8 cells.\n" in page
    assert "| What do 5x fewer coefficients cost? | trl-5x, rainbow | 2 × 2 |" in page
    for name in re.findall(r"\(figures/(.*?)\)", page):
        assert (tmp_path / "docs" / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert page.partition("<!--")[0] == (DOCS / "results.md").read_text().partition("<!--")[0]
    before = page, {path.name: path.read_bytes() for path in (tmp_path / "docs" / "figures").iterdir()}
    results.main()
    again = {path.name: path.read_bytes() for path in (tmp_path / "docs" / "figures").iterdir()}
    assert ((tmp_path / "docs" / "results.md").read_text(), again) == before
