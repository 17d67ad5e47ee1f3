"""The games of ALE: names, action counts, reference scores for normalisation, and scores of published agents.

Importing this module only reads two small files of the package. It loads neither the emulator nor PyTorch.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType

from tensorrl.errors import unknown

_DATA = Path(__file__).parent / "data"

_ATARI_100K = (
    "alien", "amidar", "assault", "asterix", "bank_heist", "battle_zone", "boxing", "breakout", "chopper_command",
    "crazy_climber", "demon_attack", "freeway", "frostbite", "gopher", "hero", "jamesbond", "kangaroo", "krull",
    "kung_fu_master", "ms_pacman", "pong", "private_eye", "qbert", "road_runner", "seaquest", "up_n_down",
)  # fmt: skip


@dataclass(frozen=True)
class Game:
    """One game of ALE.

    Attributes:
        name: ALE's name of the ROM, in snake case; the name of the game everywhere in TensorRL.
        title: the name in papers and in Gymnasium's ids (`ALE/<title>-v5`).
        actions: size of ALE's minimal action set, from which agents choose.
        random: mean score of a uniformly random agent over full games, unclipped; human-normalised 0. None outside
            Atari-57, because such scores are published only for its games.
        human: mean score of a professional tester, human-normalised 1; None if `random` is None.
    """

    name: str
    title: str
    actions: int
    random: float | None
    human: float | None


@dataclass(frozen=True)
class PublishedScores:
    """Published mean scores of one game of Atari 100k after 100k agent steps (400k frames), not normalised.

    The fields are the columns of `data/atari100k_scores.csv`; `data/README.md` gives the source of each, and says where
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
    """Returns the game with that name.

    Args:
        name: the snake-case name, the title, or a Gymnasium id, in upper or lower case: "road_runner", "RoadRunner",
            "ALE/RoadRunner-v5", "RoadRunnerNoFrameskip-v4". All of them give the same game, played the same way.

    Raises:
        InputError: ALE has no such game for one player; the message gives the nearest name.
    """
    game = _BY_FOLDED_NAME.get(_fold(name))
    if game is None:
        raise unknown("game", _plain(name), ALE_GAMES)
    return game


def human_normalized(game: Game | str, score: float) -> float | None:
    """Returns (score − random) / (human − random): 0 is a random agent, 1 the human tester.

    Source: Mnih et al. 2015 (the formula), Wang et al. 2016, Table 2 (the scores of both, after no-op starts).

    Args:
        game: the game, or any name that `get` accepts.
        score: unclipped return of a full game, or a mean of such returns.

    Returns:
        The normalised score; None for a game outside Atari-57.

    Raises:
        InputError: `game` is a name that `get` does not know.
    """
    known = get(game) if isinstance(game, str) else game
    if known.random is None or known.human is None:
        return None
    return (score - known.random) / (known.human - known.random)


@functools.cache
def published() -> Mapping[str, PublishedScores]:
    """Returns the published scores of each game of Atari 100k, by snake-case name, in the order of `GAMES`."""
    with (_DATA / "atari100k_scores.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["game"]: row for row in csv.DictReader(file)}
    return MappingProxyType(
        {
            name: PublishedScores(**{column: float(rows[game.title][column]) for column in PUBLISHED_COLUMNS})
            for name, game in GAMES.items()
        }
    )


def published_column(column: str) -> dict[str, float]:
    """Returns one column of the published scores, by the game's snake-case name.

    Args:
        column: one of `PUBLISHED_COLUMNS`, e.g. "der_paper".

    Raises:
        InputError: there is no such column; the message gives the nearest name.
    """
    if column not in PUBLISHED_COLUMNS:
        raise unknown("column of published scores", column, PUBLISHED_COLUMNS)
    return {name: asdict(scores)[column] for name, scores in published().items()}


_ID = re.compile(r"(?:ALE/)?(.*?)(?:NoFrameskip|Deterministic)?(?:-v\d+)?", re.IGNORECASE | re.DOTALL)


def _plain(name: str) -> str:
    """Removes the prefix and suffix of a Gymnasium id from a name."""
    match = _ID.fullmatch(name.strip())
    return match[1] if match else name


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", _plain(name).casefold())


def _read_games() -> dict[str, Game]:
    with (_DATA / "ale_games.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            (row, [float(row[who]) if row[who] else None for who in ("random", "human")])
            for row in csv.DictReader(file)
        ]
    return {row["game"]: Game(row["game"], row["title"], int(row["actions"]), *scores) for row, scores in rows}


ALE_GAMES: dict[str, Game] = _read_games()
"""Every game of ALE for one player, by name."""
GAMES: dict[str, Game] = {name: ALE_GAMES[name] for name in _ATARI_100K}
"""The 26 games of Atari 100k, by name."""
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "atari-100k": _ATARI_100K,
        "atari-57": tuple(name for name, game in ALE_GAMES.items() if game.human is not None),
    }
)
"""Groups of games, by the group's name."""

_BY_FOLDED_NAME: dict[str, Game] = {_fold(game.title): game for game in ALE_GAMES.values()}
