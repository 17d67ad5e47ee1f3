"""URIs that may hold a password: how to show them, and how a process still gets the password.

A password is passed on only in the environment. Everything that is passed on otherwise, stored or printed is the URI
as `redact` returns it. A process that connects gets the full URI back from its own environment, by `whole`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
_LONG = r"token|passw|secret|signature|credential|api[_-]?key|account[_-]?key|access[_-]?key"
_SHORT = r"sig|key|pwd|pass|auth|sas"
# Bounded, so that the time is linear in the length of the text.
_USER = r"[^\s/?#:@'\"<>]{0,200}"
_PASSWORD = r"[^\s'\"<>]{0,2000}"
_VALUE = r"[^\s&;#'\"<>,)\]}]*[^\s&;#'\"<>,)\]}:.]"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # The password is everything between the first colon and the last @, slashes included, because some clients
        # parse it like this. In a web server's URI, digits before a slash are the port.
        rf"(?P<kept>\bhttps?://{_USER}:)(?!\d{{0,5}}(?:[/?#\s'\"<>]|$)){_PASSWORD}(?P<after>@)",
        rf"(?P<kept>\b(?!https?:)[a-z][a-z0-9+.-]{{0,30}}://{_USER}:){_PASSWORD}(?P<after>@)",
        # In a web server's URI, a user without a password is a token.
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
    """Returns the full URI behind a redacted one, if an environment variable holds it.

    Args:
        shown: a URI as `redact` returns it.
        variable: the environment variable that may hold the full URI.

    Returns:
        The full URI, or `shown` itself if it hides nothing or if this process does not have the secret.
    """
    held = os.environ.get(variable, "")
    return held if HIDDEN in shown and redact(held) == shown else shown


def split_login(uri: str) -> tuple[str, Mapping[str, str]]:
    """Splits user and password off a URI.

    Returns:
        The URI without them, and the unquoted `user` and `password`; empty if the URI has none.
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
