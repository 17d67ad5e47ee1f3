"""One damaged folder in a store: it is named in a line, and everything else is shown as before."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep

from tensorrl.cli import app
from tensorrl.files import file_lock


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("damaged") / "runs"
    make_sweep(store, "two", ["pong"], {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x")}, range(2))
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tensorrl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


Call = Callable[..., tuple[int, str, str]]


def first(store: Path) -> Path:
    return sorted(path for path in store.iterdir() if not path.name.startswith("."))[0]


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def other_key(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 64}))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a list for a description": ("trial.json", lambda path: path.write_text("[]")),
    "bytes for a description": ("trial.json", lambda path: path.write_bytes(b"\xff\x00\xfe")),
    "deep nesting": ("trial.json", lambda path: path.write_text("[" * 200_000)),
    "a description without a key": ("trial.json", lambda path: path.write_text("{}")),
    "a description with a text for a number": (
        "trial.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"coefficients": "many"})),
    ),
    "a folder for a result": ("result.json", as_folder),
    "a result of another trial": ("result.json", other_key),
    "a list for a result": ("result.json", lambda path: path.write_text("[]")),
    "half a result": ("result.json", lambda path: path.write_text(path.read_text()[:40])),
    "no number for a score": (
        "result.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"score": [1]})),
    ),
}


def test_damaged_cells_are_named_by_status_report_and_sync_and_the_others_are_shown(tmp_path: Path, call: Call) -> None:
    store = tmp_path / "runs"
    rows = make_sweep(store, "all", ["pong"], {"rainbow": 1.0}, range(len(DAMAGES) + 2))
    damaged = [store / row["folder"] / file for row, (file, _) in zip(rows, DAMAGES.values(), strict=False)]
    for path, (_, damage) in zip(damaged, DAMAGES.values(), strict=True):
        damage(path)
    code, out, _ = call("status", "all", "--out", store, "--json")
    told = json.loads(out)
    assert (code, told["finished"], told["damaged"]) == (0, 2, len(damaged))
    for row, path, name in zip(told["rows"], damaged, DAMAGES, strict=False):
        assert row["error"][0].startswith(f"{path}: is damaged ("), name
    code, out, err = call("status", "all", "--out", store)
    assert (code, err) == (0, "")
    assert all(f"damaged {path.parent.name}: {path}: is damaged" in out for path in damaged)
    code, out, err = call("report", "all", "--store", store, "--json")
    assert (code, err) == (0, "")
    assert [row["cells"] for row in json.loads(out)["agents"]] == [f"2 of {len(rows)}"]
    assert any(f"{len(damaged)} damaged" in line for line in json.loads(out)["warnings"])
    # Nobody answers there: what is damaged is known without asking.
    code, out, _ = call("sync", store, "--tracking-uri", "http://127.0.0.1:9", "--json")
    problems = {row["directory"]: row["problem"] for row in json.loads(out)}
    assert (code, len(problems)) == (1, len(rows))
    assert all(problems[str(path.parent)].startswith(f"{path}: is damaged") for path in damaged)


def test_a_damaged_list_of_cells_is_one_line_and_the_runs_are_synced(store: Path, call: Call) -> None:
    path = store / ".sweeps" / "two" / "cells.json"
    (first, *_) = json.loads(path.read_text())["cells"]
    escaping = {"cells": [first | {"folder": "../other"}]}
    for content in ({"a": 1}, [], {"cells": [1]}, {"cells": [{"key": "k"}]}, escaping):
        path.write_text(json.dumps(content))
        for command in (("status", "two", "--out", store), ("report", "two", "--store", store)):
            code, _, err = call(*command)
            assert code == 2
            assert err.startswith(f"tensorrl: {path}: is damaged (")
            assert err.count("\n") == 1
    code, out, err = call("sync", store)
    assert (code, err) == (0, "")
    assert "4 of 4 runs are up to date in MLflow" in out


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"cells": [], "driver": 7, "updated": "now"}',
        '{"cells": {"FOLDER": 3}}',
        '{"cells": {"FOLDER": {"state": 1, "failures": [], "error": 5}}}',
    ],
)
def test_what_a_driver_left_may_be_anything(store: Path, call: Call, content: str) -> None:
    (first(store) / "result.json").unlink()
    (store / ".sweeps" / "two" / "state.json").write_text(content.replace("FOLDER", first(store).name))
    code, out, err = call("status", "two", "--out", store, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["unfinished"] == 1


def test_curves_name_a_damaged_run(store: Path, call: Call, tmp_path: Path) -> None:
    (first(store) / "trial.json").write_text('{"key": "k", "game": "pong"}')
    code, _, err = call("curves", first(store), "--out", tmp_path / "c.png")
    assert (code, err) == (2, f"tensorrl: {first(store) / 'trial.json'}: is damaged (no variant)\n")
    assert not (tmp_path / "c.png").exists()


def test_sync_follows_links_to_runs_once_and_a_store_without_any_is_an_error(
    store: Path, call: Call, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for run in [path for path in store.iterdir() if not path.name.startswith(".")]:
        (linked / run.name).symlink_to(run)
    (linked / "again").symlink_to(first(store))
    (linked / "round").symlink_to(linked)
    (linked / "gone").symlink_to(tmp_path / "nothing")
    code, out, _ = call("sync", linked, "--json")
    assert code == 0
    assert sorted(row["lines_sent"] for row in json.loads(out)) == [20] * 4
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", tmp_path / "mistyped"):
        code, _, err = call("sync", directory)
        assert code == 2
        assert str(directory) in err
        assert err.count("\n") == 1


TRAIN = ("train", "--game", "pong", "--variant", "denoised", "--steps", "20", "--device", "cpu", "--threads", "1")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "[]"),
        ("result.json", json.dumps({"key": "0" * 64, "score": 1.0})),
        ("result.json", None),
        ("trial.json", "[]"),
        ("trial.json", "{"),
    ],
)
def test_train_refuses_a_folder_with_a_damaged_description_or_another_trials_result(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, file: str, content: str | None
) -> None:
    from tensorrl.trial.spec import describe, make_spec

    spec = make_spec(game="pong", variant="denoised", steps=20, device="cpu", threads=1)
    out = tmp_path / "run"
    out.mkdir()
    (out / "trial.json").write_text(json.dumps(describe(spec)))
    if content is None:
        as_folder(out / file)
    else:
        (out / file).write_text(content)
    before = sorted(os.listdir(out))
    code, _, err = call(*TRAIN, "--out", out, "--resume")
    assert code == 2
    assert err.startswith(f"tensorrl: {out / file}: is damaged (")
    assert err.count("\n") == 1
    assert sorted(os.listdir(out)) == before


def test_two_cannot_train_in_one_folder(tmp_path: Path, call: Call) -> None:
    from tensorrl.trial.spec import describe, make_spec

    spec = make_spec(game="pong", variant="denoised", steps=20, device="cpu", threads=1)
    out = tmp_path / "run"
    out.mkdir()
    (out / "trial.json").write_text(json.dumps(describe(spec)))
    with file_lock(out / ".train.lock"):
        code, _, err = call(*TRAIN, "--out", out, "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "another process trains here" in err
    assert sorted(os.listdir(out)) == [".train.lock", "trial.json"]
