"""The image's steps as written, run without an engine: a clean environment, a user who is not root, the entry point."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from deployment import ROOT, pin

DOCKER = ROOT / "docker"
INSTALL_SECONDS = 3600.0


def _unprivileged() -> list[str]:
    """What runs a command as a user who is not root; nothing, where this is one."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(
    *command: str | Path, cwd: Path = ROOT, timeout: float = 120.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_")) or name == "PATH"}
    return subprocess.run(
        [str(part) for part in command],
        env=kept | environment, cwd=cwd, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """What the engine would copy, in a folder that the user who is not root may write to."""
    folder = Path("/var/tmp") / f"tensorrl-image-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, "nobody")
    yield folder
    shutil.rmtree(folder)


def test_the_requirements_of_the_image_are_the_projects_with_its_servers_and_onnx() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    said = _run(sys.executable, DOCKER / "requirements.py", "pyproject.toml", "server", "onnx").stdout.splitlines()
    assert said == project["project"]["dependencies"] + extras["server"] + extras["onnx"]
    assert "lock docker/requirements.lock server onnx\n" in (DOCKER / "lock.sh").read_text()
    assert (
        _run(sys.executable, DOCKER / "requirements.py", "pyproject.toml", "build").stdout.splitlines()
        == (project["build-system"]["requires"])
    )


def test_a_step_that_there_is_not_is_refused() -> None:
    ran = _run(DOCKER / "install.sh", "everything")
    assert ran.returncode == 2
    assert "install.sh dependencies VENV" in ran.stderr


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_is_not_started_without_a_token(role: str, tmp_path: Path) -> None:
    ran = _run(DOCKER / "entrypoint.sh", role, HOME=str(tmp_path), RAY_AUTH_MODE="token")
    assert (ran.returncode, ran.stderr.partition(":")[0]) == (2, "no token")
    ran = _run(DOCKER / "entrypoint.sh", role, HOME=str(tmp_path), RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="x")
    assert (ran.returncode, "allowed: token" in ran.stderr) == (2, True)


def test_mlflow_is_not_started_without_a_password(tmp_path: Path) -> None:
    given = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite://", "MLFLOW_ARTIFACTS": "x", "MLFLOW_AUTH_DATABASE_URI": "x",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
    }  # fmt: skip
    ran = _run(DOCKER / "entrypoint.sh", "mlflow-server", HOME=str(tmp_path), **given)
    assert (ran.returncode, ran.stderr) == (2, "MLFLOW_AUTH_ADMIN_PASSWORD is not set\n")


def test_a_worker_is_told_where_the_head_is(tmp_path: Path) -> None:
    ran = _run(DOCKER / "entrypoint.sh", "worker", HOME=str(tmp_path), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x")
    assert (ran.returncode, ran.stderr) == (2, "RAY_HEAD is not set\n")


def test_any_other_command_is_run_as_it_is(tmp_path: Path) -> None:
    ran = _run(DOCKER / "entrypoint.sh", "echo", "a  b", HOME=str(tmp_path))
    assert ran.stdout == "a  b\n"


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def test_health_is_what_answers_and_nothing_else() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unused = str(free.getsockname()[1])
    health = [sys.executable, DOCKER / "health.py"]
    assert _run(*health, MLFLOW_PORT=unused, RAY_AGENT_PORT=unused).returncode == 1
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = str(server.server_port)
    assert _run(*health, MLFLOW_PORT=port, RAY_AGENT_PORT=unused).returncode == 0
    assert _run(*health, MLFLOW_PORT=unused, RAY_AGENT_PORT=port).returncode == 1
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_steps_make_an_environment_that_runs(source: Path) -> None:
    user, venv, dist, home = _unprivileged(), source / "venv", source / "dist", source / "home"
    home.mkdir()
    if user:
        shutil.chown(home, "nobody")
    steps = [("dependencies", venv), ("wheel", dist), ("project", venv, dist)]
    for step in steps:
        ran = _run(*user, "docker/install.sh", *step, cwd=source, timeout=INSTALL_SECONDS, HOME=str(home))
        assert ran.returncode == 0, ran.stdout + ran.stderr
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    for command, expected in (
        (["ray", "--version"], f"version {pin('ray')}"),
        (["mlflow", "--version"], f"version {pin('mlflow')}"),
        (["python", "-c", "import torch; print(torch.__version__)"], pin("torch")),
        (["python", "-c", "import boto3, flask_wtf, googleapiclient, psycopg2; print('servers')"], "servers"),
        (["python", "-c", "import onnx, onnxruntime; print('models')"], "models"),
        (["tensorrl", "games", "--json"], '"pong"'),
    ):
        ran = _run(*user, source / "docker/entrypoint.sh", *command, cwd=home, PATH=path, HOME=str(home), timeout=600.0)
        assert ran.returncode == 0, ran.stderr
        assert expected in ran.stdout

    # All that a trial imports under Ray, Tune and MLflow is there, without what only tests and benchmarks need.
    ran = _run(
        *user, source / "docker/entrypoint.sh",
        "tensorrl", "sweep", source / "tests/smoke.yaml", "--out", home / "store",
        cwd=home, PATH=path, HOME=str(home), RAY_TMPDIR=str(source / "ray"), OMP_NUM_THREADS="1", timeout=1800.0,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list((home / "store").glob("pong-denoised-seed0-*/result.json"))) == 1
    assert (home / "store/mlflow.db").is_file()
    # The trial's policy is there as a model.
    assert len(list((home / "store").glob("**/MLmodel"))) == 1
