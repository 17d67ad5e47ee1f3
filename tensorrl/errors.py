"""The one error a user can cause, and how it is worded: what, where, what is allowed, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside: the command line prints its message as one line and exits with code 2."""


def unknown(kind: str, name: str, allowed: Iterable[str], *, where: str | None = None) -> InputError:
    """Returns the error for a `name` that is not among the `allowed` names of its `kind`.

    Args:
        kind: what the name stands for, e.g. "game".
        name: what was given.
        allowed: every valid name.
        where: file and field, or option, that held the name.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    nearest = next((n for n in names if close and n.lower() == close[0]), None)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    listed = ", ".join(names) if len(names) <= 40 else f"one of {len(names)} names"
    place = f"{where}: " if where else ""
    return InputError(f"{place}unknown {kind} {name!r}{hint} (allowed: {listed})")
