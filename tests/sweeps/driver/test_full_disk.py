"""A real file system that fills up in the middle of a sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorrl.files import is_full

SWEEPS = Path(__file__).parents[1]
SIZE_SMALL, SIZE_LARGE = "3m", "60m"

DRIVER = """
import json, sys
from pathlib import Path
from tensorrl.errors import InputError
from tensorrl.sweeps import SweepSpec, run_sweep
from tensorrl.sweeps.driver import worker
worker.TRIAL_FUNCTION = "small_trials:run"
spec = SweepSpec.model_validate(
    {"name": "tiny", "games": ["pong"], "variants": ["rainbow"], "seeds": 6, "steps": 500, "max_concurrent": 1}
)
try:
    rows = run_sweep(spec, Path(sys.argv[1]))
except InputError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"states": [row.state for row in rows]}))
"""

SCRIPT = f"""
set -eu
mount -t tmpfs -o size={SIZE_SMALL} none "$1"
echo 800000 > "$1/weight"
"$2" -c "$3" "$1" | tail -n 1
find "$1" -name result.json | wc -l
mount -o remount,size={SIZE_LARGE} "$1"
"$2" -c "$3" "$1" | tail -n 1
cut -d' ' -f1 "$1/begun.txt" | sort | uniq -c | sort -rn | awk '{{print $1}}' | tr '\\n' ' '
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_the_sweep_goes_on_once_there_is_space(tmp_path: Path) -> None:
    """In a mount namespace of its own, where a small tmpfs can be mounted without being root."""
    store = tmp_path / "store"
    store.mkdir()
    path = os.pathsep.join([str(SWEEPS), str(SWEEPS.parents[1])])
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "-", store, sys.executable, DRIVER],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, finished, second, tries = done.stdout.splitlines()
    assert json.loads(first) == {
        "error": f"{store}: no space left on the device; finished work is kept; free some space and run the same "
        "command again"
    }
    assert 0 < int(finished) < 6
    assert json.loads(second) == {"states": ["finished"] * 6}
    # Only the cell that met the full disk was begun twice.
    assert [int(number) for number in tries.split()] == [2, 1, 1, 1, 1, 1]


def test_a_full_disk_is_known_by_its_number_its_words_and_its_causes() -> None:
    assert is_full(OSError(28, "whatever"))
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    caused = ValueError("cannot save")
    caused.__cause__ = OSError(122, "quota")
    assert is_full(caused)
    assert not is_full(OSError(13, "Permission denied"))
    assert not is_full(ValueError("no"))


TRIAL = f"""
set -u
mount -t tmpfs -o size={SIZE_SMALL} none "$1"
train() {{
    "$2" -m tensorrl train --game pong --variant pong-dqn --steps 400 --checkpoint-every 100 --threads 1 \\
        --out "$1/run" --set learning_starts=350 --set final_episodes=1 --set evaluation_epsilon=1.0 --json --resume
}}
train "$@" 2>"$1/../said" >/dev/null
echo $?
tail -n 1 "$1/../said"
find "$1" -name '*.draft*' | wc -l
mount -o remount,size=600m "$1"
train "$@" 2>/dev/null | grep -c parameters_sha256
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_under_a_trial_is_one_line_and_it_goes_on_once_there_is_space(tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", TRIAL, "-", out, sys.executable],
        env=os.environ | {"PYTHONPATH": str(SWEEPS.parents[1]), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "2",
        f"tensorrl: {out}/run: no space left on the device; finished work is kept; free some space and continue with "
        "--resume",
        "0",
        "1",
    ]
    assert "Traceback" not in (tmp_path / "said").read_text()
