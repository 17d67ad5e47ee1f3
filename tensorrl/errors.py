"""The error for bad input, and its wording: what, where, what is allowed, the nearest valid name."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any

from tensorrl.uris import redact

MOST_OF_A_VALUE = 200
"""Characters of a bad value that a message shows."""
_MOST_OF_A_MESSAGE = 1_600
_LONG_WORD = re.compile(r"\S{401,}")


class _Repr(reprlib.Repr):
    def repr_str(self, x: str, level: int) -> str:
        # Passwords are hidden before the text is cut, because a cut could remove what marks them as passwords.
        return super().repr_str(redact(x), level)


_REPR = _Repr()
_REPR.maxlevel = 3
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 12
_REPR.maxstring = _REPR.maxother = MOST_OF_A_VALUE
_REPR.maxlong = 60


class InputError(ValueError):
    """Bad input from a user or a file: the command line prints the message as one line and exits with code 2.

    The message is always printable and short, whatever names and values it quotes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Returns a text as one printable line: control characters are escaped, and a very long text loses its middle.

    Passwords of URIs in the text are hidden.
    """
    text = redact(text)
    text = _shortened(_LONG_WORD.sub(lambda word: _shortened(word[0], MOST_OF_A_VALUE), text), _MOST_OF_A_MESSAGE)
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return _shortened("".join(escaped), _MOST_OF_A_MESSAGE)


def shown(value: Any) -> str:
    """Returns a bad value as a message shows it: in Python's notation, at most `MOST_OF_A_VALUE` characters."""
    try:
        text = _REPR.repr(value)
    except ValueError:
        # Python refuses to print integers with thousands of digits.
        text = "a number of thousands of digits"
    return _shortened(text, MOST_OF_A_VALUE)


def unknown(kind: str, name: str, allowed: Iterable[str], *, where: str | None = None) -> InputError:
    """Returns the error for a `name` that is not among the `allowed` names of its `kind`.

    Args:
        kind: the kind of thing that is named, e.g. "game".
        name: the name that was given.
        allowed: every valid name.
        where: the file and field, or the option, with the name.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name[:MOST_OF_A_VALUE].lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    nearest = next((n for n in names if close and n.lower() == close[0]), None)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    listed = ", ".join(names) if len(names) <= 40 else f"one of {len(names)} names"
    place = f"{where}: " if where else ""
    return InputError(f"{place}unknown {kind} {shown(name)}{hint} (allowed: {listed})")


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]} ... {text[len(text) - (most - head - 5) :]}"
