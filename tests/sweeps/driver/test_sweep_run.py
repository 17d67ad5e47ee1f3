from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import HERE, begun, runs_in

from tensorrl.errors import InputError
from tensorrl.files import file_lock
from tensorrl.sweeps import CellStatus, SweepSpec, cells, run_sweep, sweep_status
from tensorrl.sweeps.driver import worker
from tensorrl.sweeps.driver.tuning import last_lines
from tensorrl.sweeps.store.layout import lock_file, sweep_folder
from tensorrl.tracking import sync_directory
from tensorrl.tracking.connection import connect
from tensorrl.trial.cell import Cell


def sweep(**changes: Any) -> SweepSpec:
    fields = {"name": "tiny", "games": ["pong"], "variants": ["rainbow", "denoised"], "seeds": [0], "steps": 500}
    return SweepSpec.model_validate(fields | changes)


@pytest.fixture(autouse=True)
def _small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TRIAL_FUNCTION", "small_trials:run")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for the tests that do not test how Ray is started: two cores, whatever the machine has."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def cell_name(row: CellStatus) -> str:
    return row.folder.name.rpartition("-")[0]


def as_read(row: CellStatus) -> CellStatus:
    """The row as another process reads it: a cell without the trial that a driver plans by it."""
    return replace(row, cell=Cell(**{each.name: getattr(row.cell, each.name) for each in fields(Cell)}))


@pytest.mark.usefixtures("ray")
def test_every_trial_is_run_recorded_and_reported_and_never_run_again(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    seen: list[list[CellStatus]] = []
    rows = run_sweep(sweep(), out, on_update=seen.append)
    assert [(cell_name(row), row.state, row.agent_steps) for row in rows] == [
        ("pong-rainbow-seed0", "finished", 500),
        ("pong-denoised-seed0", "finished", 500),
    ]
    assert [row.result["score"] for row in rows if row.result] == [0.0, 0.0]
    assert seen[-1] == rows
    assert [row.folder.name.rpartition("-")[2] for row in rows] == [cell.key[:8] for cell in cells(sweep())]
    status = sweep_status(out, "tiny")
    assert (status.driver, list(status.rows)) == ("ended", [as_read(row) for row in rows])
    assert sorted((run.info.run_name.rpartition("-")[0], run.info.status) for run in runs_in(out)) == [
        ("pong-denoised-seed0", "FINISHED"),
        ("pong-rainbow-seed0", "FINISHED"),
    ]
    assert {(threads, asked) for _, _, threads, asked in begun(out)} == {("1", "1")}

    assert run_sweep(sweep(), out) == rows
    assert len(begun(out)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_failed_trial_goes_on_from_where_it_was_and_a_hopeless_one_is_reported_while_the_rest_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "raise-pong-rainbow-seed0").write_text("300\n" * 2)
    (out / "die-pong-rainbow-seed1").write_text("200\n")
    (out / "raise-pong-rainbow-seed2").write_text("200\n" * 9)
    (out / "refuse-pong-rainbow-seed3").write_text("200\n" * 9)
    rows = run_sweep(sweep(variants=["rainbow"], seeds=5), out)
    assert [row.state for row in rows] == ["finished", "finished", "failed", "failed", "finished"]
    assert [row.failures for row in rows] == [2, 1, 3, 0, 0]
    assert capfd.readouterr() == ("", "")
    tries = Counter(name for name, *_ in begun(out))
    assert [tries[f"pong-rainbow-seed{seed}"] for seed in range(5)] == [3, 2, 3, 1, 1]
    assert rows[2].error[-2:] == ("RuntimeError: step 200 went wrong", "and this is why")
    assert rows[3].error == ("the folder holds something else",)
    assert rows[0].error == ()
    assert rows[2].agent_steps == 100
    status = {run.data.params["seed"]: run.info.status for run in runs_in(out)}
    assert status == {"0": "FINISHED", "1": "FINISHED", "2": "FAILED", "3": "FAILED", "4": "FINISHED"}

    (out / "raise-pong-rainbow-seed2").unlink()
    (out / "refuse-pong-rainbow-seed3").unlink()
    rows = run_sweep(sweep(variants=["rainbow"], seeds=5), out)
    assert [row.state for row in rows] == ["finished"] * 5
    tries = Counter(name for name, *_ in begun(out))
    assert [tries[f"pong-rainbow-seed{seed}"] for seed in range(5)] == [3, 2, 4, 2, 1]
    client = connect(f"sqlite:///{out / 'mlflow.db'}")
    for run in runs_in(out):
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(metric.step for metric in history) == [100, 200, 300, 400, 500]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_as_many_trials_run_at_once_as_cores_allow_or_as_was_asked(tmp_path: Path) -> None:
    def most_at_once(out: Path, **limits: Any) -> int:
        out.mkdir()
        (out / "pause").write_text("0.5")
        counts: list[int] = []
        run_sweep(
            sweep(seeds=2, **limits),
            out,
            on_update=lambda rows: counts.append([r.state for r in rows].count("running")),
        )
        return max(counts)

    assert most_at_once(tmp_path / "free") == 2
    assert most_at_once(tmp_path / "limited", max_concurrent=1) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_progress_that_cannot_be_shown_does_not_end_the_sweep(tmp_path: Path) -> None:
    def broken(rows: list[CellStatus]) -> None:
        raise RuntimeError("no terminal")

    rows = run_sweep(sweep(variants=["rainbow"]), tmp_path / "tiny", on_update=broken)
    assert [row.state for row in rows] == ["finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_sweep_is_whole_without_its_mlflow_and_says_in_one_line_what_is_to_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "tiny"
    with monkeypatch.context() as patch, socket.socket() as nobody:
        # Bound but not listening: connections are refused, and nobody else can take the port.
        nobody.bind(("127.0.0.1", 0))
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        rows = run_sweep(sweep(), out)
    assert [row.state for row in rows] == ["finished", "finished"]
    (said,) = caplog.messages
    assert said.startswith("MLflow lacks a part of 2 of 2 trials (")
    assert "\n" not in said
    assert [outcome.problem for outcome in sync_directory(out)] == [None, None]
    assert [run.info.status for run in runs_in(out)] == ["FINISHED", "FINISHED"]


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"cpus": 3}, r"cpus: each trial needs 3, more than any machine has \(allowed: 1 to 2\)"),
        ({"gpus": 0.5}, r"gpus: each trial needs 0\.5, but no machine has a GPU \(allowed: 0, or auto\)"),
        ({"memory": "9TiB"}, r"memory: each trial needs 9216\.00 GiB, more than any machine can give"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_runs(
    tmp_path: Path, resources: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_sweep(sweep(resources=resources), tmp_path / "tiny")
    assert not begun(tmp_path / "tiny")


def test_what_is_finished_asks_for_no_machine(tmp_path: Path) -> None:
    # As where a cluster's store is looked at on a laptop: the record and the report are made all the same.
    out, spec = tmp_path / "tiny", sweep(resources={"gpus": 64})
    finish(out, sweep())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorrl.sweeps.driver.run.joins_ray", lambda address: False)
        assert [row.state for row in run_sweep(spec, out)] == ["finished", "finished"]
    assert (sweep_folder(out, "tiny") / "report" / "index.html").is_file()


def test_a_folder_of_another_trial_is_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / cells(sweep())[1].folder
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text('{"key": "of another"}')
    with pytest.raises(InputError, match=r"pong-denoised-seed0-[0-9a-f]{8}: holds another trial"):
        run_sweep(sweep(), tmp_path / "tiny")
    assert not begun(tmp_path / "tiny")


def test_a_store_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".store.json").write_text('{"version": 2}')
    with pytest.raises(InputError, match=r"is a store of version 2 \(allowed: 1; choose another with --out\)"):
        run_sweep(sweep(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".store.json"]


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        run_sweep(sweep(), tmp_path / "file" / "tiny")


@pytest.mark.parametrize("address", ["ray://somewhere:10001", "http://somewhere:8265"])
def test_an_address_that_a_driver_cannot_use_is_refused_with_what_to_use(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=f"{address} of Ray: .*tensorrl submit"):
        run_sweep(sweep(), tmp_path / "tiny", address=address)
    assert not (tmp_path / "tiny").exists()


def finish(out: Path, spec: SweepSpec, folder: str | None = None) -> None:
    """Finishes the cells of a sweep in this process."""
    import small_trials

    for cell in cells(spec):
        small_trials.run(cell.on("cpu").trial, out / (folder or cell.folder), resume=True)


def test_a_second_driver_waits_for_the_first_and_goes_on_when_it_ends(tmp_path: Path) -> None:
    out, said, seen = tmp_path / "tiny", [], []
    finish(out, sweep())
    folder = sweep_folder(out, "tiny")
    folder.mkdir(parents=True)
    with ExitStack() as first:
        first.enter_context(file_lock(folder / "driver.lock"))

        def update(rows: list[CellStatus]) -> None:
            seen.append(rows)
            first.close()

        rows = run_sweep(sweep(), out, on_update=update, say=said.append)
    assert [row.state for row in rows] == ["finished", "finished"]
    assert len(seen) >= 2
    (line,) = said
    assert "another process runs it" in line


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("ends", ["finished", "dead"])
def test_a_cell_that_another_driver_runs_is_waited_for_and_taken_over_if_that_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    import small_trials

    out = tmp_path / "tiny"
    theirs = cells(sweep())[0].on("cpu")
    lock = lock_file(out, theirs.key)
    lock.parent.mkdir(parents=True)
    with ExitStack() as other:
        other.enter_context(file_lock(lock))

        def update(rows: list[CellStatus]) -> None:
            # Ours is done, theirs was found busy.
            if rows[1].state == "finished" and rows[0].state == "waiting" and not (out / "over").exists():
                (out / "over").touch()
                if ends == "finished":
                    small_trials.run(theirs.trial, out / theirs.folder, resume=True)
                other.close()

        rows = run_sweep(sweep(), out, on_update=update)
    assert [row.state for row in rows] == ["finished", "finished"]
    ran = {name: int(process) for name, process, *_ in begun(out)}
    assert len(begun(out)) == 2
    assert (ran["pong-rainbow-seed0"] == os.getpid()) is (ends == "finished")
    assert ran["pong-denoised-seed0"] != os.getpid()


def test_a_cell_that_another_sweep_made_under_another_name_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "store"
    finish(out, sweep(name="first", variants=["denoised"]))
    rows = run_sweep(sweep(name="second", variants=["rainbow"], settings={"noisy": False}), out)
    assert [(row.variant, row.state) for row in rows] == [("rainbow", "finished")]
    assert rows[0].folder.name.startswith("pong-denoised-seed0-")
    assert len(begun(out)) == 1
    listed = json.loads((sweep_folder(out, "second") / "cells.json").read_text())["cells"]
    assert [(cell["variant"], cell["folder"]) for cell in listed] == [("rainbow", rows[0].folder.name)]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_only_the_cells_asked_for_are_run(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    rows = run_sweep(sweep(seeds=2), out, only="pong-denoised-*")
    assert [cell_name(row) for row in rows] == ["pong-denoised-seed0", "pong-denoised-seed1"]
    assert {name for name, *_ in begun(out)} == {"pong-denoised-seed0", "pong-denoised-seed1"}
    assert [row.state for row in sweep_status(out, "tiny").rows] == ["waiting", "finished"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_no_space_left_is_one_line_and_no_reason_to_try_again(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "full-pong-denoised-seed0").write_text("300\n")
    with pytest.raises(InputError, match=r"tiny: no space left on the device; finished work is kept"):
        run_sweep(sweep(), out, max_concurrent=1)
    assert [row.state for row in sweep_status(out, "tiny").rows] == ["finished", "waiting"]
    assert sweep_status(out, "tiny").driver == "stopped"
    assert len(begun(out)) == 2
    assert [row.state for row in run_sweep(sweep(), out)] == ["finished", "finished"]


def test_what_an_error_says_last_is_kept_without_colours() -> None:
    assert last_lines("one\n\n\x1b[36mtwo\x1b[0m  \nthree\n", 2) == ("two", "three")


def test_a_result_that_never_reached_mlflow_is_sent_when_the_sweep_is_run_again(tmp_path: Path) -> None:
    """A trial killed between its result and the end of its record: it is finished, and so not run again."""
    out = tmp_path / "tiny"
    finish(out, sweep())
    rows = run_sweep(sweep(), out)
    assert [row.state for row in rows] == ["finished", "finished"]
    assert len(begun(out)) == 2
    assert [run.info.status for run in runs_in(out)] == ["FINISHED", "FINISHED"]
