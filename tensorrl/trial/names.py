"""Names that come from outside: from a remote's listing, a manifest, a list of cells.

Code that joins such a name to a folder uses this module, so that no name points outside that folder.
"""

from __future__ import annotations

from pathlib import Path

from tensorrl.errors import InputError, shown

_LONGEST_PART = 255


def is_part(part: str) -> bool:
    """Returns whether a text is one part of a name that `inner` lets through."""
    if part in ("", ".", "..") or "\\" in part or not part.isprintable():
        return False
    # Surrogates, which are what Python makes of bytes that are not UTF-8, are not printable.
    return len(part.encode()) <= _LONGEST_PART


def inner(name: str, *, where: str) -> str:
    """Returns a name, which is a path with slashes, if it stays below whatever folder it is joined to.

    Args:
        name: what came from outside.
        where: what held it, for the error.

    Raises:
        InputError: the name is empty, absolute, or has a part that is empty, `.`, `..`, over 255 bytes long or holds
            a backslash, a control character or a character that UTF-8 cannot write.
    """
    if not isinstance(name, str) or not all(is_part(part) for part in name.split("/")):
        raise InputError(f"{where}: holds the name {shown(name)} (allowed: a relative path without . and ..)")
    return name


def inner_part(name: str, *, where: str) -> str:
    """As `inner`, for a name without slashes.

    Raises:
        InputError: see `inner`; or the name has a slash.
    """
    if "/" in inner(name, where=where):
        raise InputError(f"{where}: holds the name {shown(name)} (allowed: a name without slashes)")
    return name


def inner_path(folder: Path, name: str, *, where: str) -> Path:
    """Returns the path of a name from outside below a folder.

    Args:
        folder: the folder; it may itself be a symbolic link.
        name: what came from outside. Nothing need be there.
        where: what held it, for the error.

    Raises:
        InputError: see `inner`; or a symbolic link on the way leads out of the folder.
    """
    path = folder / inner(name, where=where)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        inside = False
    if not inside:
        raise InputError(f"{where}: {shown(name)} is a symbolic link that leads out of {folder}")
    return path
