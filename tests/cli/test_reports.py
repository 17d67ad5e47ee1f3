"""`tensorrl report` and `tensorrl sync`, as a user calls them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep
from typer.testing import CliRunner

from tensorrl.cli import app


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cli-reports") / "runs"
    make_sweep(store, "two", ["pong"], {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x")}, range(2))
    return store


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_report_is_written_beside_the_sweep_or_where_it_is_wanted(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "index.html" in invoke("report", "two", "--store", store)
    assert (store / ".sweeps" / "two" / "report" / "index.html").exists()
    monkeypatch.setenv("TENSORRL_STORE", str(store))
    told = json.loads(invoke("report", "two", "--out", tmp_path / "here", "--json"))
    assert told["files"][0] == str(tmp_path / "here" / "index.html")
    assert all(Path(file).is_file() for file in told["files"])
    assert [(row["agent"], row["cells"]) for row in told["agents"]] == [("rainbow", "2 of 2"), ("trl-5x", "2 of 2")]
    assert told["warnings"][0].startswith("Synthetic")


def test_a_sweep_file_is_reported_as_far_as_its_cells_exist(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "three.yaml"
    file.write_text("{name: three, games: [pong], variants: [rainbow, trl-5x, trl-10x], seeds: 2, steps: 100000}")
    told = json.loads(invoke("report", file, "--store", store, "--out", tmp_path / "report", "--json"))
    assert [(row["agent"], row["cells"]) for row in told["agents"]] == [
        ("rainbow", "2 of 2"),
        ("trl-5x", "2 of 2"),
        ("trl-10x", "0 of 2"),
    ]
    assert any(line.startswith("2 waiting of 6 cells") for line in told["warnings"])


def test_runs_made_without_a_server_are_sent_later_and_what_cannot_be_is_told(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = json.loads(invoke("sync", store, "--tracking-uri", "http://127.0.0.1:9", "--json", code=1))
    assert len(rows) == 4
    assert all(row["problem"] for row in rows)
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    assert "4 of 4 runs are up to date in MLflow" in invoke("sync", store, "--tracking-uri", uri)
    rows = json.loads(invoke("sync", store, "--tracking-uri", uri, "--json"))
    assert [(row["lines_sent"], row["problem"]) for row in rows] == [(0, None)] * 4
    assert len({row["run_id"] for row in rows}) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "tow", "--store", "STORE"], ["unknown sweep 'tow'", "did you mean 'two'"]),
        (["report", "two", "--store", "nowhere"], ["two", "nowhere"]),
        (["report", "two", "--store", "STORE", "--out", "STORE"], ["holds no report"]),
        (["sync", "nowhere"], ["nowhere", "no such folder"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    store: Path,
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [str(store) if argument == "STORE" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["tensorrl", *named])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []
