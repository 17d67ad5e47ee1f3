"""The 26 games of Atari 100k: names, action counts, the scores that normalise ours, and those of published agents.

Importing this module reads one small file of the package and nothing else: no emulator, no Torch.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType

from tensorrl.errors import unknown

_SCORES = Path(__file__).parent / "data" / "atari100k_scores.csv"

# (title, ROM name, size of ALE's minimal action set); tests hold each row against ALE itself.
_TABLE: tuple[tuple[str, str, int], ...] = (
    ("Alien", "alien", 18),
    ("Amidar", "amidar", 10),
    ("Assault", "assault", 7),
    ("Asterix", "asterix", 9),
    ("BankHeist", "bank_heist", 18),
    ("BattleZone", "battle_zone", 18),
    ("Boxing", "boxing", 18),
    ("Breakout", "breakout", 4),
    ("ChopperCommand", "chopper_command", 18),
    ("CrazyClimber", "crazy_climber", 9),
    ("DemonAttack", "demon_attack", 6),
    ("Freeway", "freeway", 3),
    ("Frostbite", "frostbite", 18),
    ("Gopher", "gopher", 8),
    ("Hero", "hero", 18),
    ("Jamesbond", "jamesbond", 18),
    ("Kangaroo", "kangaroo", 18),
    ("Krull", "krull", 18),
    ("KungFuMaster", "kung_fu_master", 14),
    ("MsPacman", "ms_pacman", 9),
    ("Pong", "pong", 6),
    ("PrivateEye", "private_eye", 18),
    ("Qbert", "qbert", 6),
    ("RoadRunner", "road_runner", 18),
    ("Seaquest", "seaquest", 18),
    ("UpNDown", "up_n_down", 6),
)


@dataclass(frozen=True)
class Game:
    """One game of Atari 100k.

    Attributes:
        name: snake case, ALE's name of the ROM; how the game is named everywhere in TensorRL.
        title: the name in papers and in Gymnasium's ids (`ALE/<title>-v5`).
        actions: size of ALE's minimal action set, the one agents choose from.
        random: mean score of a uniformly random agent (an unclipped whole game), human-normalised 0.
        human: mean score of a professional tester, human-normalised 1.
    """

    name: str
    title: str
    actions: int
    random: float
    human: float


@dataclass(frozen=True)
class PublishedScores:
    """Mean scores of one game as published for 100k agent steps (400k frames), unnormalised.

    The fields are the columns of `data/atari100k_scores.csv`; `data/README.md` gives each one's source and where
    sources disagree. `der_rliable100_sd` is the standard deviation over 100 runs that belongs to
    `der_rliable100_mean`.
    """

    simple_v1_in_der_paper: float
    simple_v4_sdlong: float
    simple_best_of: float
    rainbow_tuned_by_simple: float
    der_paper: float
    der_rliable100_mean: float
    der_rliable100_sd: float
    otrainbow_paper: float
    curl_paper: float
    curl_rliable100_mean: float
    drq_paper: float
    drq_rliable100_mean: float
    drq_eps_rliable100_mean: float
    spr_paper: float
    spr_rliable100_mean: float
    bbf_paper: float


PUBLISHED_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(PublishedScores))


def get(name: str) -> Game:
    """Returns the game of that name.

    Args:
        name: the snake-case name or the title, in any case: "road_runner", "RoadRunner", "roadrunner".

    Raises:
        InputError: no such game among the 26; the message names the nearest.
    """
    game = _BY_FOLDED_NAME.get(_fold(name))
    if game is None:
        raise unknown("game", name, GAMES)
    return game


def human_normalized(game: Game | str, score: float) -> float:
    """Returns (score − random) / (human − random): 0 is a random agent, 1 the human tester.

    Source: Mnih et al. 2015 (the formula), Wang et al. 2016, Table 2 (the scores of both, after no-op starts).

    Args:
        game: the game, or any name that `get` accepts.
        score: return of a whole game, unclipped; or a mean of such.

    Raises:
        InputError: `game` is a name that `get` does not know.
    """
    known = get(game) if isinstance(game, str) else game
    return (score - known.random) / (known.human - known.random)


@functools.cache
def published() -> Mapping[str, PublishedScores]:
    """Returns the published scores of each game, by snake-case name, in the order of `GAMES`."""
    scores = _read_scores()
    return MappingProxyType(
        {
            name: PublishedScores(**{column: scores[title][column] for column in PUBLISHED_COLUMNS})
            for title, name, _ in _TABLE
        }
    )


def published_column(column: str) -> dict[str, float]:
    """Returns one published column, by snake-case game name.

    Args:
        column: one of `PUBLISHED_COLUMNS`, e.g. "der_paper".

    Raises:
        InputError: no such column; the message names the nearest.
    """
    if column not in PUBLISHED_COLUMNS:
        raise unknown("column of published scores", column, PUBLISHED_COLUMNS)
    return {name: asdict(scores)[column] for name, scores in published().items()}


@functools.cache
def _read_scores() -> dict[str, dict[str, float]]:
    with _SCORES.open(newline="", encoding="utf-8") as file:
        return {row.pop("game"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}


def _fold(name: str) -> str:
    return name.strip().casefold().replace("_", "")


GAMES: dict[str, Game] = {
    name: Game(name, title, actions, _read_scores()[title]["random"], _read_scores()[title]["human"])
    for title, name, actions in _TABLE
}

_BY_FOLDED_NAME: dict[str, Game] = {_fold(game.title): game for game in GAMES.values()}
