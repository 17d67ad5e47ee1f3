"""Whether an error means that the disk is full, whoever raised it."""

from __future__ import annotations

import errno

_SAID = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_NUMBERS = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, says that a device has no space left.

    Libraries in C++ and Rust (Arrow, safetensors) say so in words only.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _NUMBERS:
            return True
        if any(words in str(current) for words in _SAID):
            return True
        current = current.__cause__ or current.__context__
    return False
