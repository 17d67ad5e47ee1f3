"""The sections of a report: what stands in each, and what is left out of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tensorrl.analysis import (
    learning_figure,
    pooled_spectra,
    score_figures,
    score_tables,
    scoreboard,
    spectrum_figure,
    style,
)
from tensorrl.analysis import paper_figures as figures
from tensorrl.analysis import paper_tables as tables
from tensorrl.analysis.page import Picture
from tensorrl.analysis.records import SweepRecord
from tensorrl.analysis.scoreboard import PROTOCOLS, Block
from tensorrl.analysis.table_formats import Table
from tensorrl.trial.folder import spectrum_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_1_GAME = "road_runner"

MEANINGS: Mapping[str, str] = {
    "Human-normalised score": "(score − random) ÷ (human − random), so that games with different scores can be "
    "averaged: 0 is an agent that acts at random, 1 a professional tester.",
    "Mean": "the average over games of the average over a game's runs. One game with a very high score can decide it.",
    "Median": "the middle one of the games' averages. Half of the games could be at 0 and it would not show.",
    "IQM (interquartile mean)": "the average of the middle half of all runs of all games. It is steadier than the "
    "median, and no single game decides it.",
    "Optimality gap": "how far runs stay below the human tester on average, where those above count as equal. Less is "
    "better.",
    "Mean ÷ another agent's": "the agent's mean over that of the agent it is compared with: 1.09 is “109 % of it”. "
    "It is left out where the other's mean is not clearly above a random agent's.",
    "Probability of improvement": "how often a run of one agent scores higher than a run of the other on the same "
    "game, ties half, averaged over games. 0.5 says that neither is better; it does not say by how much.",
    "Performance profile": "for each score, the share of runs and games that reach more. A curve that lies above "
    "another everywhere is better at every level.",
    "95 % interval": "the middle 95 % of the values that the figure takes when runs are drawn again, with replacement, "
    "within each game (stratified bootstrap). It says how far the figure may move with other seeds on these games. "
    "Intervals of two agents that overlap do not tell them apart; with three runs a game or fewer they are too narrow.",
    "± in tables 1 and 2": "the standard deviation of a game's runs, not of their mean.",
}
"""What the figures of a report say, by the name they have there."""


def scores(record: SweepRecord, block: Block, left_out: list[str]) -> Iterator[Table | Picture]:
    """Aggregates, and comparisons of the agents; what there are too few cells for is added to `left_out`."""
    if not block:
        known = len(scoreboard.without_human_score(record)) < len(record.games)
        reason = "no game is finished by every agent" if known else "no game has a published human score"
        left_out.append(f"Aggregates and their figures: {reason}.")
        return
    found = {protocol: scoreboard.normalized(record, block, protocol) for protocol in PROTOCOLS}
    size, against = scoreboard.sizes(record), scoreboard.baseline(block)
    estimates = {protocol: score_tables.aggregate_estimates(found[protocol]) for protocol in PROTOCOLS}
    for protocol in PROTOCOLS:
        ratios = score_tables.ratio_estimates(found[protocol], against)
        yield score_tables.aggregate_table(estimates[protocol], ratios, size, block, protocol)
    yield _picture(
        "aggregates",
        "Aggregates of human-normalised scores (0 a random agent, 1 the human tester); bars are 95 % intervals.",
        score_figures.draw_aggregates(estimates, block),
    )
    if len(block.labels) < 2:
        left_out.append("Comparisons between agents, and score against compression ratio: there is one agent only.")
        return
    yield _picture(
        "frontier",
        "Score against compression ratio.",
        score_figures.draw_frontier(estimates, size, block, scoreboard.reference(record)),
    )
    kfac = [
        label
        for label in block.labels
        if any(cell.trial.get("settings", {}).get("optimizer") == "kfac" for cell in record.of(label))
    ]
    yield _picture("profiles", "Performance profiles.", score_figures.draw_profiles(found, block, kfac))
    improvements = {protocol: score_tables.improvement_estimates(found[protocol]) for protocol in PROTOCOLS}
    yield _picture(
        "improvement",
        f"Probability of improvement over {against}.",
        score_figures.draw_improvement(improvements, block),
    )
    for protocol in PROTOCOLS:
        yield score_tables.improvement_table(improvements[protocol], block, protocol)


def paper_tables(record: SweepRecord, block: Block, left_out: list[str]) -> Iterator[Table]:
    """Tables 1 and 2; one that the sweep has no variant of is added to `left_out`."""
    for shape in tables.TABLES:
        made = [tables.paper_table(shape, record, block, protocol) for protocol in PROTOCOLS]
        for table in made:
            if table is not None:
                yield table
        if made[0] is None:
            left_out.append(f"{shape.title.partition(':')[0]}: the sweep has none of {', '.join(shape.variants)}.")


def learning_curves(record: SweepRecord) -> Iterator[Picture]:
    """Returns of training games on each game, some games a picture."""
    groups = learning_figure.groups(record)
    for place, group in enumerate(groups, 1):
        name = "learning-curves" if len(groups) == 1 else f"learning-curves-{place}"
        yield _picture(
            name,
            "Returns of training games (with the exploration of training), mean over the finished runs of an agent; "
            "bands reach from the lowest run to the highest.",
            learning_figure.draw(record, group),
        )


def paper_figures(record: SweepRecord, left_out: list[str]) -> Iterator[Picture]:
    """Figures 1, 3 and 4; one that the sweep has no cells for is added to `left_out`."""
    pictures: Sequence[tuple[str, Callable[[SweepRecord], Picture | None], str]] = (
        ("Figure 1", _figure_1, f"the sweep has no spectra of {FIGURE_1_GAME}"),
        ("Figure 3", _figure_3, f"the sweep has no reports of {figures.FAMILY} on {figures.GAME}"),
        ("Figure 4", _figure_4, f"the sweep has no factorised {figures.FAMILY} on {figures.GAME}"),
    )
    for title, draw, lacking in pictures:
        picture = draw(record)
        if picture is None:
            left_out.append(f"{title}: {lacking}.")
        else:
            yield picture


def _figure_1(record: SweepRecord) -> Picture | None:
    folders = {
        cell.key: cell.folder for cell in record.cells if cell.game == FIGURE_1_GAME and spectrum_files(cell.folder)
    }
    if not folders:
        return None
    runs = pooled_spectra.load_runs(folders.values())
    with tempfile.TemporaryDirectory() as draft:
        stem = Path(draft) / "figure1"
        for suffix in spectrum_figure.SUFFIXES:
            spectrum_figure.draw(runs, stem.with_suffix(suffix))
        files = style.read_pictures(stem)
    return Picture(
        "figure1",
        "Figure 1: singular values of the value stream's hidden layer during training, pooled over runs "
        "(the layer is not square; σ² are the eigenvalues of W Wᵀ).",
        files,
    )


def _figure_3(record: SweepRecord) -> Picture | None:
    cells = figures.pong_cells(record)
    if not cells:
        return None
    drawn = figures.draw_figure_3(cells, record.labels)
    return _picture("figure3", "Figure 3: prioritized tensorized DQN on Pong, by compression of all weights.", drawn)


def _figure_4(record: SweepRecord) -> Picture | None:
    cells = [cell for cell in figures.pong_cells(record) if cell.variant != figures.FAMILY]
    if not cells:
        return None
    drawn = figures.draw_figure_4(figures.typical_run(cells))
    return _picture("figure4", "Figure 4: a typical single run of the most compressed tensorized DQN.", drawn)


def _picture(name: str, title: str, figure: Figure) -> Picture:
    return Picture(name, title, style.render(figure))
