"""MLflow's own pages on our records, in a browser: two variants are chosen and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers import free_port, mlflow_server
from synthetic_store import PAPER_VARIANTS, make_sweep

from benchmarks import mlflow_ui
from benchmarks.browser import chromium
from tensorrl.tracking.connection import connect


@pytest.mark.slow
def test_two_variants_are_chosen_and_compared_by_compression_ratio_and_score(tmp_path: Path) -> None:
    store, port = tmp_path / "runs", free_port()
    three = {name: PAPER_VARIANTS[name] for name in ("trl-2.5x", "trl-5x", "kfac-trl-5x")}
    rows = make_sweep(store, mlflow_ui.SWEEP, ["pong", "krull"], three, range(2))
    with mlflow_server(port, tmp_path):
        uri = f"http://127.0.0.1:{port}"
        mlflow_ui.send(store, uri)
        home = connect(uri).get_experiment_by_name(mlflow_ui.SWEEP).experiment_id
        with chromium() as context:
            page = context.new_page()
            mlflow_ui.look(page, uri, home, mlflow_ui.TWO_VARIANTS)
            assert page.get_by_text("Comparing 8 Runs from 1 Experiment").count() == 1
            found = sorted(mlflow_ui.plotted(page))
    results = [json.loads((store / row["folder"] / "result.json").read_text()) for row in rows]
    wanted = sorted((r["compression_ratio"], r["score"]) for r in results if r["variant"] in ("trl-2.5x", "trl-5x"))
    assert found == [pytest.approx(point) for point in wanted]
