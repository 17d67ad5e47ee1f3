"""How figures look: agents told apart by colour, dash and mark alike, and files that depend on the data alone.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart, without their yellow, too faint on
white, with a brown and a grey. In black and white, dashes and marks remain.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
_PNG, _SVG = "png", "svg"


class Look(NamedTuple):
    """How an agent is drawn: colour, dashes (Matplotlib's line style) and mark."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    mark: str


_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PURPLE, _BROWN, _GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#6B3E00", "#777777",
)  # fmt: skip
_LONG, _DOTS, _MIXED, _SHORT = (0, (7.0, 2.0)), (0, (1.2, 1.6)), (0, (6.0, 1.5, 1.2, 1.5)), (0, (3.0, 1.6))
_KNOWN = {
    "rainbow": Look(_BLACK, "-", "o"),
    "denoised": Look(_BLUE, _LONG, "s"),
    "trl-2.5x": Look(_SKY, _MIXED, "^"),
    "trl-5x": Look(_GREEN, _SHORT, "v"),
    "trl-10x": Look(_PURPLE, _DOTS, "D"),
    "kfac-denoised": Look(_BROWN, _LONG, "P"),
    "kfac-trl-5x": Look(_ORANGE, _SHORT, "X"),
    "kfac-trl-10x": Look(_RED, _DOTS, "<"),
    "scattering": Look(_GREY, _MIXED, "*"),
    "pong-dqn": Look(_BLACK, "-", "o"),
}
_COLOURS = (_BLUE, _ORANGE, _GREEN, _RED, _SKY, _PURPLE)
_DASHES = (_LONG, _MIXED, _SHORT, _DOTS)
_MARKS = ("s", "^", "D", "v", "P", "X", "<", "*", ">")


def look(label: str, place: int) -> Look:
    """The look of an agent: the same in every figure, and in every sweep for the paper's variants.

    Args:
        label: of the agent.
        place: of the agent among the sweep's, from 0.
    """
    if label in _KNOWN:
        return _KNOWN[label]
    return Look(_COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)], _MARKS[place % len(_MARKS)])


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, apart from Matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and SVG, by suffix; text is drawn as outlines, so that it needs no font where it is shown."""
    from matplotlib import rc_context

    pictures = {}
    for suffix, metadata in ((_PNG, {"Software": None}), (_SVG, {"Date": None})):
        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": "tensorrl", "svg.fonttype": "path"}):
            figure.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata)
        pictures[suffix] = buffer.getvalue()
    return pictures


def read_pictures(stem: Path) -> dict[str, bytes]:
    """Pictures that lie beside each other as `stem`.png and `stem`.svg."""
    return {suffix: stem.with_suffix(f".{suffix}").read_bytes() for suffix in (_PNG, _SVG)}
