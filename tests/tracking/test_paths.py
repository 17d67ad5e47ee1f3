"""A store may lie under any name that the file system allows, or is refused before anything is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.tracking.connection import artifact_location, connect, tracking_uri_for

TAKEN = ["a b", 'it\'s "q"', "100%", "%(here)s", "h#sh", "new\nline", "ünï漢", "-dash", "back\\slash", "co:lon;&"]
REFUSED = {b"q?x=1": "'?'", b"p%20q": "'%20'", b"\xff\xfe": "bytes that are not UTF-8"}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_mlflow_keeps_its_file_and_artifacts_under_any_usual_name(tmp_path: Path) -> None:
    # All of them in one path, because a store takes a second to make.
    folder = tmp_path.joinpath(*TAKEN) / "run"
    folder.mkdir(parents=True)
    uri = tracking_uri_for(folder)
    client = connect(uri)
    experiment = client.create_experiment("any", artifact_location=artifact_location(uri, "any"))
    run = client.create_run(experiment).info.run_id
    (folder / "note.txt").write_text("here")
    client.log_artifact(run, str(folder / "note.txt"))
    assert [artifact.path for artifact in client.list_artifacts(run)] == ["note.txt"]
    beside = {path.name for path in folder.parent.iterdir() if not path.name.startswith(".")}
    assert beside == {"run", "mlflow.db", "mlartifacts"}
    assert [path.name for path in tmp_path.iterdir()] == [TAKEN[0]]


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlflow_cannot_take_is_refused_in_one_line_before_anything_is_written(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / os.fsdecode(name) / "run"
    with pytest.raises(InputError, match="MLflow cannot keep its SQLite file"):
        tracking_uri_for(out)
    monkeypatch.setattr(sys, "argv", ["tensorrl", "train", "--game", "pong", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert REFUSED[name] in line
    assert line.isprintable()
    assert list(tmp_path.iterdir()) == []
    sweep = tmp_path.parent / f"{tmp_path.name}.yaml"
    sweep.write_text("{name: s, games: [pong], variants: [denoised], seeds: 1}")
    for check in ([], ["--check"]):
        monkeypatch.setattr(sys, "argv", ["tensorrl", "sweep", str(sweep), "--out", str(out), *check])
        with pytest.raises(SystemExit) as stop:
            app.main()
        assert stop.value.code == 2
        assert "MLflow cannot keep its SQLite file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    # A server takes the record of a run that lies anywhere.
    assert tracking_uri_for(out, "http://there:5000") == "http://there:5000"
