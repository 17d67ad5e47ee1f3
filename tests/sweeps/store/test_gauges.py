"""A sweep's figures are served by Ray, where Prometheus asks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# In a process of its own: Ray is started with a port for its metrics, which it cannot be given later.
PROGRAM = """
import json, socket, sys, time, urllib.request
from pathlib import Path
import ray
from tensorrl.sweeps.store.gauges import SweepGauges
from tensorrl.trial.cell import Cell, CellStatus

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init("local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, log_to_driver=False,
         object_store_memory=100 * 2**20)
def cell(state, speed):
    cell = Cell("key", "x", "pong", "denoised", 0, 1000)
    return CellStatus(cell, Path("x"), state, figures={"steps_per_second": speed})
gauges = SweepGauges("nightly")
rows = [cell("running", 40.0), cell("running", 2.5), cell("waiting", 7.0), cell("failed", 9.0)]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = time.monotonic() + 300
found = []
while len(found) < 7 and time.monotonic() < deadline:
    gauges.show(rows)
    time.sleep(1)
    try:
        text = opener.open(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=10).read().decode()
    except OSError:
        continue
    found = [line for line in text.splitlines() if line.startswith("ray_tensorrl_sweep_")]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_prometheus_finds_the_cells_and_the_speed_of_a_sweep() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert ran.returncode == 0, ran.stderr
    lines = json.loads(ran.stdout.splitlines()[-1])
    cells = {line.partition('state="')[2].partition('"')[0]: line for line in lines if "sweep_cells" in line}
    assert {state: float(line.split()[-1]) for state, line in cells.items()} == {
        "running": 2.0, "waiting": 1.0, "failed": 1.0, "finished": 0.0, "unfinished": 0.0, "damaged": 0.0,
    }  # fmt: skip
    speeds = [line for line in lines if "steps_per_second" in line]
    assert [float(line.split()[-1]) for line in speeds] == [42.5]
    assert all('sweep="nightly"' in line for line in lines)
