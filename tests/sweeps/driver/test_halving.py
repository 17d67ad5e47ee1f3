"""A sweep with a scheduler, on Tune for real: who is stopped, what it leaves, and what becomes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import HERE, begun, runs_in

from tensorrl.errors import InputError
from tensorrl.sweeps import SweepSpec, run_sweep, sweep_status
from tensorrl.sweeps.driver import worker
from tensorrl.sweeps.store.layout import TUNE_FOLDER, sweep_folder
from tensorrl.trial.folder import read_progress

HALVING = {"name": "asha", "grace_period": 200, "reduction": 2}


def sweep(**changes: Any) -> SweepSpec:
    """Two games of three seeds each; `small_trials` scores minus the seed."""
    fields = {"name": "tiny", "games": ["pong", "boxing"], "variants": ["denoised"], "seeds": 3, "steps": 500}
    return SweepSpec.model_validate({**fields, "scheduler": HALVING, "max_concurrent": 1, **changes})


@pytest.fixture(autouse=True)
def _small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TRIAL_FUNCTION", "small_trials:run")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_the_worse_of_a_game_are_stopped_marked_and_let_end_by_a_sweep_without_a_scheduler(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    rows = run_sweep(sweep(), out)
    # One after the other: the second seed is worse than the first at 200 agent steps, and so is the third.
    assert {(row.game, row.seed, row.state, row.agent_steps) for row in rows} == {
        (game, seed, "finished" if seed == 0 else "stopped", 500 if seed == 0 else 200)
        for game in ("pong", "boxing")
        for seed in (0, 1, 2)
    }
    for row in rows:
        mark = row.folder / "stopped.json"
        assert mark.exists() == (row.state == "stopped")
        if mark.exists():
            assert json.loads(mark.read_text())["agent_steps"] == 200
    assert sweep_status(out, "tiny").count("stopped") == 4
    states = {run.info.run_name.rpartition("-")[0]: run for run in runs_in(out)}
    assert states["pong-denoised-seed0"].info.status == "FINISHED"
    assert states["pong-denoised-seed1"].info.status == "KILLED"
    assert states["pong-denoised-seed1"].data.tags["tensorrl.stopped"] == "yes"
    report = (sweep_folder(out, "tiny") / "report" / "index.html").read_text()
    assert "4 stopped of 6 cells" in report

    # The same again runs nothing: they are done with.
    assert [row.state for row in run_sweep(sweep(), out)] == [row.state for row in rows]
    assert len(begun(out)) == 6
    # Without the scheduler they end.
    assert {row.state for row in run_sweep(sweep(scheduler=None), out)} == {"finished"}
    assert not list(out.glob("*/stopped.json"))


@pytest.mark.usefixtures("ray")
def test_tune_hears_every_report_of_a_cell(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    (row,) = run_sweep(sweep(games=["pong"], seeds=1, scheduler=None), out)
    (told,) = (sweep_folder(out, "tiny") / TUNE_FOLDER).glob("*/*/result.json")
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    reported = read_progress(row.folder)
    assert [line["agent_steps"] for line in lines[: len(reported)]] == [line["agent_steps"] for line in reported]
    assert [line["loss"] for line in lines[: len(reported)]] == [line["loss"] for line in reported]
    assert {"frames", "episode_return", "steps_per_second", "score"} <= lines[0].keys()
    assert lines[-1]["outcome"] == "done"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hyperband", "asha"),
        ({"name": "asha", "metric": "reward"}, "episode_return"),
        ({"name": "asha", "grace_period": 501}, "1 to steps=500"),
        ({"name": "asha", "reduction": 1}, "reduction"),
        ({"name": "asha", "grace": 5}, "grace"),
    ],
)
def test_a_scheduler_that_cannot_be_is_refused(given: Any, message: str) -> None:
    with pytest.raises((InputError, ValueError), match=message):
        sweep(scheduler=given)


def test_the_short_form_is_asha_and_the_default_is_none() -> None:
    chosen = sweep(scheduler="asha").scheduler
    assert chosen is not None
    assert (chosen.name, chosen.metric, chosen.grace_period, chosen.reduction) == ("asha", "episode_return", None, 4)
    assert sweep(scheduler=None).scheduler is None
