"""URIs that may hold a password: how they are shown, and how a process has the password all the same.

A password travels in the environment and nowhere else. What is passed on, kept and printed is the URI as `redact` shows
it; who connects gets the whole one back by `whole`, out of the environment of its own process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
_LONG = r"token|passw|secret|signature|credential|api[_-]?key|account[_-]?key|access[_-]?key"
_SHORT = r"sig|key|pwd|pass|auth|sas"
# Bounded, so that a long text costs time in proportion to its length.
_USER = r"[^\s/?#:@'\"<>]{0,200}"
_PASSWORD = r"[^\s'\"<>]{0,2000}"
_VALUE = r"[^\s&;#'\"<>,)\]}]*[^\s&;#'\"<>,)\]}:.]"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # What stands between the first colon and the last @, slashes included, because some clients take it so; of a
        # web server, digits before a slash are the port.
        rf"(?P<kept>\bhttps?://{_USER}:)(?!\d{{0,5}}(?:[/?#\s'\"<>]|$)){_PASSWORD}(?P<after>@)",
        rf"(?P<kept>\b(?!https?:)[a-z][a-z0-9+.-]{{0,30}}://{_USER}:){_PASSWORD}(?P<after>@)",
        # A user alone is a token where it is given to a web server.
        rf"(?P<kept>\bhttps?://)(?!\*{{3}}){_USER}(?P<after>@)",
        rf"(?P<kept>(?<![\w.%-])[\w.%-]{{0,40}}(?:{_LONG})[\w.%-]{{0,40}}=){_VALUE}(?P<after>)",
        rf"(?P<kept>[?&;](?:[\w.%-]{{0,40}}[_-])?(?:{_SHORT})=){_VALUE}(?P<after>)",
    )
)


def redact(text: str) -> str:
    """Returns a text with the secrets of the URIs in it hidden: `http://user:***@host`, `?token=***`."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<kept>{HIDDEN}\g<after>", text)
    return text


def holds_secret(uri: str) -> bool:
    """Returns whether a URI holds what `redact` hides."""
    return redact(uri) != uri


def whole(shown: str, variable: str) -> str:
    """Returns the URI that `redact` showed so, out of an environment variable where that holds it.

    Args:
        shown: a URI as `redact` gives it.
        variable: that may hold the whole one.

    Returns:
        The whole URI; `shown` itself where it hides nothing, or where this process does not have the secret.
    """
    held = os.environ.get(variable, "")
    return held if HIDDEN in shown and redact(held) == shown else shown


def split_login(uri: str) -> tuple[str, Mapping[str, str]]:
    """Splits user and password off a URI.

    Returns:
        The URI without them, and `user` and `password` as they were before they were quoted; empty where it has none.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri, {}
    login, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return uri, {}
    user, _, password = login.partition(":")
    return parts._replace(netloc=host).geturl(), {"user": unquote(user), "password": unquote(password)}
