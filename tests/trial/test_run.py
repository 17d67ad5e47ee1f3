import json
from datetime import UTC, datetime, timedelta

import pytest

from tensorrl.errors import InputError
from tensorrl.trial.folder import read_progress
from tensorrl.trial.run import Interrupted, TrialSpec, make_spec, run_trial

QUICK = {"learning_starts": 100, "epsilon_decay": 50, "final_episodes": 1, "evaluation_epsilon": 1.0}


def spec(**changes):
    fields = {
        "game": "road_runner", "variant": "denoised", "steps": 300, "overrides": QUICK, "threads": 1, "device": "cpu",
        "checkpoint_every": 60,
    }  # fmt: skip
    return TrialSpec(**{**fields, **changes})


def figures(path):
    timings = {"steps_per_second", "training_seconds"}
    return [{k: v for k, v in line.items() if k not in timings} for line in read_progress(path)]


class Kill(BaseException):
    """Stands for a kill: nothing handles it."""


def stop_at(step):
    def on_report(report):
        if report.get("agent_steps", 0) >= step:
            raise Kill

    return on_report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run_trial(spec(), out)


def test_result_and_progress_say_what_a_reader_needs(whole):
    out, result = whole
    assert result == json.loads((out / "result.json").read_text())
    assert result["score"] == pytest.approx(sum(result["score_episodes"]) / 9)
    assert len(result["score_episodes"]) == 9
    assert result["human_normalized"] == pytest.approx((result["score"] - 11.5) / (7845.0 - 11.5))
    assert result["updates"] == 200
    assert 0 < result["evaluation_seconds"] < 600
    assert 0 < result["processor_seconds"] < 3_600
    assert datetime.now(UTC) - datetime.fromisoformat(result["finished_at"]) < timedelta(hours=1)
    assert result["settings"]["noisy"] is False
    lines = read_progress(out)
    assert [line["agent_steps"] for line in lines] == list(range(15, 301, 15))
    assert [line["agent_steps"] for line in lines if "evaluation_return" in line] == [240, 270, 300]
    assert lines[-1]["beta"] == pytest.approx(1.0)
    assert lines[0]["frames"] == 60


def test_a_killed_trial_goes_on_to_the_same_bits_and_figures(tmp_path, whole):
    out = tmp_path / "run"
    # Before there is a checkpoint; after two; in the last steps.
    for step in (20, 135, 299):
        with pytest.raises(Kill):
            run_trial(spec(), out, resume=True, on_report=stop_at(step))
    result = run_trial(spec(), out, resume=True)
    assert result["parameters_sha256"] == whole[1]["parameters_sha256"]
    assert result["score_episodes"] == whole[1]["score_episodes"]
    assert result["final_episodes"] == whole[1]["final_episodes"]
    assert figures(out) == figures(whole[0])


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken_and_a_torn_line_is_written_again(tmp_path, whole):
    out, said = tmp_path / "run", []
    with pytest.raises(Kill):
        run_trial(spec(), out, on_report=stop_at(195))
    newest = sorted((out / "checkpoints").glob("0*"))[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 1
    newest.write_bytes(data)
    with (out / "progress.jsonl").open("a") as file:
        file.write('{"agent_steps": 2')

    def on_report(report):
        said.append(report)
        stop_at(225)(report)

    with pytest.raises(Kill):
        run_trial(spec(), out, resume=True, on_report=on_report)
    messages = [report["message"] for report in said if "message" in report]
    assert "damaged" in messages[0]
    assert "at 120 agent steps" in messages[1]
    assert figures(out) == figures(whole[0])[:15]


def test_another_seed_gives_other_figures(tmp_path, whole):
    with pytest.raises(Kill):
        run_trial(spec(seed=1), tmp_path / "run", on_report=stop_at(120))
    other, same = figures(tmp_path / "run"), figures(whole[0])[:8]
    assert [line["agent_steps"] for line in other] == [line["agent_steps"] for line in same]
    assert other[-1]["loss"] != same[-1]["loss"]


def test_a_finished_trial_is_not_run_again(whole):
    assert run_trial(spec(), whole[0], resume=True) == whole[1]


def test_an_interrupt_checkpoints_and_can_be_resumed(tmp_path, whole):
    import os
    import signal

    def interrupt(report):
        if report.get("agent_steps") == 90:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run_trial(spec(), tmp_path / "run", on_report=interrupt)
    with pytest.raises(Kill):
        run_trial(spec(), tmp_path / "run", resume=True, on_report=stop_at(180))
    assert figures(tmp_path / "run") == figures(whole[0])[:12]


def test_folders_of_others_are_refused(tmp_path, whole):
    with pytest.raises(InputError, match="holds another run"):
        run_trial(spec(seed=5), whole[0], resume=True)
    with pytest.raises(InputError, match="--resume"):
        run_trial(spec(), whole[0])
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        run_trial(spec(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match="cannot be used"):
        run_trial(spec(), tmp_path / "letter.txt" / "run")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Kill):
        run_trial(spec(), out, on_report=stop_at(75))
    other = tmp_path / "other"
    with pytest.raises(Kill):
        run_trial(spec(variant="trl-10x"), other, on_report=stop_at(75))
    import shutil

    shutil.rmtree(out / "checkpoints")
    shutil.copytree(other / "checkpoints", out / "checkpoints")
    with pytest.raises(InputError, match="a different network"):
        run_trial(spec(), out, resume=True)


def test_a_checkpoint_with_more_transitions_than_replay_has_room_for_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(Kill):
        run_trial(spec(), out, on_report=stop_at(75))
    monkeypatch.setattr("tensorrl.trial.training.replay_slots", lambda settings, steps: 50)
    with pytest.raises(InputError, match=r"cannot continue it .*does not fit 50 slots.*; start a new run"):
        run_trial(spec(), out, resume=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("game", "pnog", "pong"),
        ("variant", "rainbw", "rainbow"),
        ("steps", 0, "a whole number from 1 to 100,000,000"),
        ("seed", -1, "a whole number from 0 to 2,147,483,647"),
        ("device", "tpu", "cpu"),
        ("overrides", {"learning_rat": 1}, "learning_rate"),
        ("overrides", {"n_step": 0}, "n_step"),
        ("overrides", {"compression": 5}, "factorization"),
        ("overrides", {"factorization": "tucker", "coefficients": 10}, "54,?496"),
    ],
)
def test_bad_descriptions_say_what_is_allowed(field, value, message):
    with pytest.raises(InputError, match=message) as caught:
        make_spec(**{"game": "pong", "variant": "denoised", field: value})
    assert "\n" not in str(caught.value)


def test_the_key_names_what_determines_the_result():
    base = spec()
    assert spec(checkpoint_every=7, threads=2).key == base.key
    assert spec(overrides={**QUICK, "n_step": 20}).key == base.key
    for other in (spec(seed=1), spec(steps=301), spec(game="pong"), spec(variant="rainbow"), spec(overrides={})):
        assert other.key != base.key
