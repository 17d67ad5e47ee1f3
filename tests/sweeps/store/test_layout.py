from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps import Cell, SweepSpec, cells, find_sweep, load_sweep, locate, store_path, sweep_status
from tensorrl.sweeps.store.layout import open_store, sweep_folder, write_sweep
from tensorrl.trial.folder import last_report


def sweep(**changes: Any) -> SweepSpec:
    fields = {"name": "tiny", "games": ["pong"], "variants": ["rainbow", "trl-5x"], "seeds": 2, "steps": 500}
    return SweepSpec.model_validate(fields | changes)


def write_cell(store: Path, cell: Cell, *, steps: int, score: float | None = None) -> str:
    """Writes a cell's folder as far as `steps`, with its result where it has a score; returns its name."""
    folder = store / cell.folder
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"key": cell.key, "variant": cell.trial.variant}))
    lines = [{"agent_steps": step, "steps_per_second": 50.0} for step in range(100, steps + 1, 100)]
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if score is not None:
        (folder / "result.json").write_text(json.dumps({"key": cell.key, "score": score}))
    return cell.folder


def write_state(store: Path, *, driver: str = "running", age: float = 0.0, **known: Any) -> None:
    content = {"driver": driver, "where": "host, process 7", "updated": time.time() - age, "cells": known["cells"]}
    (sweep_folder(store, "tiny") / "state.json").write_text(json.dumps(content))


def test_a_sweep_keeps_its_file_and_its_cells_in_order(tmp_path: Path) -> None:
    spec = sweep(variants=["trl-5x"], axes={"compression": [3, 4]}, seeds=1)
    folder = write_sweep(tmp_path, spec, locate(tmp_path, cells(spec)))
    assert folder == tmp_path / ".sweeps" / "tiny"
    assert load_sweep(folder / "sweep.yaml") == spec
    content = json.loads((folder / "cells.json").read_text())
    assert (content["name"], content["experiment"]) == ("tiny", "tiny")
    keys = [cell.key for cell in cells(spec)]
    assert content["cells"] == [
        {
            "key": key,
            "folder": f"pong-trl-5x-seed0-{key[:8]}",
            "game": "pong",
            "variant": "trl-5x",
            "seed": 0,
            "steps": 500,
            "axes": {"compression": ratio},
        }
        for key, ratio in zip(keys, (3, 4), strict=True)
    ]


def test_a_sweep_is_found_by_its_file_and_by_its_name_which_are_the_same(tmp_path: Path) -> None:
    spec = sweep()
    folder = write_sweep(tmp_path, spec, locate(tmp_path, cells(spec)))
    assert find_sweep(tmp_path, "tiny") == find_sweep(tmp_path, str(folder / "sweep.yaml"))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("tinny", "unknown sweep 'tinny'; did you mean 'tiny'?"),
        ("tinny.yaml", "tinny.yaml: no such sweep file, and no sweep of that name"),
        ("../tiny", "unknown sweep '../tiny'"),
    ],
)
def test_a_sweep_that_is_not_there_is_named_in_one_line(tmp_path: Path, wanted: str, said: str) -> None:
    write_sweep(tmp_path, sweep(), locate(tmp_path, cells(sweep())))
    with pytest.raises(InputError) as caught:
        find_sweep(tmp_path, wanted)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ('{"version": 2}', "is a store of version 2 (allowed: 1"),
        ("[]", "is a store of version None"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_store_of_another_version_is_refused_by_all_who_open_it(tmp_path: Path, held: str, said: str) -> None:
    (tmp_path / ".store.json").write_text(held)
    for refused in (lambda: open_store(tmp_path), lambda: sweep_status(tmp_path, "tiny")):
        with pytest.raises(InputError) as caught:
            refused()
        assert said in str(caught.value)


@pytest.mark.parametrize("name", [".locks", ".store.json"])
def test_nothing_is_written_through_a_link_that_leads_out_of_a_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"'{re.escape(name)}' is a symbolic link that leads out of"):
        open_store(tmp_path / "store")
    assert not (tmp_path / "elsewhere").exists()


def test_status_is_what_the_folders_say_and_who_runs_or_failed_what_the_driver_says(tmp_path: Path) -> None:
    spec = sweep()
    write_sweep(tmp_path, spec, locate(tmp_path, cells(spec)))
    write_cell(tmp_path, cells(spec)[0], steps=500, score=3.0)
    running = write_cell(tmp_path, cells(spec)[1], steps=300)
    failed = write_cell(tmp_path, cells(spec)[2], steps=200)
    told = {
        running: {"state": "running", "failures": 1, "error": []},
        failed: {"state": "failed", "failures": 3, "error": ["ValueError: no"]},
    }
    write_state(tmp_path, cells=told)
    status = sweep_status(tmp_path, "tiny")
    assert [row.state for row in status.rows] == ["finished", "running", "failed", "waiting"]
    assert [row.agent_steps for row in status.rows] == [500, 300, 200, 0]
    assert status.rows[2].error == ("ValueError: no",)
    assert (status.driver, status.steps_per_second) == ("running", 50.0)
    # 200 steps of the running cell and 500 of the waiting one are left, at 50 a second, and ten evaluation games of
    # each, at 1.5 s a game.
    assert status.seconds_left == 14.0 + 20 * 1.5
    # Five final games instead of one, by the running cell's own settings.
    described = json.loads((tmp_path / running / "trial.json").read_text())
    (tmp_path / running / "trial.json").write_text(json.dumps(described | {"settings": {"final_episodes": 1_000}}))
    assert sweep_status(tmp_path, "tiny").seconds_left == 14.0 + 28 * 1.5

    write_state(tmp_path, cells=told, age=600)
    status = sweep_status(tmp_path, "tiny")
    assert status.driver == "gone"
    assert [row.state for row in status.rows] == ["finished", "unfinished", "failed", "waiting"]
    assert status.seconds_left is None


def test_a_result_of_another_trial_is_damage(tmp_path: Path) -> None:
    spec = sweep()
    folder = tmp_path / write_cell(tmp_path, cells(spec)[0], steps=500)
    (folder / "result.json").write_text(json.dumps({"key": "another", "score": 1.0}))
    write_sweep(tmp_path, spec, locate(tmp_path, cells(spec)))
    row = sweep_status(tmp_path, "tiny").rows[0]
    assert (row.state, row.agent_steps, row.result) == ("damaged", 500, {})
    assert "of another trial" in row.error[0]


def test_the_last_report_is_the_last_whole_line_however_long_the_file(tmp_path: Path) -> None:
    assert last_report(tmp_path) == {}
    lines = [json.dumps({"agent_steps": step, "filling": "x" * 500}) for step in range(1, 200)]
    (tmp_path / "progress.jsonl").write_text("\n".join(lines) + '\n{"agent_steps": 2')
    assert last_report(tmp_path)["agent_steps"] == 199
    (tmp_path / "progress.jsonl").write_text('{"agent_steps": 2')
    assert last_report(tmp_path) == {}


def test_the_store_is_the_one_named_then_the_environments_then_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORRL_STORE", raising=False)
    monkeypatch.setenv("HOME", "/home/ray")
    assert store_path() == tmp_path / "runs"
    monkeypatch.setenv("TENSORRL_STORE", "~/cells")
    assert store_path() == Path("/home/ray/cells")
    assert store_path(Path("here")) == tmp_path / "here"
    # Inside a job, the working folder goes when the job ends.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert store_path(Path("here")) == Path("/home/ray/here")
    assert store_path(Path("/there")) == Path("/there")


def test_status_of_702_cells_is_quick_and_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    spec = sweep(games="atari-100k", variants=["rainbow", "denoised", "trl-2.5x", "trl-5x", "trl-10x", "kfac-denoised",
                 "kfac-trl-5x", "kfac-trl-10x", "scattering"], seeds=3)  # fmt: skip
    grid = cells(spec)
    write_sweep(tmp_path, spec, locate(tmp_path, grid))
    for place, cell in enumerate(grid):
        write_cell(tmp_path, cell, steps=500, score=1.0 if place % 3 else None)
    code = (
        "import sys, time\nfrom pathlib import Path\nbegin = time.process_time()\n"
        "from tensorrl.sweeps import sweep_status\n"
        "status = sweep_status(Path(sys.argv[1]), 'tiny')\n"
        "assert not {'torch', 'ray', 'mlflow', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "print(status.count('finished'), status.count('unfinished'), time.process_time() - begin)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    finished, unfinished, seconds = done.stdout.split()
    assert (int(finished), int(unfinished)) == (468, 234)
    # Processor time, so that a busy machine does not count; half a second here.
    assert float(seconds) < 3
