from __future__ import annotations

import csv
import dataclasses
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorrl import games
from tensorrl.errors import InputError

GAMES = list(games.GAMES.values())


def test_atari_100k_has_26_games_and_atari_57_has_57_all_under_their_own_names() -> None:
    assert len(games.GAMES) == 26
    assert games.GROUPS["atari-100k"] == tuple(games.GAMES)
    assert len(games.GROUPS["atari-57"]) == 57
    assert set(games.GAMES) < set(games.GROUPS["atari-57"]) < set(games.ALE_GAMES)
    assert all(name == game.name for name, game in games.ALE_GAMES.items())
    assert all(name == game.name for name, game in games.GAMES.items())
    assert len({game.title for game in GAMES}) == 26


@pytest.mark.parametrize("game", games.ALE_GAMES.values(), ids=lambda game: game.name)
def test_name_and_action_count_are_those_of_ale(game: games.Game) -> None:
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(roms.get_rom_path(game.name))
    assert game.actions == len(emulator.getMinimalActionSet())


def test_the_games_and_their_titles_are_those_of_gymnasium_s_ids() -> None:
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    registered = {spec.kwargs.get("game"): name for name, spec in gymnasium.registry.items() if name.startswith("ALE/")}
    assert registered == {name: f"ALE/{game.title}-v5" for name, game in games.ALE_GAMES.items()}


@given(
    game=st.sampled_from(list(games.ALE_GAMES.values())),
    around=st.sampled_from(["{}", "ALE/{}-v5", "{}NoFrameskip-v4", "{}Deterministic-v0", "{}-v4", " {} "]),
    of=st.sampled_from(["name", "title"]),
    seed=st.integers(0, 2**16),
)
def test_a_game_is_found_by_name_title_and_gymnasium_s_ids_in_any_case(
    game: games.Game, around: str, of: str, seed: int
) -> None:
    draw = random.Random(seed)
    letters = around.format(getattr(game, of))
    written = "".join(draw.choice([letter.lower(), letter.upper()]) for letter in letters)
    assert games.get(written) is game


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("pongg", "pong"),
        ("road_runer", "road_runner"),
        ("Ms_Packman", "ms_pacman"),
        ("upndwn", "up_n_down"),
        ("ALE/Pnog-v5", "pong"),
    ],
)
def test_an_unknown_game_is_one_line_that_names_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        games.get(typed)
    message = str(caught.value)
    assert repr(typed.removeprefix("ALE/").removesuffix("-v5")) in message
    assert f"did you mean '{nearest}'" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["", "combat", "pong deluxe", "ALE/-v5", "ALE/Pong-ram-v5"])
def test_what_is_no_game_for_one_player_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="allowed: one of 104 names"):
        games.get(name)


def test_random_and_human_scores_of_atari_57_agree_with_those_of_atari_100k_s_file() -> None:
    # Two files of other hands: dqn_zoo's atari_data.py, and the collection of published scores.
    with (Path(games.__file__).parent / "data" / "atari100k_scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {game.title: (game.random, game.human) for game in GAMES}
    assert found == {row["game"]: (float(row["random"]), float(row["human"])) for row in rows}


def test_a_game_outside_atari_57_has_no_normalised_score() -> None:
    assert games.human_normalized("adventure", 1.0) is None
    assert games.human_normalized("space_invaders", 148.0) == 0.0
    assert games.human_normalized("SpaceInvaders", 1668.7) == pytest.approx(1.0)


def test_human_normalized_matches_hand_worked_values() -> None:
    # Pong: random −20.7, human 14.6; RoadRunner: random 11.5, human 7845.0 (Wang et al. 2016, Table 2).
    assert games.human_normalized("pong", -20.7) == pytest.approx(0.0)
    assert games.human_normalized("Pong", 14.6) == pytest.approx(1.0)
    assert games.human_normalized("pong", 21.0) == pytest.approx(41.7 / 35.3)
    assert games.human_normalized(games.get("road_runner"), 9600.0) == pytest.approx(9588.5 / 7833.5)


# Means and medians over the 26 games as papers print them, within one of their last printed digit: a wrong cell,
# a swapped row or a wrong human or random score moves them.
@pytest.mark.parametrize(
    ("column", "mean", "median"),
    [
        ("simple_v4_sdlong", 0.332, 0.134),
        ("simple_best_of", 0.443, 0.144),
        ("der_paper", 0.285, 0.161),
        ("der_rliable100_mean", 0.350, 0.189),
        ("otrainbow_paper", 0.264, 0.204),
        ("curl_paper", 0.381, 0.175),
        ("curl_rliable100_mean", 0.261, 0.092),
        ("drq_paper", 0.357, 0.268),
        ("spr_paper", 0.704, 0.415),
        ("bbf_paper", 2.247, 0.917),
    ],
)
def test_columns_reproduce_the_aggregates_that_their_papers_print(column: str, mean: float, median: float) -> None:
    normalized = [games.human_normalized(name, score) for name, score in games.published_column(column).items()]
    assert statistics.mean(normalized) == pytest.approx(mean, abs=0.001)
    assert statistics.median(normalized) == pytest.approx(median, abs=0.001)


def test_best_of_simple_is_the_larger_of_its_two_families_on_every_game() -> None:
    for scores in games.published().values():
        assert scores.simple_best_of == max(scores.simple_v1_in_der_paper, round(scores.simple_v4_sdlong, 1))


def test_published_covers_every_game_and_every_column_of_the_file() -> None:
    with (Path(games.__file__).parent / "data" / "atari100k_scores.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["game", "random", "human", *games.PUBLISHED_COLUMNS]
    assert list(games.published()) == list(games.GAMES)
    assert games.published()["pong"].der_paper == -19.3
    assert dataclasses.asdict(games.published()["frostbite"])["der_paper"] == 866.8


def test_every_column_states_its_source() -> None:
    described = (Path(games.__file__).parent / "data" / "README.md").read_text()
    assert [column for column in ("random", "human", *games.PUBLISHED_COLUMNS) if f"`{column}`" not in described] == []


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'der_paper'"):
        games.published_column("der_papper")


def test_importing_games_loads_no_heavy_library() -> None:
    heavy = {"torch", "ray", "mlflow", "numpy", "pandas", "ale_py", "gymnasium"}
    code = f"import sys, tensorrl.games; print(*sorted({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
