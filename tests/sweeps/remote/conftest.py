"""A bucket in memory over HTTP, a folder, and two machines' stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bucket import BUCKET, environment, s3_server
from servers import free_port

from tensorrl.cli import app
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.store.layout import open_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, s3_server(port):
        for name, value in environment(port).items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Remote:
    return Remote(f"{bucket}/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/remote")


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """The stores of two machines."""
    made = [tmp_path / "here", tmp_path / "there"]
    for store in made:
        open_store(store)
    return made


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that is to be refused, and returns the line that says why."""

    def run(*arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["tensorrl", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    return run
