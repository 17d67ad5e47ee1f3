"""Hostile sweep files, settings, command lines and names of games."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorrl import games
from tensorrl.cli import options
from tensorrl.sweeps import load_sweep
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial import variants
from tensorrl.trial.settings import Settings, network_spec
from tests.cli.fuzz.rule import HOSTILE_TEXT, NUMBERS, VALUES, Tally, fuzz, hold, tree

pytestmark = pytest.mark.slow

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


# Names of games


def test_games_are_named_in_every_way_that_is_known() -> None:
    tally = Tally("names of games")

    @fuzz(500)
    @given(HOSTILE_TEXT | st.sampled_from(list(games.GAMES)))
    def run(name: str) -> None:
        with tally.input():
            games.get(name)

    run()
    tally.close(100)
