"""Makes standard output and error safe to use: closed, full, cut off by `head`, or unable to encode ε."""

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
    """A text stream that spells out characters that its encoding lacks."""

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
    """Replaces standard output and error by streams that accept any text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The caller closed it, so output is discarded.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif not (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf"):
            setattr(sys, name, cast(TextIO, _Readable(stream)))
        else:
            # A file's name may contain bytes that are not text.
            with suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")


def finish(code: int) -> int:
    """Flushes standard output. Returns the exit code: 1 if its reader is gone, 2 if the disk is full, else `code`."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would flush again at exit, and print an error of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            print(f"tensorrl: standard output: {error.strerror}", file=sys.stderr)
            return code or 2
        return code or 1
    return code


def spelled_out(text: str, encoding: str) -> str:
    """Returns the text with characters that `encoding` lacks spelled out: "ε" as "epsilon", "÷" as "/", lines as +-|.

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
