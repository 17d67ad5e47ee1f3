"""The commands that are printed can be pasted into a shell, whatever the paths are called."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from tensorrl.cli import trials
from tensorrl.cli.next_steps import after_evaluation, after_training
from tensorrl.tracking import view

ODD = ["sp ace #%é &/run", "it's/run", "$x;y/run", "-dash/run"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_one_word_and_no_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "understands", lambda *_: True)
    uri = f"sqlite:////store/{name}/mlflow.db"
    lines = after_training(Path(name), {}, view.page_link(None, "1", uri)).splitlines()
    said = {label.strip(): rest for label, _, rest in (line.partition(": ") for line in lines)}
    commands = {label: shlex.split(said[label]) for label in ("film", "curves", "start it first")}
    path = f"./{name}" if name.startswith("-") else name
    assert commands["film"][:3] == ["tensorrl", "evaluate", path]
    assert commands["curves"][-2:] == ["--out", f"{path}/curves.png"]
    assert commands["start it first"] == ["mlflow", "ui", "--backend-store-uri", uri]
    (film,) = after_evaluation(Path(name), None).splitlines()
    assert shlex.split(film.partition(": ")[2])[2] == path


def test_sigterm_ends_an_evaluation_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, trials._clearing_up_after_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
