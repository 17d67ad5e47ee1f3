"""Standard output and error as they are: closed, full, cut off by `head`, or without a letter for ε."""

from __future__ import annotations

import errno
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO, cast

_SIGNS = {
    "×": "x",
    "÷": "/",
    "·": "*",
    "…": "...",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+/-",
    "√": "sqrt",
    "²": "^2",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "•": "*",
}
_GREEK = ("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")


class _Readable(io.TextIOBase):
    """A text stream that spells out what its encoding has no letter for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write takes text, not {type(text).__name__}")
        self._stream.write(spelled_out(text, self.encoding))
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def make_readable() -> None:
    """Puts streams in the place of standard output and error that take any text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by whoever started us; what is printed goes nowhere.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif not (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf"):
            setattr(sys, name, cast(TextIO, _Readable(stream)))
        else:
            # A name of a file may hold bytes that are no text.
            with suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")


def finish(code: int) -> int:
    """Flushes standard output; returns the exit code: 1 where nobody reads it, 2 where it is full, else `code`."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again as it ends, and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            print(f"tensorrl: standard output: {error.strerror}", file=sys.stderr)
            return code or 2
        return code or 1
    return code


def spelled_out(text: str, encoding: str) -> str:
    """Returns a text that `encoding` can write: "ε" as "epsilon", "÷" as "/", frames of tables as + - |.

    Args:
        text: any text.
        encoding: name of a codec.
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_spelled_out(letter, encoding) for letter in text)
    return text


def _spelled_out(letter: str, encoding: str) -> str:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        pass
    else:
        return letter
    if letter in _SIGNS:
        return _SIGNS[letter]
    name = unicodedata.name(letter, "")
    if name.startswith(_GREEK):
        said = name.removeprefix(_GREEK[0]).removeprefix(_GREEK[1]).split()[0].lower()
        return said.capitalize() if name.startswith(_GREEK[1]) else said
    if name.startswith("BOX DRAWINGS"):
        across = any(word in name for word in ("HORIZONTAL", "LEFT", "RIGHT"))
        down = any(word in name for word in ("VERTICAL", "UP", "DOWN"))
        return "-" if across and not down else "|" if down and not across else "+"
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode("ascii")
    return plain or letter.encode("ascii", "backslashreplace").decode("ascii")
