"""A tracking URI with a password: shown without it, connected to with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps.grid.files import make_sweep
from tensorrl.tracking.connection import connect, tracking_uri_for

URI = "http://us%40er:p%40ss%3Aw%2Frd@127.0.0.1:9/sub"
SHOWN = "http://us%40er:***@127.0.0.1:9/sub"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("given", [True, False])
def test_the_login_goes_to_mlflow_by_the_environment(
    given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert tracking_uri_for(tmp_path, URI if given else None) == SHOWN
    client = connect(SHOWN)
    assert client.tracking_uri == "http://127.0.0.1:9/sub"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "us@er"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss:w/rd"


def test_no_login_goes_to_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    uri = tracking_uri_for(tmp_path, "http://127.0.0.1:10")
    assert connect(uri).tracking_uri == "http://127.0.0.1:10"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_a_process_without_the_password_keeps_a_login_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "own")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "own password")
    assert connect(SHOWN).tracking_uri == "http://127.0.0.1:9/sub"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "own password"


@pytest.mark.parametrize("uri", [URI, "postgresql://u:hush@h/db", "https://h/x?token=hush"])
def test_a_sweep_file_must_not_hold_a_password(uri: str) -> None:
    fields = {"name": "s", "games": ["pong"], "variants": ["denoised"], "seeds": 1, "tracking": {"uri": uri}}
    with pytest.raises(
        InputError, match=r"tracking\.uri: .*\*\*\*.* holds a password.*allowed: .*MLFLOW_TRACKING_PASSWORD"
    ) as caught:
        make_sweep(fields, where="sweep.yaml")
    assert "hush" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)
    # Also where it stands in the wrong place.
    with pytest.raises(InputError) as caught:
        make_sweep(fields | {"tracking": uri, "games": [uri]}, where="sweep.yaml")
    assert "hush" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)
