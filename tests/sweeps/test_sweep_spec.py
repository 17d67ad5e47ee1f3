from __future__ import annotations

from pathlib import Path

import pytest

from tensorrl import games
from tensorrl.errors import InputError
from tensorrl.sweeps import cell_folder, cells, load_sweep

ROOT = Path(__file__).parents[2]
GOOD = {"name": "a", "games": "[pong, breakout]", "variants": "[rainbow]", "seeds": "[0]", "steps": "3000"}


def write(path: Path, **changes: str | None) -> Path:
    fields = {name: text for name, text in (GOOD | changes).items() if text is not None}
    path.write_text("".join(f"{name}: {text}\n" for name, text in fields.items()))
    return path


def test_every_game_meets_every_variant_and_seed_once_first_seeds_first(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", variants="[rainbow, denoised]", seeds="2"))
    assert [cell_folder(cell) for cell in cells(spec)] == [
        "pong-rainbow-seed0",
        "pong-denoised-seed0",
        "breakout-rainbow-seed0",
        "breakout-denoised-seed0",
        "pong-rainbow-seed1",
        "pong-denoised-seed1",
        "breakout-rainbow-seed1",
        "breakout-denoised-seed1",
    ]
    assert {cell.steps for cell in cells(spec)} == {3000}


def test_seeds_are_those_listed_or_counted_from_zero(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path / "s.yaml", seeds="[5, 3]")).seeds == (5, 3)
    assert load_sweep(write(tmp_path / "s.yaml", seeds="3")).seeds == (0, 1, 2)


def test_atari_100k_stands_for_all_games(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", games="atari-100k"))
    assert spec.games == tuple(games.GAMES)
    assert len(spec.games) == 26


def test_trials_have_100k_steps_unless_told_otherwise_and_as_many_threads_as_cores(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path / "s.yaml", steps=None, settings="{learning_rate: 0.001}", checkpoint_every="500"))
    cell = cells(spec)[0]
    assert (cell.steps, cell.threads, cell.checkpoint_every) == (100_000, 1, 500)
    assert cell.overrides == {"learning_rate": 0.001}
    assert cells(load_sweep(write(tmp_path / "s.yaml", cpus="2")))[0].threads == 2


BAD = [
    ({"games": "[pong, brekout]"}, "games: unknown game 'brekout'; did you mean 'breakout'?"),
    ({"games": "pong"}, "games: 'pong' is no list of games (allowed: a list of names, or the word atari-100k)"),
    ({"games": "[]"}, "games: [] is no list of games"),
    ({"games": "[pong, pong]"}, "games: 'pong' is listed twice"),
    ({"variants": "[rainbo]"}, "variants: unknown variant 'rainbo'; did you mean 'rainbow'?"),
    ({"variants": None}, "variants: missing"),
    ({"seeds": "[0, 1, 0]"}, "seeds: 0 is listed twice"),
    ({"seeds": "[0, -1]"}, "seeds: [0, -1] (allowed: a list of whole numbers from 0 to 2^31 - 1, or how many seeds"),
    ({"seeds": "0"}, "seeds: 0 (allowed"),
    ({"seeds": "[4294967296]"}, "seeds: [4294967296] (allowed: a list of whole numbers from 0 to 2^31 - 1"),
    ({"seeds": "99999999999"}, "or how many seeds, 10,000 at most)"),
    ({"seeds": "yes"}, "seeds: True (allowed"),
    ({"steps": "0"}, "steps: 0 (allowed: a whole number from 1)"),
    ({"steps": "1e5"}, "steps: '1e5' (allowed: a whole number from 1)"),
    ({"cpus": "0.5"}, "cpus: 0.5 (allowed: a whole number from 1)"),
    ({"name": "../up"}, "name: '../up' (allowed: letters"),
    ({"setings": "{}"}, "unknown field 'setings'; did you mean 'settings'?"),
    ({"settings": "{lerning_rate: 1}"}, "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
    ({"settings": "{learning_rate: fast}"}, "learning_rate='fast'"),
    ({"settings": "[1]"}, "settings: [1] (allowed: a mapping of settings to values)"),
    ({"settings": "{compression: 3}"}, "compression needs factorization"),
    ({"variants": "[trl-5x]", "settings": "{compression: 900}"}, "settings: budget of 863 coefficients"),
    ({"steps": "-1", "cpus": "0"}, "steps: -1 (allowed: a whole number from 1) (and 1 more)"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=[said[:30] for _, said in BAD])
def test_a_mistake_is_one_line_with_the_file_the_field_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    path = write(tmp_path / "s.yaml", **changes)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ngames: [pong\nseeds: 1\n", "line 3: not valid YAML"),
        ("name: a\nname: b\n", "line 2: not valid YAML: 'name' is given twice"),
        ("- pong\n", "holds no fields (allowed: name, games"),
        ("", "holds no fields (allowed: name, games"),
        ("name: \x00\n", "not valid YAML"),
        ("5: a\n", "unknown field '5'"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: No such file"):
        load_sweep(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_sweep(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "tune_jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_sweeps_are_valid(path: Path) -> None:
    assert cells(load_sweep(path))
