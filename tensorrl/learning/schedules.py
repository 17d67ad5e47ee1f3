"""Quantities that change over training, as functions of agent steps."""

from __future__ import annotations


def linear(start: float, end: float, step: int, *, begin: int, duration: int) -> float:
    """Goes from `start` at agent step `begin` to `end` at `begin + duration`, constant before and after."""
    if duration <= 0:
        return end if step >= begin else start
    fraction = min(max((step - begin) / duration, 0.0), 1.0)
    return start + fraction * (end - start)
