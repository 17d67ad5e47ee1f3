"""MLflow opens on the comparison: the state kept in the experiment, the description, the link, and what they show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from servers import free_port, mlflow_server
from synthetic_store import PAPER_VARIANTS, make_sweep

from benchmarks import mlflow_ui
from benchmarks.browser import chromium
from tensorrl.tracking import find_link, sync_directory, view
from tensorrl.tracking.connection import connect

COLUMNS = ["game", "variant", "seed", "compression_ratio", "coefficients", "score", "human_normalized"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store of two cells, and the SQLite file that MLflow has them in."""
    tmp_path = tmp_path_factory.mktemp("view")
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'mlflow.db'}"
    make_sweep(runs, "few", ["pong"], {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x")}, range(1))
    assert not [each.problem for each in sync_directory(runs, tracking_uri=uri, experiment="few") if each.problem]
    return runs, uri


def test_sync_keeps_the_view_and_a_description_that_links_to_it(recorded: tuple[Path, str]) -> None:
    _, uri = recorded
    client = connect(uri)
    experiment = client.get_experiment_by_name("few")
    state = json.loads(experiment.tags[view.VIEW_TAG])
    assert [column.split("`")[1] for column in state["selectedColumns"]] == COLUMNS
    (scatter,) = [card for card in state["compareRunCharts"] if card["type"] == "SCATTER"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("compression_ratio", "human_normalized")
    assert {"mode": "param", "groupByData": "variant"} in state["groupBy"]["groupByKeys"]
    link = find_link(uri, "few")
    assert link is not None
    page = link.url.partition("/#")[2]
    assert f"(#{page})" in experiment.tags[view.NOTE_TAG]
    assert f"(#{page}&compareRunsMode=CHART)" in experiment.tags[view.NOTE_TAG]
    assert link.url.endswith(
        f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=tensorrl&workflowType=machine_learning"
    )
    assert link.command == f"mlflow ui --backend-store-uri {uri}"


def test_a_run_that_another_experiment_holds_is_linked_there(recorded: tuple[Path, str], tmp_path: Path) -> None:
    runs, uri = recorded
    again = tmp_path / "again" / "one"
    shutil.copytree(next(runs.glob("pong-rainbow-*")), again)
    (again / "mlflow.json").unlink()
    (outcome,) = sync_directory(tmp_path / "again", tracking_uri=uri)
    home = connect(uri).get_experiment_by_name("few").experiment_id
    assert (outcome.problem, outcome.experiment_id) == (None, home)
    link = find_link(uri, "again", experiment_id=outcome.experiment_id)
    assert link is not None
    assert f"/experiments/{home}/" in link.url


def test_a_description_of_somebody_s_own_is_left_as_it_is(recorded: tuple[Path, str]) -> None:
    _, uri = recorded
    client = connect(uri)
    home = client.get_experiment_by_name("few").experiment_id
    client.set_experiment_tag(home, view.NOTE_TAG, "mine")
    client.set_experiment_tag(home, view.VIEW_TAG, "{}")
    view.keep_view(client, client.get_experiment(home), uri)
    tags = client.get_experiment(home).tags
    assert tags[view.NOTE_TAG] == "mine"
    assert json.loads(tags[view.VIEW_TAG]) == view.view_state()


def test_another_version_of_mlflow_gets_the_plain_page(
    recorded: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, uri = recorded
    monkeypatch.setattr(view, "VERSION", "2.9")
    client = connect(uri)
    home = client.get_experiment_by_name("few").experiment_id
    client.delete_experiment_tag(home, view.VIEW_TAG)
    view.keep_view(client, client.get_experiment(home), uri)
    assert view.VIEW_TAG not in client.get_experiment(home).tags
    link = find_link(uri, "few")
    assert link is not None
    assert link.url.endswith(f"/#/experiments/{home}")


def test_the_pinned_mlflow_is_the_one_that_the_view_is_written_for() -> None:
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert f"\nmlflow=={view.VERSION}." in pinned


def test_a_link_holds_no_password_and_a_silent_server_gives_none() -> None:
    class Client:
        """As much of MLflow's client as a link needs."""

    link = view.page_link(Client(), "7", "sqlite:////tmp/x.db")
    assert link.url.startswith("http://127.0.0.1:5000/#/experiments/7/")
    assert find_link(f"http://me:secret@127.0.0.1:{free_port()}", "few") is None


@pytest.mark.slow
def test_the_link_opens_on_the_table_of_runs_and_on_the_scatter(tmp_path: Path) -> None:
    runs, port = tmp_path / "runs", free_port()
    three = {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x", "kfac-trl-5x")}
    rows = make_sweep(runs, mlflow_ui.SWEEP, ["pong", "krull"], three, range(2))
    with mlflow_server(port, tmp_path):
        uri = f"http://127.0.0.1:{port}"
        mlflow_ui.send(runs, uri)
        link = find_link(uri, mlflow_ui.SWEEP)
        assert link is not None
        assert link.command is None
        assert link.url.startswith(f"{uri}/#/experiments/")
        with chromium(width=1_600) as context:
            page = context.new_page()
            shown = mlflow_ui.open_table(page, link.url)
            assert [name for name in COLUMNS if name not in shown] == []
            assert link.charts is not None
            found = mlflow_ui.open_charts(page, link.charts)
    results = [json.loads((runs / row["folder"] / "result.json").read_text()) for row in rows]
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for r in results:
        groups.setdefault((r["game"], r["variant"]), []).append((r["compression_ratio"], r["human_normalized"]))
    wanted = sorted(tuple(sum(values) / len(values) for values in zip(*each, strict=True)) for each in groups.values())
    assert sorted(found) == [pytest.approx(point) for point in wanted]
