import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tensorrl.cli import app

QUICK = [
    "--set", "learning_starts=100", "--set", "epsilon_decay=50", "--set", "final_episodes=1", "--set",
    "evaluation_epsilon=1.0",
]  # fmt: skip


def run(*arguments, code=0, **kwargs):
    """Runs the real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tensorrl", *map(str, arguments)], capture_output=True, text=True, **kwargs
    )
    assert done.returncode == code, done.stderr
    return done


def invoke(*arguments):
    result = CliRunner().invoke(app.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_coefficients_are_the_published_ones():
    for variant, expected in (("rainbow", 828_842), ("denoised", 441_669)):
        row = json.loads(invoke("coefficients", "--game", "pong", "--variant", variant, "--json"))
        assert row["coefficients"] == expected
        assert sum(row["layers"].values()) == expected


def test_all_games_agree_with_the_sizes_by_action_count():
    sizes = {3: (750_200, 402_348), 4: (776_414, 415_455), 6: (828_842, 441_669), 9: (907_484, 480_990),
             18: (1_143_410, 598_953)}  # fmt: skip
    for column, variant in enumerate(("rainbow", "denoised")):
        rows = json.loads(invoke("coefficients", "--all-games", "--variant", variant, "--json"))
        assert len(rows) == 26
        assert {row["actions"] for row in rows} >= set(sizes)
        for row in rows:
            if row["actions"] in sizes:
                assert row["coefficients"] == sizes[row["actions"]][column]


@pytest.mark.parametrize("variant", ["trl-2.5x", "trl-5x", "trl-10x"])
def test_compressed_variants_are_true_to_their_names_on_every_game(variant):
    named = float(variant.removeprefix("trl-").removesuffix("x"))
    for row in json.loads(invoke("coefficients", "--all-games", "--variant", variant, "--json")):
        assert row["compression_ratio"] == pytest.approx(named, rel=0.02)
        assert len(row["ranks"]) == 4


def test_free_settings_change_the_network():
    def count(*pairs):
        sets = [part for pair in pairs for part in ("--set", pair)]
        return json.loads(invoke("coefficients", "--game", "pong", "--variant", "trl-5x", *sets, "--json"))

    assert count("compression=7.5")["compression_ratio"] == pytest.approx(7.5, rel=0.02)
    assert count("coefficients=150000")["coefficients"] == pytest.approx(150_000, rel=0.02)
    assert len(count("factorization=cp")["ranks"]["value_hidden"]) == 1
    assert count("ranks.value_hidden=[16,3,3,24]")["ranks"]["value_hidden"] == [16, 3, 3, 24]


def test_listings_name_every_game_and_variant():
    assert len(json.loads(invoke("games", "--json"))) == 26
    variants = {row["name"]: row for row in json.loads(invoke("variants", "--json"))}
    assert {"rainbow", "denoised", "trl-2.5x", "kfac-trl-10x", "scattering", "pong-dqn"} <= set(variants)
    assert "learning_rate" in invoke("settings")
    assert "pong" in invoke("games")


def test_settings_say_what_is_allowed():
    rows = {row["name"]: row for row in json.loads(invoke("settings", "--json"))}
    assert (rows["hidden"]["minimum"], rows["hidden"]["maximum"]) == (1, 4096)
    assert rows["optimizer"]["choices"] == ["adam", "kfac"]
    assert rows["kfac_momentum"]["open_above"] is True
    assert all("choices" in row or {"minimum", "maximum"} <= row.keys() for row in rows.values())
    assert "a whole number from 1 to 4,096" in invoke("settings")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["coefficients", "--game", "pong", "--variant", "trl-5x", "--set", "hidden=100000"],
            ["hidden=100000", "4,096"],
        ),
        (["train", "--game", "pong", "--set", "v_max=1e308", "--out", "x"], ["v_max", "1,000,000"]),
        (["train", "--game", "pong", "--set", "v_max=1e-320", "--out", "x"], ["v_max", "0.001"]),
        (["train", "--game", "pong", "--set", "batch_size=100000", "--out", "x"], ["batch_size=100000", "2,048"]),
        (["train", "--game", "pong", "--set", "hidden=" + "[" * 3000, "--out", "x"], ["--set 'hidden=[[[", "nested"]),
        (["train", "--game", "pong", "--seed", "-1", "--out", "x"], ["--seed -1", "2,147,483,647"]),
        (["train", "--game", "pnog", "--out", "x"], ["unknown game 'pnog'", "'pong'"]),
        (["train", "--game", "pong", "--variant", "rainbo", "--out", "x"], ["rainbo", "'rainbow'"]),
        (["train", "--game", "pong", "--steps", "0", "--out", "x"], ["--steps 0"]),
        (["train", "--game", "pong", "--set", "learning_rat=1", "--out", "x"], ["learning_rat", "'learning_rate'"]),
        (["train", "--game", "pong", "--set", "batch_size=many", "--out", "x"], ["batch_size", "many"]),
        (["train", "--game", "pong", "--set", "batch_size", "--out", "x"], ["KEY=VALUE"]),
        (["train", "--game", "pong", "--out", "/proc/x"], ["/proc/x", "cannot be used"]),
        (["evaluate", "nowhere", "--episodes", "1"], ["nowhere", "no checkpoint"]),
        (["coefficients"], ["--game", "--all-games"]),
        (["sweep", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tensorrl", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


def test_light_commands_load_no_torch_and_no_ray():
    code = (
        "import sys\nfrom tensorrl.cli import app\nfrom typer.testing import CliRunner\n"
        "for a in (['games'], ['variants'], ['coefficients', '--game', 'pong'], ['--help']):\n"
        "    assert CliRunner().invoke(app.app, a).exit_code == 0\n"
        "assert not {'torch', 'ray', 'mlflow', 'ale_py'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    done = run("train", "--game", "road_runner", "--variant", "denoised", "--steps", 200, *QUICK, "--out", out,
               "--threads", 1, "--json")  # fmt: skip
    return out, json.loads(done.stdout), done.stderr


def test_train_leaves_a_whole_record(trained):
    from mlflow import MlflowClient

    out, result, progress = trained
    assert json.loads((out / "result.json").read_text()) == result
    assert "200 of 200 agent steps" in progress
    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"]
    data = runs[0].data
    assert data.params["game"] == "road_runner"
    assert data.params["compression_ratio"].startswith("1.9")
    assert data.metrics["compression_ratio"] == pytest.approx(result["compression_ratio"])
    assert data.metrics["score"] == result["score"]
    history = client.get_metric_history(runs[0].info.run_id, "updates")
    assert sorted(point.step for point in history) == list(range(10, 201, 10))
    (model,) = client.search_logged_models([runs[0].info.experiment_id])
    assert (model.status, model.name, model.source_run_id) == ("READY", "run", runs[0].info.run_id)
    assert data.tags["tensorrl.model"] == model.model_id
    assert {metric.key: metric.value for metric in model.metrics}["score"] == result["score"]


def test_evaluate_plays_and_films(trained, tmp_path):
    from imageio_ffmpeg import read_frames

    video = tmp_path / "game.mp4"
    done = run("evaluate", trained[0], "--episodes", 1, "--video", video, "--json", "--threads", 1)
    result = json.loads(done.stdout)
    assert result["agent_steps"] == 200
    assert len(result["episodes"]) == 1
    assert video.stat().st_size > 1_000
    filmed = next(read_frames(str(video)))
    assert (filmed["size"], filmed["fps"]) == ((320, 210), 15)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rainbow", "trl-10x"])
def test_a_trial_killed_again_and_again_is_the_trial_left_alone(tmp_path, variant):
    """SIGKILL at random moments: the same bits, the same figures, one MLflow run with every step once."""
    import random

    from mlflow import MlflowClient

    from tensorrl.trial.folder import read_progress

    arguments = ["train", "--game", "pong", "--variant", variant, "--seed", 0, "--steps", 2_400, "--device", "cpu",
                 "--threads", 1, "--checkpoint-every", 150, "--json", "--resume"]  # fmt: skip
    alone = json.loads(run(*arguments, "--out", tmp_path / "alone" / "run").stdout)
    out, clock = tmp_path / "killed" / "run", random.Random(0)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorrl", *map(str, arguments), "--out", str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            text, _ = process.communicate(timeout=clock.uniform(6, 14) if kills < 6 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills >= 3
    assert json.loads(text)["parameters_sha256"] == alone["parameters_sha256"]

    def figures(folder):
        lines = read_progress(folder)
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]

    assert figures(out) == figures(tmp_path / "alone" / "run")
    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    (only,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert only.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(only.info.run_id, "updates")]
    assert sorted(steps) == [line["agent_steps"] for line in read_progress(out)]
