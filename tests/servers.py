"""Real servers for tests: MLflow's, PostgreSQL, and a proxy that can be told to fail."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.cluster.laboratory.services import database_programs, database_user

PATIENCE = 300.0


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own, which is killed when this process ends, however it ends.

    A shell leads the group. It reads a pipe from this process, which the system closes.

    Args:
        command: the program and its arguments.
        options: of `subprocess.Popen`, but not `stdin`.

    Returns:
        The shell. It ends when the command ends.
    """
    guard = '("$@"; kill -KILL 0) & read -r _; kill -KILL 0'
    words = ["sh", "-c", guard, "sh", *command]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True, **options)


@contextmanager
def mlflow_server(port: int, folder: Path, backend: str | None = None, password: str | None = None) -> Iterator[None]:
    """An MLflow server, on an SQLite file in `folder` where no other backend is given; killed at the end.

    With a password it lets only the user `admin` in.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend or f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder)]
    # As in the image: its runner of jobs, which nothing here uses, is eight more processes that take a core to start.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        env.pop(name, None)
    if password is not None:
        command += ["--app-name", "basic-auth"]
        env |= {"MLFLOW_AUTH_ADMIN_PASSWORD": password, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-a-test"}
    with (folder / "server.log").open("ab") as log:
        process = started(command, stdout=log, stderr=log, cwd=folder, env=env)
    try:
        import requests

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok:
                    break
            except requests.RequestException:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()[-2_000:]
                assert process.poll() is None, (folder / "server.log").read_text()[-2_000:]
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server of its own on loopback; gives the SQLAlchemy URI of an empty database."""
    # Outside pytest's folders, which PostgreSQL's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="tensorrl-postgres-"))
    user, as_user = database_user(), list[str]()
    if os.getuid() == 0:
        shutil.chown(folder, user)
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    programs, data, port = database_programs(), folder / "data", free_port()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    made = [*as_user, programs / "initdb", "-D", data, "-U", "mlflow", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(made, check=True, **quiet)
    run = [*as_user, programs / "postgres", "-D", data, "-k", folder, "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen([*run, "-c", "fsync=off"], start_new_session=True, **quiet)
    try:
        deadline = time.monotonic() + PATIENCE
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False, **quiet).returncode:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            assert process.poll() is None, "PostgreSQL ended"
            time.sleep(0.2)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(folder)


class Proxy:
    """An HTTP proxy in front of one server, which passes requests on, answers 500, or hangs up without an answer.

    Args:
        port: of the server behind it.

    Attributes:
        mode: what it does with requests from now on.
        answered: how many requests it met in each mode.
    """

    def __init__(self, port: int) -> None:
        self.mode: Literal["pass", "500", "gone"] = "pass"
        self.answered = {"pass": 0, "500": 0, "gone": 0}
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.mode
                proxy.answered[mode] += 1
                if mode == "gone":
                    self.close_connection = True
                    return
                if mode == "500":
                    self._answer(500, {}, b"out of order")
                    return
                try:
                    behind = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    behind.request(self.command, self.path, body, dict(self.headers))
                    answer = behind.getresponse()
                    self._answer(answer.status, dict(answer.getheaders()), answer.read())
                    behind.close()
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = serve

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
