"""Scores of a sweep's finished cells, and the block of games and runs on which its agents can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tensorrl import games
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.statistics import Scores
from tensorrl.trial.cell import CellStatus

BASELINE = "rainbow"


@dataclass(frozen=True)
class Protocol:
    """A way of scoring an agent.

    Attributes:
        name: for files.
        title: for people.
        field: of `result.json`.
        meaning: one sentence.
    """

    name: str
    title: str
    field: str
    meaning: str


PAPER = Protocol(
    "paper",
    "the paper's protocol",
    "score",
    "mean of nine full games, three each after 80, 90 and 100 % of the agent steps",
)
FINAL = Protocol("final", "games at the end", "final_score", "mean of 100 full games after the last agent step")
PROTOCOLS = (PAPER, FINAL)


@dataclass(frozen=True)
class Block:
    """The rectangle of games and runs that every compared agent has finished.

    Attributes:
        labels: the agents compared, in the sweep's order.
        games: names of the games.
        runs: of each agent on each game: those of the first finished seeds.
        left_out: agents with finished cells on fewer than half of the games, which are not compared.
        unused: finished cells of the compared agents that lie outside the rectangle.
    """

    labels: tuple[str, ...]
    games: tuple[str, ...]
    runs: int
    left_out: tuple[str, ...]
    unused: tuple[CellStatus, ...]

    def __bool__(self) -> bool:
        return bool(self.labels and self.games and self.runs)


def finished(record: SweepRecord) -> dict[tuple[str, str], list[CellStatus]]:
    """Finished cells by label and game, ordered by seed."""
    held: dict[tuple[str, str], list[CellStatus]] = {}
    for cell in sorted(record.cells, key=lambda cell: cell.seed):
        if cell.state == "finished" and all(protocol.field in cell.result for protocol in PROTOCOLS):
            held.setdefault((cell.label, cell.game), []).append(cell)
    return held


def without_human_score(record: SweepRecord) -> list[str]:
    """The games whose scores cannot be normalised, for want of a published human score."""
    return [game for game in record.games if games.get(game).human is None]


def choose_block(record: SweepRecord) -> Block:
    """Finds the largest rectangle (games × runs) that is complete for every agent compared; of equals, the wider.

    Games without a published human score are left aside: their scores cannot be normalised.

    Agents on different games, or games with different numbers of runs, would not be comparable: a mean over whatever
    happens to be finished favours who has not yet played the hard games.
    """
    held = finished(record)
    apart = without_human_score(record)
    all_games = [game for game in record.games if game not in apart]
    count: dict[str, dict[str, int]] = {
        label: {game: len(held.get((label, game), ())) for game in all_games} for label in record.labels
    }
    labels = [label for label in count if 2 * sum(map(bool, count[label].values())) >= len(all_games)]
    most = max((number for label in labels for number in count[label].values()), default=0)
    rectangles = [
        (runs, [game for game in all_games if all(count[label][game] >= runs for label in labels)])
        for runs in range(1, most + 1)
    ]
    runs, chosen = max(rectangles, key=lambda each: (each[0] * len(each[1]), len(each[1])), default=(0, []))
    if not chosen:
        runs, labels = 0, []
    unused = [
        cell
        for (label, game), cells in held.items()
        if label in labels
        for cell in (cells[runs:] if game in chosen else cells)
    ]
    left_out = [label for label in record.labels if label not in labels]
    return Block(tuple(labels), tuple(chosen), runs, tuple(left_out), tuple(unused))


def normalized(record: SweepRecord, block: Block, protocol: Protocol) -> dict[str, Scores]:
    """Human-normalised scores (runs, games) of every agent of a block."""
    held = finished(record)
    return {
        label: np.array(
            [
                [
                    # A block has no game without one.
                    games.human_normalized(game, float(cell.result[protocol.field])) or 0.0
                    for cell in held[label, game][: block.runs]
                ]
                for game in block.games
            ]
        ).T
        for label in block.labels
    }


def baseline(block: Block) -> str:
    """The agent that others are compared with: data-efficient Rainbow, or else the sweep's first."""
    return BASELINE if BASELINE in block.labels else block.labels[0]


def reference(record: SweepRecord) -> str:
    """Whose coefficients a compression ratio divides: rainbow's, or for Nature's torso those of the dense network.

    The sweep itself need not have it.
    """
    torsos = {cell.trial.get("settings", {}).get("torso") for cell in record.cells}
    return "the dense network" if "nature" in torsos else BASELINE


@dataclass(frozen=True)
class Size:
    """Learned coefficients of an agent over its games.

    Attributes:
        fewest: over games.
        most: over games.
        ratio: compression ratio, geometric mean over games.
    """

    fewest: int
    most: int
    ratio: float


def sizes(record: SweepRecord) -> dict[str, Size]:
    """Sizes of the agents that have been begun, by label."""
    found = {}
    for label in record.labels:
        by_game: Mapping[str, CellStatus] = {
            cell.game: cell for cell in record.of(label) if {"coefficients", "compression_ratio"} <= cell.trial.keys()
        }
        if by_game:
            numbers = [int(cell.trial["coefficients"]) for cell in by_game.values()]
            found[label] = Size(min(numbers), max(numbers), _geometric_mean(list(by_game.values())))
    return found


def _geometric_mean(cells: Sequence[CellStatus]) -> float:
    return math.exp(sum(math.log(cell.trial["compression_ratio"]) for cell in cells) / len(cells))
