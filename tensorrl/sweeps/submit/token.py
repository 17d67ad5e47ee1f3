"""Finds the token that a Ray cluster may ask for, where Ray keeps it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MODE_VARIABLE = "RAY_AUTH_MODE"
_TOKEN_VARIABLE, _PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class Token(NamedTuple):
    """A token for a Ray cluster."""

    value: str
    """The secret."""
    place: str
    """Where the token was found, in words."""

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers of a request to Ray's dashboard."""
        return {"Authorization": f"Bearer {self.value}"}


def find_token() -> Token | None:
    """Returns the token that Ray itself would use, or None if there is none.

    Ray takes it from `RAY_AUTH_TOKEN`, from the file that `RAY_AUTH_TOKEN_PATH` names, or from `~/.ray/auth_token`, in
    this order. Source: https://docs.ray.io/en/latest/ray-security/token-auth.html.
    """
    value = os.environ.get(_TOKEN_VARIABLE, "").strip()
    if value:
        return Token(value, _TOKEN_VARIABLE)
    given = os.environ.get(_PATH_VARIABLE)
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Token(value, str(path)) if value else None
