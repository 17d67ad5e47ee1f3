"""URIs that may hold a password: how to show them, and how a process still gets the password.

A password is passed on only in the environment. Everything that is passed on otherwise, stored or printed is the URI
as `redact_uri` returns it. A process that connects gets the full URI back from its own environment, by `whole`.

In a text, a password with a space or a quotation mark has no visible end. `redact` therefore also knows the URIs of
this process's environment, and hides them wherever they stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
_LONG = r"token|passw|secret|signature|credential|api[_-]?key|account[_-]?key|access[_-]?key"
_SHORT = r"sig|key|pwd|pw|pass|auth|sas|jwt"
# Bounded, so that the time is linear in the length of the text. A user may be a token of a thousand characters.
_USER = r"[^\s/?#:'\"<>]{0,4000}"
_PLAIN_USER = r"[^\s/?#:@'\"<>]{0,4000}"
_PASSWORD = r"(?:(?!://)[^\s'\"<>]){0,4000}"
_NO_IPV6 = r"(?!\[[0-9a-f:.]*\](?:[:/?#\s'\"<>]|$))"
_NO_PORT = r"(?!\d{0,5}(?:[/?#\s'\"<>]|$))"
_VALUE = r"[^\s&;#'\"<>,)\]}]*[^\s&;#'\"<>,)\]}:.]"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # With an empty password, the user is a token.
        rf"(?P<kept>\bhttps?://)(?!\*{{3}}){_USER}(?P<after>:@)",
        # The password is everything between the first colon and the last @, slashes included, because some clients
        # parse it like this. In a web server's URI, digits before a slash are the port.
        rf"(?P<kept>\bhttps?://{_NO_IPV6}{_USER}:){_NO_PORT}{_PASSWORD}(?P<after>@)",
        # Elsewhere a password may begin like a port, but for what follows a host (`abfss://container@host:443/`).
        rf"(?P<kept>\b(?!https?:)[a-z][a-z0-9+.-]{{0,30}}://(?:{_PLAIN_USER}:|{_USER}:{_NO_PORT})){_PASSWORD}(?P<after>@)",
        # In a web server's URI, a user without a password is a token.
        rf"(?P<kept>\bhttps?://)(?!\*{{3}}){_USER}(?P<after>@)",
        rf"(?P<kept>(?<![\w.%-])[\w.%-]{{0,40}}(?:{_LONG})[\w.%-]{{0,40}}=){_VALUE}(?P<after>)",
        rf"(?P<kept>[?&;](?:[\w.%-]{{0,40}}[_-])?(?:{_SHORT})=){_VALUE}(?P<after>)",
        # A whole connection string as the value of a query (`odbc_connect=…%3BPWD%3D…`).
        rf"(?P<kept>(?:%3B|%26|%20|\+|%7B)(?:{_SHORT}|[\w-]{{0,40}}(?:{_LONG})[\w-]{{0,40}})%3D)"
        r"[^\s&;#'\"<>%]+(?P<after>)",
    )
)
# Of a text that is one URI: everything up to the last @ belongs to the login, whatever it is.
_WHOLE = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"\A(?P<kept>\s*https?://)(?!\*{3})[^/?#:@]+(?P<after>:@)",
        rf"\A(?P<kept>\s*https?://{_NO_IPV6}[^/?#:]*:){_NO_PORT}.*(?P<after>@)",
        rf"\A(?P<kept>\s*(?!https?:)[a-z][a-z0-9+.-]*://(?:[^/?#:@]*:|[^/?#:]*:{_NO_PORT})).*(?P<after>@)",
        r"\A(?P<kept>\s*https?://)(?!\*{3})[^/?#:]*(?P<after>@)",
        # Without a scheme: user:password@host.
        r"\A(?P<kept>\s*[^\s/:@]+:)(?!\*{3}@)[^/@]+(?P<after>@)",
    )
)
_HOLDERS = ("MLFLOW_TRACKING_URI", "TENSORRL_REMOTE")


def redact(text: str) -> str:
    """Returns a text with the secrets of the URIs in it hidden: `http://user:***@host`, `?token=***`."""
    for held in filter(None, map(os.environ.get, _HOLDERS)):
        if held in text:
            text = text.replace(held, redact_uri(held))
    return _hidden(text, _PATTERNS)


def redact_uri(uri: str) -> str:
    """As `redact`, for a text that is one URI and nothing else. Its password may hold any character."""
    return _hidden(uri, (*_WHOLE, *_PATTERNS))


def _hidden(text: str, patterns: Iterable[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub(rf"\g<kept>{HIDDEN}\g<after>", text)
    return text


def holds_secret(uri: str) -> bool:
    """Returns whether a URI holds what `redact_uri` hides."""
    return redact_uri(uri) != uri


def whole(shown: str, variable: str) -> str:
    """Returns the full URI behind a redacted one, if an environment variable holds it.

    Args:
        shown: a URI as `redact_uri` returns it.
        variable: the environment variable that may hold the full URI.

    Returns:
        The full URI, or `shown` itself if it hides nothing or if this process does not have the secret.
    """
    held = os.environ.get(variable, "")
    return held if HIDDEN in shown and redact_uri(held) == shown else shown


def split_login(uri: str) -> tuple[str, Mapping[str, str]]:
    """Splits user and password off a URI.

    Returns:
        The URI without them, and the unquoted `user` and `password`; empty if the URI has none.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return _split_unquoted(uri)
    login, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return _split_unquoted(uri)
    user, _, password = login.partition(":")
    return parts._replace(netloc=host).geturl(), {"user": unquote(user), "password": unquote(password)}


def _split_unquoted(uri: str) -> tuple[str, Mapping[str, str]]:
    """Splits off a login whose password holds `/`, `?` or `#` as they are, which a parser takes for the host's end."""
    found = _WHOLE[1].match(uri)
    if found is None:
        return uri, {}
    scheme, _, user = found["kept"].rpartition("://")
    password = uri[len(found["kept"]) : found.end() - 1]
    return f"{scheme.strip()}://{uri[found.end() :]}", {"user": unquote(user[:-1]), "password": unquote(password)}
