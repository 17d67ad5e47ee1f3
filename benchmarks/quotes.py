"""Figures as the prose of docs/ quotes them, from a sweep's finished cells.

A text such as docs/results/answers.md names them in double braces, `{{ pilot.gap("trl-5x", "rainbow") }}`, and
`python -m benchmarks.results` puts them in, so no figure of a finished cell is typed by hand.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2

from benchmarks import foretold, overfitting
from tensorrl.analysis import answers, scoreboard
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import PROTOCOLS, Protocol
from tensorrl.analysis.statistics import Estimate, Scores, estimate_pair, improvement
from tensorrl.errors import InputError
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.folder import read_progress

Pair = tuple[str, str]
"""Labels of an agent and of the one that it is compared with."""

_WIDTH = 120
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Quotes:
    """A sweep's figures as text.

    Where a method takes `by`, it is the name of a protocol: "final", 100 games at the end, or "paper", nine games.

    Args:
        record: of the sweep, with its runs' progress lines.
    """

    def __init__(self, record: SweepRecord) -> None:
        self._record = record
        self._held = scoreboard.finished(record)

    @property
    def finished(self) -> str:
        """How many cells are finished, "50 of 72"."""
        return f"{sum(map(len, self._held.values()))} of {len(self._record.cells)}"

    def scores(self, label: str, game: str, by: str = "final", seeds: Sequence[int] | None = None) -> str:
        """Scores of an agent on a game in the order of seeds, "389 and 377"; all seeds unless some are named."""
        field = _protocol(by).field
        found = [c.result[field] for c in self._cells(label, game) if seeds is None or c.seed in seeds]
        if not found:
            raise LookupError(f"no finished cell of {label} on {game}")
        return _listed([_signed(score, 0 if abs(score) >= 50 else 1) for score in found])

    def returns(self, label: str, game: str, begin: int, end: int) -> str:
        """Mean return of training games in the reports between two agent steps, over an agent's runs on a game."""
        lines = [line for cell in self._cells(label, game) for line in read_progress(cell.folder)]
        found = [line["episode_return"] for line in lines if begin < line["agent_steps"] <= end and _played(line)]
        if not found:
            raise LookupError(f"no training games of {label} on {game} between {begin} and {end}")
        return _signed(statistics.fmean(found), 1)

    def gap(self, ours: str, theirs: str, by: str = "final") -> str:
        """Difference of human-normalised means with its interval, "−0.41 (−0.62 to −0.21)"."""
        return _estimate(answers.difference, *self._normalized(ours, theirs, by))

    def chance(self, ours: str, theirs: str, by: str = "final") -> str:
        """Probability of improvement with its interval, "0.15 (0.00 to 0.37)"."""
        return _estimate(improvement, *self._normalized(ours, theirs, by))

    def extent(self, ours: str, theirs: str) -> str:
        """On what the two are compared, "three games, two runs"."""
        block = self._block(ours, theirs)
        games, runs = len(block.games), block.runs
        return f"{_word(games)} game{'s' * (games != 1)}, {_word(runs)} run{'s' * (runs != 1)}"

    def runs_to_tell(self, ours: str, theirs: str, by: str = "final") -> int | None:
        """Runs of each agent on each game that would show a difference of a tenth of `theirs`."""
        return answers.runs_by_spread(*self._normalized(ours, theirs, by))

    def lower(self, *pairs: Pair, by: str = "final") -> str:
        """In how many runs of the same game and seed the first agent scores less than the second, "16 of 18"."""
        field = _protocol(by).field
        return _count([ours.result[field] < theirs.result[field] for ours, theirs in self._twins(pairs)])

    def overfits_more(self, *pairs: Pair) -> str:
        """In how many runs of the same game and seed the first agent over-fits more than the second."""
        return _count([_excess(ours) > _excess(theirs) for ours, theirs in self._twins(pairs)])

    def excess(self, *labels: str) -> str:
        """Least and most excess of the held-out loss over all runs of some agents, "0.021 to 0.109"."""
        found = [_excess(cell) for label in labels for game in self._record.games for cell in self._cells(label, game)]
        return f"{_signed(min(found), 3)} to {_signed(max(found), 3)}"

    def time_share(self, *pairs: Pair) -> str:
        """Processor time of the first agent's runs over that of the second's, "0.65 to 1.00, median 0.77"."""
        name = "processor_seconds"
        found = [ours.result[name] / theirs.result[name] for ours, theirs in self._twins(pairs)]
        return f"{min(found):.2f} to {max(found):.2f}, median {statistics.median(found):.2f}"

    @property
    def foretold(self) -> str:
        """How many estimates of `tensorrl sweep --check` were near what the cells took, "41 of 50"."""
        return foretold.within(self._record)

    def _cells(self, label: str, game: str) -> list[CellStatus]:
        return self._held.get((label, game), [])

    def _twins(self, pairs: Sequence[Pair]) -> list[tuple[CellStatus, CellStatus]]:
        found = [
            (mine, other)
            for ours, theirs in pairs
            for game in self._record.games
            for mine in self._cells(ours, game)
            for other in self._cells(theirs, game)
            if mine.seed == other.seed
        ]
        if not found:
            raise LookupError(f"no finished cells of {pairs} with the same game and seed")
        return found

    def _block(self, ours: str, theirs: str) -> scoreboard.Block:
        block = scoreboard.choose_block(self._of(ours, theirs))
        if set(block.labels) != {ours, theirs}:
            raise LookupError(f"{ours} and {theirs} have no finished games in common")
        return block

    def _of(self, ours: str, theirs: str) -> SweepRecord:
        return SweepRecord(self._record.name, [*self._record.of(ours), *self._record.of(theirs)])

    def _normalized(self, ours: str, theirs: str, by: str) -> tuple[Scores, Scores]:
        found = scoreboard.normalized(self._of(ours, theirs), self._block(ours, theirs), _protocol(by))
        return found[ours], found[theirs]


def of_sweeps(records: Sequence[SweepRecord]) -> dict[str, Quotes]:
    """The quotes of some sweeps by name, and "all": the cells of all, their agents named `SWEEP/AGENT`."""
    cells = [
        replace(status, cell=replace(status.cell, variant=f"{record.name}/{status.variant}"))
        for record in records
        for status in record.cells
    ]
    return {**{record.name: Quotes(record) for record in records}, "all": Quotes(SweepRecord("all", cells))}


def fill(text: str, quotes: Mapping[str, Quotes]) -> str:
    """A text with its figures, its paragraphs and lists wrapped anew.

    Args:
        text: Markdown of paragraphs and lists whose items begin with "- ".
        quotes: the sweeps, by the names that the text has for them.

    Raises:
        InputError: a sweep or figure that there is not, or a figure for which no cell is finished.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    try:
        filled = environment.from_string(text).render(dict(quotes))
    except (jinja2.TemplateError, LookupError) as error:
        raise InputError(str(error)) from error
    return "\n\n".join(_wrapped(part) for part in filled.strip().split("\n\n")) + "\n"


def _wrapped(part: str) -> str:
    wrap = textwrap.TextWrapper(_WIDTH, break_on_hyphens=False, break_long_words=False)
    if not part.startswith("- "):
        return part if part.startswith(("#", "|", "```")) else wrap.fill(" ".join(part.split()))
    wrap.subsequent_indent = "  "
    return "\n".join(wrap.fill("- " + " ".join(item.split())) for item in part.removeprefix("- ").split("\n- "))


def _protocol(name: str) -> Protocol:
    return next(protocol for protocol in PROTOCOLS if protocol.name == name)


def _played(line: Mapping[str, Any]) -> bool:
    return line.get("episode_return") is not None


def _excess(cell: CellStatus) -> float:
    found = overfitting.excess(cell.folder, int(cell.trial["steps"]))
    if found is None:
        raise LookupError(f"{cell.folder.name} has not reported losses held out")
    return found


def _estimate(statistic: Callable[[Scores, Scores], Scores], ours: Scores, theirs: Scores) -> str:
    found: Estimate = estimate_pair(statistic, ours, theirs)
    return f"{_signed(found.value)} ({_signed(found.low)} to {_signed(found.high)})"


def _signed(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def _count(held: Sequence[bool]) -> str:
    return f"{sum(held)} of {len(held)}"


def _word(number: int) -> str:
    return _WORDS[number] if number < len(_WORDS) else str(number)


def _listed(texts: Sequence[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last
