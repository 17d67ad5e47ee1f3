"""What a cell costs its driver, Ray and MLflow, whatever it trains: a sweep of cells that do nothing.

    python -m benchmarks.scaling --cells 1000 --json runs/benchmarks/scaling.json

The sweep is run as `tensorrl sweep` runs it: the real driver, Ray Tune with a process for each cell, the folders of
the store, and the MLflow record, sent to a real `mlflow server` through a proxy that counts its requests and bytes.
Only the training is left out: a cell writes the files of a trial (`--lines` reports, 100 as a real one of 100k agent
steps) and ends. This module loads nothing heavy by itself, because each cell's process loads it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from tensorrl.trial.run import Record
    from tensorrl.trial.spec import TrialSpec

LINES = 100
_REQUEST = re.compile(rb"^(?:GET|POST|PATCH|PUT|DELETE) \S+ HTTP/1\.1\r$", re.MULTILINE)
_SERVER_SECONDS = 300.0


def no_op(
    spec: TrialSpec,
    out: Path,
    *,
    resume: bool,
    record: Callable[[Path], Record] | None = None,
    on_report: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Takes the place of `tensorrl.trial.run.run_trial`: leaves the files of a finished trial, and trains nothing."""
    out.mkdir(parents=True, exist_ok=True)
    trial = {"key": spec.key, "game": spec.game, "variant": spec.variant, "seed": spec.seed, "steps": spec.steps}
    trial |= {"settings": spec.settings.model_dump(mode="json"), "coefficients": 441_669, "compression_ratio": 1.88}
    (out / "trial.json").write_text(json.dumps(trial))
    keeper = record(out) if record is not None else None
    every = spec.steps // int(os.environ["TENSORRL_SCALING_LINES"])
    report = {"loss": 1.0, "return": -21.0, "steps_per_second": 100.0, "epsilon": 0.01, "beta": 0.5, "updates": 1}
    with (out / "progress.jsonl").open("w") as lines:
        for step in range(every, spec.steps + 1, every):
            lines.write(json.dumps({"agent_steps": step, "time": time.time(), **report}) + "\n")
    if keeper is not None:
        keeper.poke()
    result = trial | {"score": -21.0, "final_score": -21.0, "human_normalized": 0.0, "parameters_sha256": "0" * 64}
    (out / "result.json").write_text(json.dumps(result))
    return result


class CountingProxy(socketserver.ThreadingTCPServer):
    """Passes connections on to a server, and counts the requests and bytes that go through.

    Args:
        port: the server's, on loopback.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.behind = port
        self.requests = self.sent = self.received = 0
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self.server_address[1])

    def count(self, *, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        """Adds to the counts."""
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received


class _Passage(socketserver.BaseRequestHandler):
    server: CountingProxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.behind)) as behind:
            back = threading.Thread(target=self._pass, args=(behind, self.request, False), daemon=True)
            back.start()
            self._pass(self.request, behind, True)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if outward:
                    self.server.count(requests=len(_REQUEST.findall(data)), sent=len(data))
                else:
                    self.server.count(received=len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[CountingProxy]:
    """Runs a real MLflow server on an SQLite file, behind a proxy that counts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # fmt: off
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]
    # fmt: on
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    proxy = CountingProxy(port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield proxy
    finally:
        proxy.shutdown()
        os.killpg(server.pid, 15)
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SERVER_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@dataclass
class Cost:
    """What a sweep took.

    Attributes:
        cells: how many were finished.
        seconds: wall time.
        driver_seconds: processor time of the driver's process.
        gcs_seconds: of Ray's GCS.
        gcs_calls: requests that the GCS was sent, by its own count.
        raylet_seconds: of Ray's raylet.
        mlflow_requests: HTTP requests to MLflow.
        mlflow_sent: bytes of them.
        mlflow_received: bytes of its answers.
        driver_memory: the driver's largest resident set, bytes.
        store_files: files in the store at the end, Tune's included.
        store_bytes: their size.
        tune_bytes: of those, Tune's.
    """

    cells: int
    seconds: float
    driver_seconds: float
    gcs_seconds: float
    gcs_calls: int
    raylet_seconds: float
    mlflow_requests: int
    mlflow_sent: int
    mlflow_received: int
    driver_memory: int
    store_files: int
    store_bytes: int
    tune_bytes: int


def gcs_calls(text: str) -> int:
    """Returns the requests that a GCS was sent, by its own count.

    Args:
        text: its log (`gcs_server.out`), where each of its event loops prints its counts so far, every so often.
    """
    counts: dict[str, int] = {}
    for method, count in re.findall(r"^\s*(\w+\.grpc_server\.\w+) - (\d+) total", text, re.MULTILINE):
        counts[method] = max(counts.get(method, 0), int(count))
    return sum(counts.values())


class _Meter:
    """Reads the processor time of Ray's processes while they live."""

    def __init__(self) -> None:
        self.seconds = {"gcs_server": 0.0, "raylet": 0.0}
        self.calls = 0

    def read(self, _rows: object = None) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                name, times = process.name(), process.cpu_times()
                if name == "gcs_server":
                    self.calls = max(self.calls, gcs_calls(_log_of(process)))
            except (psutil.Error, OSError):
                continue
            if name in self.seconds:
                self.seconds[name] = times.user + times.system


def _log_of(process: psutil.Process) -> str:
    session = next(a.partition("=")[2] for a in process.cmdline() if a.startswith("--log_dir="))
    return (Path(session) / "gcs_server.out").read_text(errors="replace")


def measure(cells: int, *, concurrent: int, lines: int, folder: Path) -> Cost:
    """Runs a sweep of cells that do nothing, and returns what it took.

    Args:
        cells: how many.
        concurrent: at once.
        lines: reports of each.
        folder: for everything; its store is `folder/store`.
    """
    from tensorrl import system
    from tensorrl.sweeps import load_sweep, run_sweep
    from tensorrl.sweeps.driver import worker

    os.environ |= {"TENSORRL_SCALING_LINES": str(lines), "RAY_event_stats_print_interval_ms": "5000"}
    worker.TRIAL_FUNCTION = "benchmarks.scaling:no_op"
    sweep = folder / "scaling.yaml"
    sweep.write_text(
        f"name: scaling\ngames: [pong]\nvariants: [denoised]\nseeds: {cells}\nmax_concurrent: {concurrent}\n"
    )
    meter = _Meter()
    with mlflow_server(folder) as proxy:
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{proxy.port}"
        begun, spent = time.monotonic(), time.process_time()
        rows = run_sweep(load_sweep(sweep), folder / "store", on_update=meter.read)
        seconds, driver = time.monotonic() - begun, time.process_time() - spent
    sizes = {path: path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file()}
    return Cost(
        cells=sum(row.state == "finished" for row in rows),
        seconds=seconds,
        driver_seconds=driver,
        gcs_seconds=meter.seconds["gcs_server"],
        gcs_calls=meter.calls,
        raylet_seconds=meter.seconds["raylet"],
        mlflow_requests=proxy.requests,
        mlflow_sent=proxy.sent,
        mlflow_received=proxy.received,
        driver_memory=system.peak_memory_bytes(),
        store_files=len(sizes),
        store_bytes=sum(sizes.values()),
        tune_bytes=sum(size for path, size in sizes.items() if "tune" in path.parts),
    )


def driver_costs(cells: int, folder: Path) -> dict[str, float]:
    """Returns the processor time of a driver's own work for a sweep of that many cells, in seconds.

    Args:
        cells: how many.
        folder: for its store, which is left empty.

    Returns:
        `grid`: reading and checking the sweep file and making its cells. `open`: looking for all of them in the store.
        `write`: the sweep's own files. `turn`: what each turn of Tune's loop tells the board. `show`: what is done
        once a second.
    """
    from tensorrl.sweeps import cells as make_cells
    from tensorrl.sweeps import load_sweep
    from tensorrl.sweeps.store.board import Board
    from tensorrl.sweeps.store.layout import locate, open_store, write_sweep

    sweep = folder / "scaling.yaml"
    sweep.write_text(f"name: scaling\ngames: [pong]\nvariants: [denoised]\nseeds: {cells}\n")
    times = [time.process_time()]
    spec = load_sweep(sweep)
    grid = make_cells(spec)
    times.append(time.process_time())
    store = folder / "store"
    open_store(store)
    listed = locate(store, grid)
    board = Board(listed, store, folder / "state.json", None)
    times.append(time.process_time())
    write_sweep(store, spec, listed)
    times.append(time.process_time())
    for place in range(cells):
        board.tell(place, "PENDING", failures=0)
    times.append(time.process_time())
    board.show(at_once=True)
    times.append(time.process_time())
    names = ("grid", "open", "write", "turn", "show")
    return {name: after - before for name, before, after in zip(names, times[:-1], times[1:], strict=True)}


def main() -> None:
    """Runs the benchmark and prints its figures, by cell."""
    from tensorrl import system

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--lines", type=int, default=LINES, help="reports of each cell")
    parser.add_argument("--driver", action="store_true", help="only the driver's own work, for 100 to 10,000 cells")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.driver:
        for cells in (100, 1_000, 10_000):
            with tempfile.TemporaryDirectory(prefix="tensorrl-scaling-") as folder:
                costs = driver_costs(cells, Path(folder))
            print(f"{cells:7,} cells: " + ", ".join(f"{name} {1000 * value:,.1f} ms" for name, value in costs.items()))
        return
    with tempfile.TemporaryDirectory(prefix="tensorrl-scaling-") as folder:
        cost = measure(options.cells, concurrent=options.concurrent, lines=options.lines, folder=Path(folder))
    found = {
        "cost": asdict(cost),
        "options": {k: str(v) for k, v in vars(options).items()},
        "machine": system.machine(),
    }
    print(f"{cost.cells} of {options.cells} cells finished in {cost.seconds:.0f} s")
    for name, value in asdict(cost).items():
        if name not in ("cells", "seconds", "driver_memory"):
            print(f"  {name:18} {value:14,.1f}   a cell {value / max(1, cost.cells):12,.4f}")
    print(f"  driver_memory      {cost.driver_memory / 2**20:14,.0f} MiB")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found | {"versions": system.versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
