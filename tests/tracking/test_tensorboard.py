"""TensorBoard's event files, read back with TensorBoard, hold what the reports hold, once."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.sweeps import cells, run_sweep
from tensorrl.sweeps.driver.check import check_sweep
from tensorrl.sweeps.grid.files import make_sweep
from tensorrl.tracking import EventFiles, add_event_files
from tensorrl.trial.run import make_spec, run_trial

QUICK = {"learning_starts": 50, "replay_capacity": 2_000, "final_episodes": 1, "evaluation_epsilon": 1.0}


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each scalar, as TensorBoard itself reads them: all of them, not a sample."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def reported(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each figure of `progress.jsonl`."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (folder / "progress.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                points.setdefault(name, []).append((line["agent_steps"], pytest.approx(value, rel=1e-6)))
    return points


def check(folder: Path) -> None:
    shown, wanted = read(folder), reported(folder)
    assert len(wanted["agent_steps"]) > 10
    assert {name: shown[name] for name in wanted} == wanted
    assert all(len(shown[name]) == 1 for name in shown.keys() - wanted.keys())
    result = json.loads((folder / "result.json").read_text())
    last = wanted["agent_steps"][-1][0]
    assert shown["score"] == [(last, pytest.approx(result["score"]))]


@pytest.mark.slow
def test_a_run_that_was_interrupted_has_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    spec = make_spec(
        game="pong", variant="trl-10x", steps=200, overrides=QUICK, device="cpu", threads=1, checkpoint_every=70
    )
    out = tmp_path / "one"

    def killed(line: dict[str, Any]) -> None:
        # Past the checkpoint at 140 steps: the reports after it are cut and made again.
        if line.get("agent_steps") == 170:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_trial(spec, out, record=EventFiles, on_report=killed)
    assert max(step for step, _ in read(out)["agent_steps"]) >= 160
    (torn,) = (out / "tensorboard").iterdir()
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size - 5)
    sets = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    command = ["train", "--game", "pong", "--variant", "trl-10x", "--steps", "200", "--device", "cpu", "--threads", "1"]
    command += [*sets, "--checkpoint-every", "70", "--out", str(out), "--resume", "--tensorboard"]
    assert CliRunner().invoke(app.app, command, catch_exceptions=False).exit_code == 0
    check(out)

    # A finished run gets the files that it lacks, without being trained again.
    shutil.rmtree(out / "tensorboard")
    assert CliRunner().invoke(app.app, command[:-1], catch_exceptions=False).exit_code == 0
    assert not (out / "tensorboard").exists()
    assert CliRunner().invoke(app.app, command, catch_exceptions=False).exit_code == 0
    check(out)


def test_an_open_tensorboard_drops_the_points_that_a_resume_cut(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "trial.json").write_text(json.dumps({"key": "a" * 64}))
    lines = [json.dumps({"agent_steps": 10 * n, "loss": 1 / n}) + "\n" for n in range(1, 5)]
    (folder / "progress.jsonl").write_text("".join(lines))
    EventFiles(folder).poke()
    shown = EventAccumulator(str(folder / "tensorboard"))
    assert [event.step for event in shown.Reload().Scalars("loss")] == [10, 20, 30, 40]
    (folder / "progress.jsonl").write_text("".join(lines[:2]))
    # The names of event files hold the second of their making.
    time.sleep(1.1)
    resumed = EventFiles(folder)
    resumed.poke()
    with (folder / "progress.jsonl").open("a") as file:
        file.write(lines[2])
    resumed.poke()
    assert [event.step for event in shown.Reload().Scalars("loss")] == [10, 20, 30]
    (folder / "result.json").write_text(json.dumps({"key": "a" * 64, "score": 12.5}))
    resumed.close()
    assert [(event.step, event.value) for event in shown.Reload().Scalars("score")] == [(30, 12.5)]


@pytest.mark.slow
def test_a_sweep_writes_them_for_its_cells_and_keeps_the_cells_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fields = {"name": "one", "games": ["pong"], "variants": ["trl-10x"], "seeds": 1, "steps": 200, "cpus": 1}
    fields |= {"settings": {"learning_starts": 50}, "evaluation": {"final_episodes": 1, "epsilon": 1.0}}
    spec = make_sweep({**fields, "tensorboard": True}, where="it")
    assert [cell.key for cell in cells(spec)] == [cell.key for cell in cells(make_sweep(fields, where="it"))]
    (row,) = run_sweep(spec, tmp_path / "runs")
    assert row.state == "finished"
    check(row.folder)


def test_without_the_library_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else found(name))
    out = tmp_path / "one"
    with pytest.raises(InputError, match=r"pip install 'tensorrl\[tensorboard\]'"):
        CliRunner().invoke(
            app.app, ["train", "--game", "pong", "--out", str(out), "--tensorboard"], catch_exceptions=False
        )
    spec = make_sweep(
        {"name": "one", "games": ["pong"], "variants": ["denoised"], "seeds": 1, "steps": 60, "tensorboard": True},
        where="it",
    )
    for action in (run_sweep, check_sweep):
        with pytest.raises(InputError, match="need the package tensorboard"):
            action(spec, out)
    assert not out.exists()


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    other, folder = tmp_path / "other", tmp_path / "one"
    other.mkdir()
    folder.mkdir()
    (other / "events.out.tfevents.1").write_text("theirs")
    (folder / "tensorboard").symlink_to(other)
    with pytest.raises(InputError, match="is a symbolic link"):
        EventFiles(folder)
    add_event_files(folder)
    assert (other / "events.out.tfevents.1").read_text() == "theirs"
