"""How quick MLflow is with a whole grid in its store: the search behind its pages, the pages in Chromium, our status.

    python -m benchmarks.mlflow_ui [--json FILE] [--screenshot FILE.png]

Makes a synthetic store of 702 cells (no agent is trained), starts a real `mlflow server` on PostgreSQL, sends it every
cell with `tensorrl sync`'s function, and times, in order: that; `tensorrl status`; the search for every run; the page
of runs in a browser; choosing the runs of two variants and comparing them, compression ratio against score.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.browser import chromium
from benchmarks.contest import ROOT, save
from tensorrl import games
from tensorrl.tracking import sync_directory
from tensorrl.tracking.connection import connect

SWEEP, GAME = "table12", "road_runner"
TWO_VARIANTS = "params.variant LIKE 'trl-%5x'"
"""MLflow's filters have no "or": of the names, this takes trl-2.5x and trl-5x."""


def main() -> None:
    options = parse()
    # What makes the store and the servers is shared with the tests, which are no package.
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tracking")]
    from servers import free_port, mlflow_server, postgres
    from synthetic_store import PAPER_VARIANTS, make_sweep

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store, port = Path(folder) / "runs", free_port()
        names = list(games.GAMES)[: options.games]
        cells = len(make_sweep(store, SWEEP, names, PAPER_VARIANTS, range(options.seeds)))
        with postgres() as database, mlflow_server(port, Path(folder), database):
            uri = f"http://127.0.0.1:{port}"
            figures["sync, s a run"] = timed(lambda: send(store, uri)) / cells
            status = [sys.executable, "-m", "tensorrl", "status", SWEEP, "--out", str(store), "--json"]
            figures["tensorrl status, s"] = timed(
                lambda: subprocess.run(status, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            )
            client = connect(uri)
            home = client.get_experiment_by_name(SWEEP).experiment_id
            figures["search of every run, s"] = timed(lambda: client.search_runs([home], max_results=1_000))
            with chromium() as context:
                page = context.new_page()
                figures |= look(page, uri, home, TWO_VARIANTS)
                if options.screenshot is not None:
                    look(page, uri, home, f"{TWO_VARIANTS} AND params.game = '{GAME}'")
                    photograph(page, options.screenshot)
    print(f"{cells} runs in the store")
    for name, seconds in figures.items():
        print(f"{name:42} {seconds:7.2f}")
    if options.json is not None:
        save(options.json, "mlflow_ui", vars(options), figures)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=26, help="of the store (default: 26)")
    parser.add_argument("--seeds", type=int, default=3, help="of the store (default: 3)")
    parser.add_argument("--screenshot", type=Path, metavar="FILE.png", help="keep a picture of the compare view")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


def send(store: Path, uri: str) -> None:
    """Sends every cell of a store to a server."""
    problems = [each.problem for each in sync_directory(store, tracking_uri=uri, experiment=SWEEP) if each.problem]
    if problems:
        sys.exit(f"mlflow_ui: {problems[0]}")


def timed(action: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def look(page: Any, uri: str, experiment: str, runs: str) -> dict[str, float]:
    """Does what a user does: opens an experiment's runs, picks some by a filter, and compares them.

    Args:
        page: of a browser.
        uri: of the MLflow server.
        experiment: id of the experiment.
        runs: MLflow's filter for the runs to compare.

    Returns:
        Seconds of each step.
    """

    def open_runs() -> None:
        page.goto(f"{uri}/#/experiments/{experiment}/runs")
        page.get_by_role("link", name="-seed").first.wait_for()

    def filter_runs() -> None:
        box = page.get_by_placeholder("metrics.rmse")
        with page.expect_response(lambda answer: "runs/search" in answer.url):
            box.fill(runs)
            box.press("Enter")
        page.get_by_role("link", name="-seed").first.wait_for()

    def compare() -> None:
        # The box that people see is a picture over this one.
        page.get_by_label("Select all runs").dispatch_event("click")
        page.get_by_role("button", name="Compare").first.click()
        page.get_by_role("tab", name="Scatter Plot").click()
        for axis, value in (("x", "compression_ratio"), ("y", "score")):
            page.locator(f"#{axis}-axis-selector").click()
            page.get_by_role("option", name=value, exact=True).first.click()
        for title, value in (("x", "compression_ratio"), ("y", "score")):
            page.locator(f".js-plotly-plot .{title}title", has_text=value).wait_for(state="attached")

    return {
        "page of runs, s": timed(open_runs),
        "two variants' runs by a filter, s": timed(filter_runs),
        "compare view with its scatter plot, s": timed(compare),
    }


def open_table(page: Any, url: str) -> list[str]:
    """Opens the table of runs that `tensorrl` links to; returns the names of its metrics and parameters.

    Args:
        page: of a browser.
        url: `tensorrl.tracking.Link.url`.
    """
    page.goto(url)
    page.get_by_role("link", name="-seed").first.wait_for()
    headers = "[role=columnheader][col-id^='metrics.'], [role=columnheader][col-id^='params.']"
    page.locator(headers).first.wait_for(state="attached")
    # The grid makes the columns that fit; the others come as it is scrolled.
    names: list[str] = []
    for _ in range(8):
        shown = page.locator(headers).evaluate_all("all => all.map(each => each.getAttribute('col-id').split('`')[1])")
        names += [name for name in shown if name not in names]
        page.locator(".ag-body-horizontal-scroll-viewport").evaluate("view => { view.scrollLeft += 300 }")
        page.wait_for_timeout(300)
    page.locator(".ag-body-horizontal-scroll-viewport").evaluate("view => { view.scrollLeft = 0 }")
    return names


def open_charts(page: Any, url: str) -> list[tuple[float, float]]:
    """Opens the charts that `tensorrl` links to; returns the points of its scatter plot.

    Args:
        page: of a browser.
        url: `tensorrl.tracking.Link.charts`.
    """
    page.goto(url)
    page.reload()
    page.locator(".js-plotly-plot .ytitle", has_text="human_normalized").first.wait_for(state="attached")
    found = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')]"
        ".filter(plot => plot.layout.yaxis?.title?.text == 'human_normalized')"
        ".flatMap(plot => plot.data).flatMap(({x, y}) => [...x].map((value, i) => [value, [...y][i]]))"
    )
    return [(float(x), float(y)) for x, y in found]


def photograph(page: Any, file: Path) -> None:
    """Keeps a picture of the compare view, without what stands around it."""
    for name in ("Close", "Model training"):
        button = page.get_by_role("button", name=name).or_(page.get_by_text(name, exact=True))
        if button.count():
            button.first.click()
    # The plot is drawn anew in the wider page, with an animation.
    page.wait_for_timeout(2_000)
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file)


def plotted(page: Any) -> list[tuple[float, float]]:
    """What the scatter plot of the compare view holds: the points' x and y."""
    data = page.evaluate("(({x, y}) => [x, y])(document.querySelector('.js-plotly-plot').data[0])")
    return [(float(x), float(y)) for x, y in zip(*data, strict=True)]


if __name__ == "__main__":
    main()
