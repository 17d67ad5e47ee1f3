"""`benchmarks/gpu.sh` runs whole on a CPU in its small form, and keeps what is finished where it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def read(out):
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


@pytest.mark.slow
def test_the_small_form_runs_every_stage_on_a_cpu(tmp_path):
    command = [ROOT / "benchmarks/gpu.sh", tmp_path, "--small"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    found = read(tmp_path)
    variants = {f"trial-{name}" for name in ("rainbow", "trl-5x", "kfac-trl-10x", "scattering")}
    assert found.keys() == {"machine", "tests", *variants, "profile", "whole"} | {
        f"together-{count}{kind}" for count in (1, 2) for kind in ("", "-mps")
    }
    assert found["together-2"]["finished"] == 2
    assert found["whole"]["finished"] is True
    assert found["trial-rainbow"]["host_ms"]["learn"] > 0


def test_what_is_finished_is_kept_where_it_is_killed(tmp_path):
    run = subprocess.Popen(
        [ROOT / "benchmarks/gpu.sh", tmp_path, "--small"], env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "machine.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert read(tmp_path)["machine"]["versions"]["torch"]
    assert all(isinstance(figures, dict) for figures in read(tmp_path).values())


def test_the_stages_need_neither_ray_nor_mlflow():
    code = "import sys, benchmarks.gpu; print([m for m in ('ray', 'mlflow') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
