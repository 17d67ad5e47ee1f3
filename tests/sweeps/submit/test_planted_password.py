"""A planted password lies nowhere after a sweep, a submit, syncs and failing trains: real Ray, MLflow and S3."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from bucket import BUCKET, environment, s3_server
from servers import free_port, mlflow_server
from short_sweep import short_sweep
from test_submit import ROOT, Head

from tensorrl.sweeps.remote.files import Remote
from tensorrl.tracking.connection import connect, tracking_uri_for

pytestmark = pytest.mark.slow

# Quoted or not, it holds this core.
CORE = b"Zq7vXw3k"
PASSWORD = f"pl@n:t/{CORE.decode()}"
PLANTED = (CORE, base64.b64encode(f"admin:{PASSWORD}".encode()))
SWEEP = short_sweep(
    name="planted", seeds=1, steps=120, settings={"learning_starts": 100, "epsilon_decay": 10}, variants=["trl-10x"]
)


def _uri(port: int) -> str:
    return f"http://admin:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"


def _holding(folder: Path) -> Iterator[Path]:
    """Files below a folder that hold the password, in their bytes or their name."""
    for path in folder.rglob("*"):
        if CORE in os.fsencode(path.name) or (
            path.is_file() and not path.is_symlink() and any(form in path.read_bytes() for form in PLANTED)
        ):
            yield path


def test_a_planted_password_lies_nowhere(tmp_path: Path) -> None:
    web, dead, s3 = free_port(), free_port(), free_port()
    for name in ("mlflow", "head"):
        (tmp_path / name).mkdir()
    file, bad = tmp_path / "planted.yaml", tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    bad.write_text(yaml.safe_dump(SWEEP | {"tracking": {"uri": _uri(web)}}))
    said: list[str] = []
    with ExitStack() as held, pytest.MonkeyPatch.context() as patch:
        session = Path(f"/tmp/tensorrl-planted-{os.getpid()}")
        held.callback(shutil.rmtree, session, ignore_errors=True)
        held.enter_context(mlflow_server(web, tmp_path / "mlflow", password=PASSWORD))
        held.enter_context(s3_server(s3))
        for name, value in {
            **environment(s3),
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "MLFLOW_TRACKING_URI": _uri(web),
            "RAY_TMPDIR": str(session),
        }.items():
            patch.setenv(name, value)

        def run(*arguments: Any, code: int = 0, **changes: str) -> str:
            command = [sys.executable, "-m", "tensorrl", *(str(argument) for argument in arguments)]
            env = os.environ | {"PYTHONPATH": str(ROOT)} | changes
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
            said.append(done.stdout + done.stderr)
            assert done.returncode == code, said[-1][-3000:]
            return said[-1]

        remote = f"s3://{BUCKET}/planted"
        run("sweep", file, "--out", tmp_path / "store", "--remote", remote)
        assert list(session.iterdir()), "Ray's session lies elsewhere"
        assert "admin:***@127.0.0.1" in run("sweep", bad, "--check", code=2)

        short = ["--game", "pong", "--variant", "trl-10x", "--steps", 120, "--set", "learning_starts=100"]
        train = ["train", *short, "--set", "final_episodes=1", "--out", tmp_path / "trained" / "one"]
        assert "admin:***@" in run(*train, MLFLOW_TRACKING_URI=_uri(dead)) or "MLflow lacks a part" in said[-1]
        run(*train, code=2)
        run("sync", tmp_path / "trained", code=1, MLFLOW_TRACKING_URI=_uri(dead))
        run("sync", tmp_path / "trained", "--tracking-uri", _uri(dead), code=1)
        run("sync", tmp_path / "trained")
        run("sync", tmp_path / "store")

        head = Head(tmp_path / "head")
        held.callback(head.end)
        deadline = time.monotonic() + 300
        while not head.ready():
            assert time.monotonic() < deadline, (head.folder / "head.txt").read_text()
            time.sleep(1)
        cluster_store = tmp_path / "cluster store"
        said.append(head.submit(file, "--out", cluster_store))
        assert f"MLflow: http://admin:***@127.0.0.1:{web}" in said[-1]
        said.append(head.submit(bad, "--out", cluster_store, code=2))
        with_key = f"s3://key:{quote(PASSWORD, safe='')}@{BUCKET}/x"
        said.append(head.submit(file, "--out", cluster_store, "--remote", with_key, code=2))
        run("pull", with_key, "--out", tmp_path / "pulled", code=2)

        # The login was good for all of it: what was trained is recorded behind the password.
        client = connect(tracking_uri_for(tmp_path))
        runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert sum(run.data.params.get("variant") == "trl-10x" for run in runs) == 2

        bad.unlink()
        assert not list(_holding(tmp_path))
        assert not list(_holding(session))
        assert not list(_holding(head.temporary))
        bucket = Remote(remote)
        names = bucket.names()
        assert names
        assert not [name for name in names if any(form in (bucket.read(name) or b"") for form in PLANTED)]
        assert CORE.decode() not in "".join(said)
