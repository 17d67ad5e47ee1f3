"""A cluster that asks for a token: where the token is found, when it is sent, and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray._raylet import AuthenticationTokenLoader
from typer.testing import CliRunner

from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.sweeps.driver import cluster as driver_cluster
from tensorrl.sweeps.submit import interpreter
from tensorrl.sweeps.submit.job import Cluster
from tensorrl.sweeps.submit.token import find_token

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without a token, and no variable of Ray's that speaks of one."""
    for name in VARIABLES:
        # Set and then removed, so that what the code under test sets is undone, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Ray keeps the mode and the token of an earlier test's cluster for the whole process; a new shell has neither.
    asked = "ray._private.authentication.authentication_utils.is_token_auth_enabled"
    monkeypatch.setattr(asked, lambda: os.environ.get("RAY_AUTH_MODE") == "token")
    AuthenticationTokenLoader.instance().reset_cache()
    yield tmp_path
    AuthenticationTokenLoader.instance().reset_cache()


def keep_token(home: Path, value: str) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(value + "\n")


@contextmanager
def dashboard(token: str | None) -> Iterator[tuple[str, list[str | None]]]:
    """Answers as Ray's dashboard does: 401 without a token, 403 with a wrong one; keeps what was sent."""
    sent: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            sent.append(given)
            code = 200 if token is None or given == f"Bearer {token}" else 403 if given else 401
            body = json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode()
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body if code == 200 else b"Unauthorized: Missing authentication token")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()


def test_the_token_is_sought_in_ray_s_own_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token() is None
    keep_token(home, "of-home")
    assert find_token() == ("of-home", str(home / ".ray" / "auth_token"))
    named = home / "named"
    named.write_text("of-path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert find_token() == ("of-path", str(named))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert find_token() == ("of-variable", "RAY_AUTH_TOKEN")


def test_a_token_is_sent_to_a_cluster_that_asks_for_one_and_to_no_other(home: Path) -> None:
    keep_token(home, "secret")
    with dashboard("secret") as (address, sent):
        assert Cluster(address).token == ("secret", str(home / ".ray" / "auth_token"))
        assert sent[0] is None
        assert sent[-1] == "Bearer secret"
    with dashboard(None) as (address, sent):
        assert Cluster(address).token is None
        assert set(sent) == {None}


def test_without_a_token_or_with_a_wrong_one_the_error_says_which(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dashboard("secret") as (address, _):
        with pytest.raises(InputError, match="requires a token, but there is none in RAY_AUTH_TOKEN"):
            Cluster(address)
        keep_token(home, "other")
        with pytest.raises(InputError, match=r"refuses the token of .*auth_token") as caught:
            Cluster(address)
        assert "other" not in str(caught.value)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(InputError, match="RAY_AUTH_MODE=disabled says to send none"):
            Cluster(address)


def test_submit_says_that_it_sends_the_token(home: Path, tmp_path: Path) -> None:
    keep_token(home, "secret")
    file = tmp_path / "tiny.yaml"
    file.write_text("name: tiny\ngames: [pong]\nvariants: [denoised]\nseeds: 1\n")
    with dashboard("secret") as (address, _):
        # The job itself is refused: this dashboard has no more to it than its front door.
        said = CliRunner().invoke(app.app, ["submit", str(file), "--address", address, "--no-check"])
    assert f"the cluster requires a token: sending the one from {home}/.ray/auth_token" in said.output
    assert "secret" not in said.output


def test_a_ray_of_its_own_leaves_no_token_in_the_home_folder(home: Path) -> None:
    code = (
        "import os; from tensorrl.sweeps.driver.cluster import ray_session\n"
        "with ray_session():\n"
        "    import ray\n"
        "    print(ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid(), os.environ['RAY_AUTH_MODE'])"
    )
    temporary = f"/tmp/tensorrl-own-{os.getpid()}"
    environment = {**os.environ, "RAY_TMPDIR": temporary}
    Path(temporary).mkdir()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "token"]
    assert not (home / ".ray").exists()


def test_a_token_that_is_there_already_is_left_to_ray(home: Path) -> None:
    keep_token(home, "secret")
    driver_cluster._own_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_interpreter_that_runs_ray_comes_first_on_a_job_s_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    interpreter.first_on_path()
    interpreter.first_on_path()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin:/bin"
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    module, _, name = interpreter.HOOK[WORKER_PROCESS_SETUP_HOOK_ENV_VAR].rpartition(".")
    assert getattr(sys.modules[module], name) is interpreter.first_on_path
