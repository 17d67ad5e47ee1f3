"""Stores and checkpoints that disks, editors and enemies have been at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorrl.errors import InputError
from tests.cli.fuzz.rule import VALUES, Tally, fuzz, hold, tree

pytestmark = pytest.mark.slow

# Damage

FIELDS = (
    "key", "cells", "game", "variant", "seed", "steps", "version", "agent_steps", "score", "axes", "folder", "name",
)  # fmt: skip
DAMAGE = st.one_of(
    st.tuples(st.just("bytes"), st.binary(max_size=40)),
    st.tuples(st.just("json"), VALUES),
    st.tuples(st.just("field"), st.tuples(st.sampled_from(FIELDS), VALUES)),
    st.tuples(st.just("cut"), st.integers(0, 400)),
    st.tuples(st.just("kind"), st.sampled_from(["folder", "pipe", "link to nothing", "link to itself", "gone"])),
)  # fmt: skip


def damage(path: Path, kind: str, what: Any) -> None:
    """Does to a file what disks, editors and enemies do."""
    content = path.read_bytes()
    if kind == "bytes":
        path.write_bytes(content[: len(content) // 2] + what + content[len(content) // 2 :])
    elif kind == "json":
        path.write_text(json.dumps(what))
    elif kind == "cut":
        path.write_bytes(content[:what])
    elif kind == "field":
        name, value = what
        lines = (
            [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else [json.loads(content)]
        )
        for line in lines:
            for holder in (line, *line.get("cells", ())):
                holder[name] = value
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what.startswith("link"):
            path.symlink_to(path.name if what == "link to itself" else "nowhere")


# Stores


def test_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.synthetic_store import make_sweep

    monkeypatch.chdir(tmp_path)
    whole, store = tmp_path / "whole", tmp_path / "store"
    rows = make_sweep(whole, "s", ["pong", "breakout"], {"rainbow": 1.0, "denoised": 0.9}, [0])
    (whole / ".store.json").write_text('{"version": 1}\n')
    cell = rows[0]["folder"]
    names = [".store.json", ".sweeps/s/cells.json", *(f"{cell}/{n}.json" for n in ("trial", "result"))]
    names.append(f"{cell}/progress.jsonl")
    tally = Tally("stores")

    @fuzz(600)
    @given(st.lists(st.tuples(st.sampled_from(names), DAMAGE), min_size=1, max_size=2, unique_by=lambda pair: pair[0]),
           st.sampled_from(["status", "status --json", "curves"]))  # fmt: skip
    def run(damages: list[tuple[str, tuple[str, Any]]], what: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(whole, store)
        for name, (kind, value) in damages:
            damage(store / name, kind, value)
        before = tree(tmp_path)
        if what == "curves":
            hold(tally, "curves", str(store / cell), "--out", str(tmp_path / "c.svg"))
            (tmp_path / "c.svg").unlink(missing_ok=True)
        else:
            hold(tally, *what.split()[:1], "s", "--out", str(store), *what.split()[1:])
        assert tree(tmp_path) == before

    run()
    tally.close(300)
    assert tally.counts["taken"] > 0


# Checkpoints


def test_checkpoints(tmp_path: Path) -> None:
    import torch

    from tensorrl.trial import checkpoints
    from tensorrl.trial.run import TrialSpec, build_training

    whole, folder = tmp_path / "whole", tmp_path / "checkpoints"
    spec = TrialSpec(game="pong", variant="trl-10x", seed=1, steps=200, overrides={"learning_starts": 60})
    training = build_training(spec, torch.device("cpu"))
    training.run(80)
    name = checkpoints.save(training, whole, {"network": training.agent.network.spec.model_dump(mode="json")}).name
    training.close()
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    tally = Tally("checkpoints")

    @fuzz(600)
    @given(st.sampled_from(files), DAMAGE)
    def run(file: str, done: tuple[str, Any]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        # A field is one of JSON's.
        if done[0] != "field" or file.endswith(".json"):
            damage(folder / file, *done)
        before = tree(tmp_path)
        with tally.input():
            try:
                checkpoints.read(folder / name)
            except checkpoints.DamagedCheckpoint as error:
                raise InputError(str(error)) from None
        assert tree(tmp_path) == before

    run()
    tally.close(300)
