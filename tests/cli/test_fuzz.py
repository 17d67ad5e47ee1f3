"""Some thousand hostile inputs, drawn by hypothesis from a fixed seed, and one rule for all of them.

The rule: an input is taken, or refused by one short printable line and exit code 2; no traceback; within seconds and
ordinary memory; nothing is written outside the folders that the command line names. docs/reliability.md has the
figures, which `pytest -m slow -s tests/cli/test_fuzz.py` prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tensorrl import games
from tensorrl.cli import app, options
from tensorrl.errors import InputError
from tensorrl.sweeps import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings, network_spec

pytestmark = pytest.mark.slow

SECONDS = 10.0
"""Of processor time that one input may take."""
MEMORY = 1 << 30
"""Bytes by which all inputs of a kind may raise the process's peak."""

_WORDS = (
    "", " ", "\x00", "\x1b[31m", "\n", "..", "/", "../../x", "~", "-", "--", "%", "%s", "{}", "[", "{", "&a", "*a",
    "!!python/object:os.system", "!!int x", "<<", "?", "|", "é", "\u202e", "\ud800", "/dev/zero", "2026-02-30", ".nan",
    "-.inf", "1e999", "null", "true", "0x" + "f" * 50, "1:30", "pong", "rainbow", "n" * 5_000, "9" * 5_000,
)  # fmt: skip
HOSTILE_TEXT = st.one_of(st.text(max_size=30), st.sampled_from(_WORDS))
NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([2**31, 2**63, 1e308, 5e-324])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, HOSTILE_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE_TEXT, inner, max_size=3),
    max_leaves=8,
)


class Tally:
    """What the inputs of one kind came to."""

    def __init__(self, kind: str) -> None:
        self.kind, self.counts, self.slowest = kind, Counter[str](), 0.0
        self._memory = _peak()

    @contextlib.contextmanager
    def input(self) -> Iterator[None]:
        """Holds the rule for what the block does: an `InputError` of one line, or nothing."""
        begin = time.process_time()
        try:
            yield
        except InputError as error:
            check_line(str(error))
            self.counts["refused"] += 1
        else:
            self.counts["taken"] += 1
        seconds = time.process_time() - begin
        self.slowest = max(self.slowest, seconds)
        assert seconds < SECONDS

    def close(self, least: int) -> None:
        """Says the figures, and checks that they are not of too few inputs, or of one sort only."""
        raised = max(0, _peak() - self._memory)
        refused, taken = self.counts["refused"], self.counts["taken"]
        print(f"\n{self.kind}: {refused} refused, {taken} taken, 0 violations")
        print(f"slowest {self.slowest:.2f} s of processor time, {raised >> 20} MiB more memory")
        assert raised < MEMORY
        assert self.counts.total() >= least
        assert self.counts["refused"] > 0


def check_line(text: str) -> None:
    assert text.isprintable(), text
    assert 0 < len(text) <= 2_000


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(examples: int) -> Any:
    """Settings of hypothesis: the same inputs every time, as many as are asked for."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip


def command(*arguments: str) -> tuple[int, str]:
    """Runs the command line in this process; returns the exit code and what it said on standard error."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["tensorrl", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                code = app._run()
            except SystemExit as stop:
                code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, said.getvalue()


def hold(tally: Tally, *arguments: str, codes: tuple[int, ...] = (0, 2)) -> None:
    """Runs a command and holds the rule."""
    with tally.input():
        code, said = command(*arguments)
        assert code in codes, (arguments, code, said)
        if code == 2:
            (line,) = said.splitlines()
            raise InputError(line) if line.isprintable() else AssertionError(line)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Sweep files

GOOD = {"name": "f", "games": ["pong"], "variants": ["rainbow"], "seeds": 1, "steps": 1_000}
SWEEP_FIELDS = st.dictionaries(st.sampled_from([*SweepSpec.model_fields, "cpus", "stpes"]), VALUES, max_size=4)
INNER_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "settings": st.dictionaries(st.sampled_from(list(Settings.model_fields)), VALUES, max_size=3),
        "axes": st.dictionaries(st.sampled_from(list(Settings.model_fields)), st.lists(VALUES, max_size=3), max_size=2),
        "resources": st.dictionaries(st.sampled_from(["cpus", "gpus", "memory"]), VALUES, max_size=2),
        "evaluation": st.dictionaries(st.sampled_from(["final_episodes", "epsilon"]), VALUES, max_size=2),
        "tracking": st.dictionaries(st.sampled_from(["uri", "experiment"]), VALUES, max_size=2),
    },
)


@st.composite
def sweep_bytes(draw: st.DrawFn) -> bytes:
    """A sweep file: of drawn fields, then perhaps with bytes cut out, put in or doubled."""
    fields = {**GOOD, **draw(INNER_FIELDS), **draw(st.one_of(st.just({}), SWEEP_FIELDS))}
    # JSON is YAML: whatever text there is, it is written as it is meant.
    content = bytearray(json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        match draw(st.integers(0, 3)):
            case 0:
                del content[place : place + draw(st.integers(1, 20))]
            case 1:
                content[place:place] = draw(st.binary(max_size=10))
            case 2:
                content[place:place] = draw(HOSTILE_TEXT).encode("utf-8", "surrogatepass")
            case _:
                content[place:place] = content[:place] * draw(st.integers(1, 3))
    return bytes(content)


def test_sweep_files(tmp_path: Path) -> None:
    tally, path = Tally("sweep files"), tmp_path / "s.yaml"

    @fuzz(2_000)
    @given(sweep_bytes())
    def run(content: bytes) -> None:
        path.write_bytes(content)
        with tally.input():
            load_sweep(path)

    run()
    assert tree(tmp_path) == ["s.yaml"]
    tally.close(1_000)
    assert tally.counts["taken"] > 0


# Settings

PAIRS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*Settings.model_fields, "stem.J", "ranks.value_hidden"]), VALUES).map(
            lambda pair: f"{pair[0]}={json.dumps(pair[1])}"
        ),
        st.tuples(st.sampled_from(list(Settings.model_fields)), HOSTILE_TEXT).map("=".join),
        HOSTILE_TEXT,
    ),
    max_size=3,
)


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tally = Tally("settings")

    @fuzz(2_000)
    @given(PAIRS, st.sampled_from(list(variants.VARIANTS)))
    def run(pairs: list[str], variant: str) -> None:
        with tally.input():
            network_spec(variants.resolve(variant, options.parse_overrides(pairs)), 6).total_coefficients()

    run()
    assert tree(tmp_path) == []
    tally.close(1_000)
    assert tally.counts["taken"] > 0


# Options

COMMANDS = {
    "games": [],
    "variants": [],
    "settings": ["--variant"],
    "coefficients": ["--game", "--variant", "--set"],
    "train": ["--game", "--variant", "--seed", "--steps", "--set", "--device", "--threads", "--checkpoint-every"],
    "evaluate": ["--episodes", "--seed", "--threads"],
    "curves": ["--window"],
    "spectrum": ["--unfolding"],
    "scattering": ["--game", "--J", "--L", "--seed", "--steps"],
    "status": ["--every"],
    "report": [],
    "sync": [],
    "pull": [],
    "sweep": ["--only", "--max-concurrent", "--remote"],
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with drawn words and options. What it writes goes below a folder that cannot be made: `blocked`."""
    name = draw(st.sampled_from([*COMMANDS, "nonsense"]))
    words = [name]
    for option in draw(st.lists(st.sampled_from([*COMMANDS.get(name, []), "--json", "--bogus"]), max_size=3)):
        words += [option] if option in ("--json", "--bogus") else [option, draw(HOSTILE_TEXT | NUMBERS.map(str))]
    words += draw(st.lists(HOSTILE_TEXT.filter(lambda text: not text.startswith("/")), max_size=2))
    if name in ("train", "curves", "spectrum", "scattering"):
        words += ["--out", "blocked/out.png"]
    return [word.replace("\x00", "") for word in words]


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TENSORRL_STORE", "TENSORRL_REMOTE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocked").write_text("a file where a folder would have to be")
    tally = Tally("command lines")

    @fuzz(1_000)
    @given(command_lines())
    def run(words: list[str]) -> None:
        hold(tally, *words)
        assert tree(tmp_path) == ["blocked"]

    run()
    tally.close(500)


# Stores

FIELDS = (
    "key",
    "cells",
    "game",
    "variant",
    "seed",
    "steps",
    "version",
    "agent_steps",
    "score",
    "axes",
    "folder",
    "name",
)
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


def test_games_are_named_in_every_way_that_is_known() -> None:
    tally = Tally("names of games")

    @fuzz(500)
    @given(HOSTILE_TEXT | st.sampled_from(list(games.GAMES)))
    def run(name: str) -> None:
        with tally.input():
            games.get(name)

    run()
    tally.close(100)
