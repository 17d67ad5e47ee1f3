"""`tensorrl diagnose`: what single updates of a run do, beside Adam and on other states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tensorrl.cli.app import app
from tensorrl.errors import InputError
from tensorrl.trial.diagnosis import diagnose
from tensorrl.trial.run import run_trial
from tensorrl.trial.spec import make_spec

_SHORT = {"hidden": 16, "learning_starts": 100, "final_episodes": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "adam"
    spec = make_spec(game="pong", variant="denoised", seed=1, steps=220, overrides={**_SHORT, "learning_rate": 3e-4})
    run_trial(spec.model_copy(update={"threads": 1, "device": "cpu"}), out)
    return out


def test_adam_s_own_steps_are_as_long_as_adam_s_and_predictions_move(run: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    found = diagnose(run, updates=60, threads=1)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    assert found["updates"] == 120
    # Its rate is 3e-4, and its moments are older than those that the probe makes of the last updates.
    lengths = found["steps"]["length_over_adams"]
    assert set(lengths) == {name for name, _ in _names(run)}
    assert all(0.3 < value / 3 < 3 for value in lengths.values())
    assert 0 < found["steps"]["kl_others"] < 1
    assert 0 < found["steps"]["kl_batch"] < 1
    assert 0 <= found["steps"]["churn"] <= 1
    assert found["figures"]["loss_unweighted"] > 0
    assert diagnose(run, updates=10, threads=1) == diagnose(run, updates=10, threads=1)


def _names(run: Path) -> list[tuple[str, torch.nn.Parameter]]:
    from tensorrl.trial.playback import load_network

    return list(load_network(run)[0].named_parameters())


def test_the_command_prints_json_and_refuses_what_is_no_run(run: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["diagnose", str(run), "--updates", "10", "--threads", "1", "--json"])
    assert shown.exit_code == 0
    assert {"figures", "steps", "updates"} <= json.loads(shown.stdout).keys()
    with pytest.raises(InputError, match="no checkpoint"):
        diagnose(tmp_path)
    with pytest.raises(InputError, match="at least 5"):
        diagnose(run, updates=4)


def test_figures_of_k_fac_are_those_of_a_step_that_was_measured(tmp_path: Path) -> None:
    overrides = {**_SHORT, "optimizer": "kfac", "learning_rate": 0.003}
    spec = make_spec(game="pong", variant="denoised", seed=1, steps=220, overrides=overrides)
    run_trial(spec.model_copy(update={"threads": 1, "device": "cpu"}), tmp_path / "kfac")
    figures = diagnose(tmp_path / "kfac", updates=10, threads=1)["figures"]
    # A restored optimizer has made no step, and would have neither.
    assert 0 < figures["kfac_step_scale"] <= 1
    assert 0 < figures["kfac_step_divergence"] < 1
    assert figures["kfac_directions"] > 0
