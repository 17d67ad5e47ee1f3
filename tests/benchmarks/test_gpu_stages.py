"""`benchmarks/gpu.sh` runs whole on a CPU in its small form, and keeps what is finished where it is killed."""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
VARIANTS = ("rainbow", "trl-5x", "kfac-trl-10x", "scattering")
STAGES = {
    "machine": {"machine"},
    "tests": {"tests"},
    **{f"trial {name}": {f"trial-{name}"} for name in VARIANTS},
    "profile trl-5x": {"profile"},
    "together trl-5x": {"together-1", "together-2"},
    "together trl-5x --mps": {"together-1-mps", "together-2-mps"},
    "whole trl-5x": {"whole"},
}
"""What each stage writes in the small form, in the order in which they run."""


def environment(**more):
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **more}


def read(out):
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


@pytest.mark.slow
def test_the_small_form_runs_every_stage_on_a_cpu(tmp_path):
    command = [ROOT / "benchmarks/gpu.sh", tmp_path, "--small"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    found = read(tmp_path)
    assert found.keys() == set().union(*STAGES.values())
    assert found["together-2"]["finished"] == 2
    assert found["whole"]["finished"] is True
    assert found["trial-rainbow"]["host_ms"]["learn"] > 0


def begin(out, **more):
    return subprocess.Popen(
        [ROOT / "benchmarks/gpu.sh", out, "--small"], env=environment(**more), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill(run):
    """Kills the script and all of its session: `timeout` puts what it runs into a process group of its own."""
    run.kill()
    for process in psutil.process_iter():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == run.pid:
                process.kill()
    run.wait()


def wait_until(run, true, seconds=600):
    deadline = time.monotonic() + seconds
    while not true():
        assert run.poll() is None, "gpu.sh has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_finished_is_kept_where_it_is_killed(tmp_path):
    run = begin(tmp_path)
    try:
        wait_until(run, (tmp_path / "machine.json").exists)
    finally:
        kill(run)
    assert read(tmp_path)["machine"]["versions"]["torch"]
    assert all(isinstance(figures, dict) for figures in read(tmp_path).values())


SLOW_STAGE = """#!{python}
# Python as gpu.sh calls it, but the stage that the test names writes where it is and waits to be killed.
import os, sys, time
words = [word for word in sys.argv[3:] if word not in ("--out", "--small") and not word.startswith("/")]
if sys.argv[1:3] == ["-m", "benchmarks.gpu"]:
    if " ".join(words) == os.environ["KILLED_IN"]:
        open(os.environ["HELD"], "w").close()
        time.sleep(3600)
    if os.environ["STAGES_DO"] == "nothing":
        names = os.environ[" ".join(words).replace(" ", "_")].split()
        out = sys.argv[sys.argv.index("--out") + 1]
        for name in names:
            with open(os.path.join(out, name + ".json"), "w") as file:
                file.write('{{"stage": "%s"}}' % name)
        sys.exit()
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.mark.parametrize("killed_in", STAGES)
def test_killed_in_any_stage_the_script_leaves_what_the_stages_before_have_written(killed_in, tmp_path):
    """The script's own order and limits; the stages themselves write their names only, so that all ten can be tried."""
    held_in(killed_in, tmp_path, stages_do="nothing")
    before = list(STAGES)[: list(STAGES).index(killed_in)]
    assert read(tmp_path / "out").keys() == set().union(*(STAGES[stage] for stage in before))


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["trial trl-5x", "profile trl-5x", "whole trl-5x"])
def test_killed_in_a_stage_it_leaves_the_figures_of_the_stages_before(killed_in, tmp_path):
    held_in(killed_in, tmp_path, stages_do="all")
    before = list(STAGES)[: list(STAGES).index(killed_in)]
    found = read(tmp_path / "out")
    assert found.keys() == set().union(*(STAGES[stage] for stage in before))
    assert all(figures["device"] == "cpu" and len(figures) > 3 for figures in found.values())


def held_in(stage, tmp_path, *, stages_do):
    """Runs the script until `stage` has begun, and kills all of it there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(SLOW_STAGE.format(python=sys.executable))
    (tools / "python").chmod(0o755)
    written = {name.replace(" ", "_"): " ".join(sorted(files)) for name, files in STAGES.items()}
    path = f"{tools}{os.pathsep}{environment()['PATH']}"
    held = tmp_path / "held"
    run = begin(tmp_path / "out", PATH=path, KILLED_IN=stage, HELD=str(held), STAGES_DO=stages_do, **written)
    try:
        wait_until(run, held.exists)
    finally:
        kill(run)


def test_trials_that_do_not_end_in_time_are_ended_and_said(monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE", 0.5)
    options = argparse.Namespace(variant="trl-5x", small=True, device="cpu")
    assert gpu.at_once(options, 2) == {"trials": 2, "finished": 0}
    assert not [child for child in psutil.Process().children() if "benchmarks.gpu" in child.cmdline()]


def test_the_stages_need_neither_ray_nor_mlflow_nor_what_makes_films():
    others = ("ray", "mlflow", "PIL", "imageio", "imageio_ffmpeg", "onnx", "typer")
    code = f"import sys, benchmarks.gpu; print([m for m in {others} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
