from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.sweeps import cells, load_sweep, locate
from tensorrl.sweeps.store.layout import write_sweep

GOOD = """
name: mine
games: [pong, breakout]
variants: [rainbow, trl-5x]
seeds: 2
steps: 5000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    return path


def invoke(*arguments: Any) -> str:
    result = CliRunner().invoke(app.app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def finish(store: Path, file: Path, place: int) -> None:
    cell = cells(load_sweep(file))[place]
    folder = store / cell.folder
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"key": cell.key}))
    (folder / "result.json").write_text(json.dumps({"key": cell.key, "score": 7.5}))


def test_check_says_what_is_left_and_what_it_takes_and_writes_nothing(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    finish(store, file, 0)
    before = sorted(store.rglob("*"))
    found = json.loads(invoke("sweep", file, "--check", "--out", store, "--json"))
    assert (found["cells"], found["finished"], found["left"], found["steps_left"]) == (8, 1, 7, 35_000)
    assert {row["variant"]: row["cells_left"] for row in found["variants"]} == {"rainbow": 3, "trl-5x": 4}
    assert found["hours"] > 0
    assert found["memory_per_trial"] > 2**28
    said = invoke("sweep", file, "--check", "--out", store, "--only", "pong-*")
    assert "mine: 4 cells, 1 finished" in said
    assert "trials at once" in said
    assert sorted(store.rglob("*")) == before


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_a_sweep_that_fits_no_machine_is_refused_before_anything_is_written(tmp_path: Path, file: Path) -> None:
    file.write_text(GOOD + "resources: {gpus: 0.5}\n")
    with pytest.raises(InputError, match=r"gpus: each trial needs 0\.5, but no machine has a GPU"):
        invoke("sweep", file, "--out", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_status_says_how_a_sweep_stands_by_file_and_by_name(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    finish(store, file, 0)
    said = invoke("status", file, "--out", store)
    assert "mine: not run in this store yet" in said
    assert "1 of 8 cells finished, 5,000 of 40,000 agent steps" in said
    spec = load_sweep(file)
    write_sweep(store, spec, locate(store, cells(spec)))
    found = json.loads(invoke("status", "mine", "--out", store, "--json", "--watch"))
    assert (found["finished"], found["waiting"], found["driver"]) == (1, 7, "none")
    assert found["rows"][0]["score"] == 7.5


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (["sweep"], {"breakout": "brekout"}, "games: unknown game 'brekout'; did you mean 'breakout'?"),
        (["sweep"], {"seeds: 2": "seeds: [0, 1, 1]"}, "seeds: 1 is listed twice"),
        (
            ["sweep", "--check"],
            {"seeds: 2": "seeds: 2\nresources: {gpus: 1}"},
            "gpus: each trial needs 1, but no machine",
        ),
        (["sweep", "--only", "png-*"], {}, "--only 'png-*': matches no cell"),
        (["sweep", "--out", "old"], {}, "is a store of version 0 (allowed: 1"),
        (["sweep", "--address", "ray://a:1"], {}, "address ray://a:1 of Ray: a sweep's driver runs inside the cluster"),
        (["status", "--out", "old"], {}, "is a store of version 0 (allowed: 1"),
        (["submit", "--address", "a:1"], {}, "--address a:1: not a dashboard's address (allowed: http://HOST:8265)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    file: Path,
    arguments: list[str],
    changes: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ".store.json").write_text('{"version": 0}')
    for old, new in changes.items():
        file.write_text(file.read_text().replace(old, new))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi, and so no GPU
    monkeypatch.setattr(sys, "argv", ["tensorrl", arguments[0], str(file), *arguments[1:]])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "old"]
