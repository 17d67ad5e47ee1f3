"""Kills at random times: of the driver, of a trial's process, of the whole Ray. Real cells, real Ray, real MLflow."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tensorrl.sweeps import SweepSpec, cells, load_sweep, sweep_status
from tensorrl.tracking.connection import connect
from tensorrl.trial.folder import read_progress
from tensorrl.trial.run import run_trial

# A sweep has a run of its own beside its cells'.
CELLS = "tags.`tensorrl.key` LIKE '%'"
ROOT = Path(__file__).parents[3]
KILLS = 12
SWEEP = """
name: short
games: [pong, road_runner]
variants: [denoised, trl-10x]
seeds: 2
steps: 900
settings: {learning_starts: 300, epsilon_decay: 200}
evaluation: {final_episodes: 1, epsilon: 1.0}
checkpoint_every: 100
resources: {gpus: 0}
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(SWEEP)
    return path


class Driver:
    """`tensorrl sweep` in a process of its own, with all that it starts."""

    def __init__(self, file: Path, store: Path, log: Path) -> None:
        command = [sys.executable, "-m", "tensorrl", "sweep", str(file), "--out", str(store)]
        self._log = log.open("a")
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    def below(self) -> list[psutil.Process]:
        """Everything that the driver started: Ray's servers and, below its raylet, the trials."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def trials(self) -> list[psutil.Process]:
        """Trials' processes, which Ray names after what they run."""
        return [process for process in self.below() if "ray::ImplicitFunc" in _title(process)]

    def raylet(self) -> list[psutil.Process]:
        """The server that starts trials' processes on this machine."""
        return [process for process in self.below() if _title(process).partition(" ")[0].endswith("/raylet")]

    def end(self) -> None:
        for process in [*self.below(), psutil.Process(self.process.pid)] if self.process.poll() is None else []:
            _kill(process)
        self.process.wait()
        self._log.close()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


@pytest.fixture
def drivers(tmp_path: Path, sweep_file: Path) -> Iterator[Any]:
    started: list[Driver] = []

    def start(store: Path) -> Driver:
        started.append(Driver(sweep_file, store, tmp_path / "log.txt"))
        return started[-1]

    yield start
    for driver in started:
        driver.end()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each cell, run by itself in this process without Ray or MLflow."""
    spec = SweepSpec.model_validate(yaml.safe_load(SWEEP))
    folder = tmp_path_factory.mktemp("alone")
    for cell in cells(spec):
        run_trial(cell.on("cpu").trial, folder / cell.folder)
    return {cell.key: folder / cell.folder for cell in cells(spec)}


def figures(folder: Path) -> list[dict[str, Any]]:
    """What a cell reported, but for what its clock said."""
    lines = read_progress(folder)
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def check_whole(store: Path, file: Path, alone: dict[str, Path]) -> None:
    """Every cell is finished once, to the undisturbed bits, and MLflow has it once with every step once."""
    grid = cells(load_sweep(file))
    rows = sweep_status(store, str(file)).rows
    assert [row.state for row in rows] == ["finished"] * len(grid)
    folders = [path for path in store.iterdir() if (path / "trial.json").exists()]
    assert len(folders) == len(grid)
    for row in rows:
        undisturbed = json.loads((alone[row.key] / "result.json").read_text())
        assert row.result
        assert row.result["parameters_sha256"] == undisturbed["parameters_sha256"]
        assert row.result["final_episodes"] == undisturbed["final_episodes"]
        assert figures(row.folder) == figures(alone[row.key])
    client = connect(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("short").experiment_id], CELLS)
    assert sorted(run.data.tags["tensorrl.key"] for run in runs) == sorted(cell.key for cell in grid)
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "updates")]
        assert sorted(steps) == [line["agent_steps"] for line in figures(alone[run.data.tags["tensorrl.key"]])]


def wait_for(condition: Any, what: str, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _wait_for_reports(store: Path, file: Path, count: int, *, seconds: float) -> None:
    """Waits until the cells together have reported that many times more (every 45 agent steps each), or so long."""
    deadline = time.monotonic() + seconds

    def steps() -> int:
        return sum(row.agent_steps for row in sweep_status(store, str(file)).rows)

    wanted = steps() + 45 * count
    while steps() < wanted and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_sweep_killed_in_every_way_again_and_again_is_whole(
    tmp_path: Path, sweep_file: Path, alone: dict[str, Path], drivers: Any
) -> None:
    store, clock = tmp_path / "store", random.Random(0)
    ways = ["driver", "trial", "ray"] * (KILLS // 3)
    clock.shuffle(ways)
    done: list[str] = []
    driver = drivers(store)
    while len(done) < KILLS:
        if driver.process.poll() is not None:
            driver = drivers(store)
        wait_for(lambda: driver.trials() or driver.process.poll() is not None, "a trial")  # noqa: B023
        # Anywhere in a trial: some kills while it starts, most after a random number of new reports.
        reports = clock.choice([0, 1, 2, 4, 8])
        _wait_for_reports(store, sweep_file, reports, seconds=60.0)
        time.sleep(clock.uniform(0, 2))
        if all(row.state == "finished" for row in sweep_status(store, str(sweep_file)).rows):
            pytest.fail(f"the sweep was done after {len(done)} kills")
        way, below = ways[len(done)], driver.below()
        if driver.process.poll() is not None or not driver.trials():
            continue
        if way == "trial":
            done += [way] if _kill(clock.choice(driver.trials() or below)) else []
            continue
        if way == "ray":
            for process in below:
                _kill(process)
            # A driver whose Ray is gone leaves by itself.
            driver.process.wait(600)
        else:
            driver.process.kill()
            driver.process.wait()
        done.append(way)
    if driver.process.poll() is None:
        driver.process.wait(1800)
    last = drivers(store)
    assert last.process.wait(1800) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    check_whole(store, sweep_file, alone)


@pytest.mark.slow
def test_a_sweep_whose_ray_loses_its_machine_says_so_and_ends(tmp_path: Path, drivers: Any) -> None:
    driver = drivers(tmp_path / "store")
    wait_for(driver.trials, "a trial")
    (raylet,) = driver.raylet()
    _kill(raylet)
    assert driver.process.wait(600) == 1
    said = (tmp_path / "log.txt").read_text()
    assert "tensorrl: Ray has lost its last machine; run the same command again" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_goes_on_where_its_trials_checkpointed(
    tmp_path: Path, sweep_file: Path, alone: dict[str, Path], drivers: Any, how: signal.Signals
) -> None:
    # Only the interrupt makes a checkpoint: there is none at every so many steps.
    sweep_file.write_text(SWEEP.replace("checkpoint_every: 100", "checkpoint_every: 100000"))
    store = tmp_path / "store"
    driver = drivers(store)
    wait_for(lambda: any(row.agent_steps for row in sweep_status(store, str(sweep_file)).rows), "a report")
    driver.process.send_signal(how)
    assert driver.process.wait(600) == 130
    kept = [path.name for path in store.glob("*/checkpoints/0*")]
    assert kept
    assert all(0 < int(name) <= 900 for name in kept)
    assert drivers(store).process.wait(1800) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    check_whole(store, sweep_file, alone)
